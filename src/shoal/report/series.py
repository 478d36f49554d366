"""From the rows of `metrics.csv` to what is compared: curves over peers, final values, the main metric."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from shoal.metrics import higher_is_better
from shoal.report.folder import Metrics, RunFolder, Stats
from shoal.report.units import MISSING, digits

Axis = Literal["time", "bytes", "round"]

_PREFERRED = ("accuracy", "perplexity", "loss")
_POINTS = 200


@dataclass(frozen=True)
class Metric:
    """How a metric is read: which way is better, and in what unit it is shown."""

    name: str

    @property
    def label(self) -> str:
        """The name in words."""
        return self.name.replace("_", " ")

    @property
    def percent(self) -> bool:
        """Whether values are fractions to be shown as percent."""
        return "accuracy" in self.name

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger value is a better one; of metrics not known by name the smaller is."""
        return higher_is_better(self.name)

    @property
    def scale(self) -> float:
        """What a stored value is multiplied by to be shown."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """The unit shown, with the space before it."""
        return " %" if self.percent else ""

    def number(self, value: float | None) -> str:
        """A value without its unit: one decimal for percent, three significant digits otherwise."""
        if value is None or not np.isfinite(value):
            return MISSING
        return f"{100 * value:.1f}" if self.percent else digits(value)

    def mean_and_spread(self, mean: float | None, std: float | None) -> str:
        """ "mean ± standard deviation" with the unit, or the mean alone."""
        if mean is None or std is None or not np.isfinite(mean + std):
            return self.show(mean)
        spread = f"{100 * std:.1f}" if self.percent else f"{std:.2g}"
        return f"{self.number(mean)} ± {spread}{self.unit}"

    def show(self, value: float | None) -> str:
        """A value with its unit."""
        text = self.number(value)
        return text if text == MISSING else text + self.unit


@dataclass(frozen=True)
class Curve:
    """A metric over one axis: mean over peers, 10th and 90th percentile; arrays of one length.

    `peers` is how many models were evaluated; with one, the three values are the same.
    """

    x: NDArray[np.float64]
    mean: NDArray[np.float64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    peers: int


def main_metric(runs: Iterable[RunFolder]) -> Metric | None:
    """The metric to compare `runs` by: accuracy, perplexity, loss or any; one that all have if there is."""
    measured = [list(dict.fromkeys([*(run.facts.summary or {}), *run.metrics.names])) for run in runs]
    measured = [names for names in measured if names]
    everything = list(dict.fromkeys(name for names in measured for name in names))
    shared = [name for name in everything if all(name in names for names in measured)]
    candidates = shared or everything
    preferred = [name for name in _PREFERRED if name in candidates]
    return next((Metric(name) for name in (*preferred, *candidates)), None)


def final_values(metrics: Metrics, name: str) -> dict[int, float]:
    """Each peer's last value of metric `name`, by virtual time; -1, the average model, is left out."""
    rows = metrics.peers.of(name)
    order = np.argsort(rows.time, kind="stable")
    return dict(zip(rows.peer[order].tolist(), rows.value[order].tolist(), strict=True))


def final_stats(run: RunFolder, metric: Metric) -> Stats:
    """The final figures of `metric`: the run's own summary, else over the peers' last values.

    Without values at peers, the average model's last value is the mean, and the rest is None. Values that are
    not finite are left out.
    """
    summary = (run.facts.summary or {}).get(metric.name)
    if summary is not None:
        return summary
    values = np.array(list(final_values(run.metrics, metric.name).values()))
    values = values[np.isfinite(values)]
    if len(values):
        return Stats(float(values.mean()), float(values.std()), float(values.min()), float(values.max()))
    rows = run.metrics.average.of(metric.name)
    return Stats(float(rows.value[np.argmax(rows.time)])) if len(rows) else Stats()


def curve(rows: Metrics, axis: Axis) -> Curve | None:
    """The rows of one metric as a curve over `axis`; None when nothing finite was measured.

    Peers need not be evaluated together: at every point each peer counts with its latest value so far, and
    the curve starts where half of the peers have one. At most 200 points are kept.
    """
    position = (rows.round if axis == "round" else rows.time).astype(np.float64)
    order = np.argsort(position, kind="stable")
    position, peer, value = position[order], rows.peer[order], rows.value[order]
    ticks = np.unique(position)
    ticks = ticks[np.unique(np.linspace(0, len(ticks) - 1, min(len(ticks), _POINTS)).round().astype(int))]
    latest = np.array([_latest(position[peer == id], value[peer == id], ticks) for id in np.unique(peer)])
    kept = np.isfinite(latest).sum(axis=0) >= max(1, len(latest) / 2) if len(latest) else np.zeros(0, bool)
    if not kept.any():
        return None
    latest = np.where(np.isfinite(latest), latest, np.nan)[:, kept]
    x = ticks[kept]
    if axis == "bytes":
        sent = np.maximum.accumulate(rows.bytes[order])
        x = sent[np.searchsorted(position, x, side="right") - 1].astype(np.float64)
    low, high = np.nanpercentile(latest, [10, 90], axis=0)
    return Curve(x, np.nanmean(latest, axis=0), low, high, len(latest))


def _latest(
    position: NDArray[np.float64], value: NDArray[np.float64], ticks: NDArray[np.float64]
) -> NDArray[np.float64]:
    index = np.searchsorted(position, ticks, side="right") - 1
    return np.where(index >= 0, value[index], np.nan)


@dataclass(frozen=True)
class Cost:
    """What a run spent until its mean first reached a target: virtual seconds, bytes, rounds."""

    time: float
    bytes: float
    round: float


def target(runs: Sequence[RunFolder], metric: Metric) -> float | None:
    """The value to race to: within 10 % of the best final mean; None when no run has a positive one."""
    finals = [final_stats(run, metric).mean for run in runs]
    finite = [mean for mean in finals if mean is not None and np.isfinite(mean) and mean > 0]
    if not finite:
        return None
    return 0.9 * max(finite) if metric.higher_is_better else 1.1 * min(finite)


def cost(run: RunFolder, metric: Metric, goal: float) -> Cost | None:
    """What `run` spent until its peers' mean (else its average model) first reached `goal`; None if never."""
    rows = run.metrics.peers.of(metric.name)
    rows = rows if len(rows) else run.metrics.average.of(metric.name)
    lines = curve(rows, "time"), curve(rows, "bytes"), curve(rows, "round")
    spent = []
    for line in lines:
        if line is None:
            return None
        reached = line.mean >= goal if metric.higher_is_better else line.mean <= goal
        if not reached.any():
            return None
        spent.append(float(line.x[np.argmax(reached)]))
    return Cost(*spent)
