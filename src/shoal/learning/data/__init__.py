"""Data: what peers learn from, and who holds which part of it.

In three lines, for 32 peers with skewed labels:

    dataset = load("fashion_mnist", fallback=True)
    data, shards = dirichlet(dataset.train, peers=32, seed=0, alpha=0.1)
    mine = data[shards[0]]
"""

from shoal.learning.data.dataset import Data, Dataset, Known, hold_out
from shoal.learning.data.external import from_hugging_face, from_torch
from shoal.learning.data.heavy_tail import barcoded, heavy_tail
from shoal.learning.data.images import BadIdx, DatasetNotFound, fashion_mnist, mnist
from shoal.learning.data.loaders import NAMES, digits, load
from shoal.learning.data.opposing import OpposingSignals, TwoLayerLinear, opposing, opposing_signals
from shoal.learning.data.partitions import (
    classes,
    contiguous,
    dirichlet,
    feature_shift,
    iid,
    label_counts,
    quantity,
    shards,
)
from shoal.learning.data.synthetic import Logistic, Point, logistic, logistic_loss, quadratic, quadratic_loss
from shoal.learning.data.text import text

__all__ = [
    "NAMES",
    "BadIdx",
    "Data",
    "Dataset",
    "DatasetNotFound",
    "Known",
    "Logistic",
    "OpposingSignals",
    "Point",
    "TwoLayerLinear",
    "barcoded",
    "classes",
    "contiguous",
    "digits",
    "dirichlet",
    "fashion_mnist",
    "feature_shift",
    "from_hugging_face",
    "from_torch",
    "heavy_tail",
    "hold_out",
    "iid",
    "label_counts",
    "load",
    "logistic",
    "logistic_loss",
    "mnist",
    "opposing",
    "opposing_signals",
    "quadratic",
    "quadratic_loss",
    "quantity",
    "shards",
    "text",
]
