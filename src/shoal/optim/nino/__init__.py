"""NiNo: forecasts of weights by a network over neurons. `NiNo` is the optimizer, `neural_graph` what it sees."""

from shoal.optim.nino.files import load, save
from shoal.optim.nino.graph import Kind, NeuralGraph
from shoal.optim.nino.network import GraphNowcaster, Nowcaster, Shape, SingleNowcaster
from shoal.optim.nino.nino import Forecast, NiNo, nino
from shoal.optim.nino.scaling import horizons, scaled, unscaled
from shoal.optim.nino.tracing import neural_graph

__all__ = [
    "Forecast",
    "GraphNowcaster",
    "Kind",
    "NeuralGraph",
    "NiNo",
    "Nowcaster",
    "Shape",
    "SingleNowcaster",
    "horizons",
    "load",
    "neural_graph",
    "nino",
    "save",
    "scaled",
    "unscaled",
]
