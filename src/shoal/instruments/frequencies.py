"""Training loss by class frequency: which optimizers learn rare classes, and which only frequent ones.

In the closed-form model class k of c, of share pi_k, has the one input e_k; a linear classifier starts at 0. The margin
a_k of its logits and its loss l_k = log(1 + (c-1) exp(-a_k)) after a time t are

    gradient flow   a_k = M(pi_k t)   with   M' = c/(c-1) (1 - p),  p = 1 / (1 + (c-1) exp(-M)):
                    exp(M) + (c-1) M = 1 + c x  at x = pi_k t
    sign descent    a_k = 2 t,        the same for all classes

F. Kunstner, R. Yadav, A. Milligan, M. Schmidt, A. Bietti, "Heavy-Tailed Class Imbalance and Why Adam Outperforms
Gradient Descent on Language Models", NeurIPS 2024 (arXiv:2402.19449).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.instruments.stepping import Stepper
from shoal.learning.contenders import Contender
from shoal.learning.data import Data
from shoal.learning.task import Task
from shoal.optim import SGD, Adam, Lion
from shoal.tensors.random import integers, key, permutation

FOUR: Mapping[str, Contender] = {
    "gradient descent": Contender(SGD, rates=(0.03, 0.1, 0.3, 1.0)),
    "momentum": Contender(SGD, {"momentum": 0.9}, rates=(0.01, 0.03, 0.1, 0.3)),
    "Adam": Contender(Adam, rates=(3e-4, 1e-3, 3e-3, 1e-2)),
    "sign": Contender(Lion, {"betas": (0.0, 0.0)}, rates=(1e-4, 3e-4, 1e-3, 3e-3)),
}
"""Whose curves are compared, and rates to choose from."""
ROWS = 2048  # samples of a forward pass


@dataclass(frozen=True, eq=False)
class FrequencyBins:
    """Classes in groups of about as many samples, the most frequent classes first.

    Attributes:
        of_class: the bin of each class, int64 [classes]; -1 for one without samples.
        classes, samples: how many each bin has.
    """

    of_class: Tensor
    classes: tuple[int, ...]
    samples: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def frequencies(self) -> list[float]:
        """Of a class in each bin, on the mean: its share of all samples."""
        total = sum(self.samples)
        return [samples / classes / total for samples, classes in zip(self.samples, self.classes, strict=True)]


def frequency_bins(counts: Tensor, bins: int = 10) -> FrequencyBins:
    """Sort classes by frequency, and cut them into bins of about equally many samples.

    A class goes where the middle of its samples lies; bins that no class falls into are left out, so that there may be
    fewer.

    Args:
        counts: samples of each class, int64 [classes].
        bins: at most so many.

    Raises:
        ValueError: there are no samples, or fewer than one bin.

    >>> found = frequency_bins(torch.tensor([1, 8, 4, 2, 1]), 2)
    >>> found.of_class.tolist(), found.samples
    ([1, 0, 1, 1, 1], (8, 8))
    """
    total = int(counts.sum())
    if bins < 1 or total < 1:
        raise ValueError(f"bins, counts: got {bins} bins and {total} samples; at least 1 of each is allowed")
    order = torch.argsort(counts, descending=True, stable=True)
    own = counts[order]
    middle = own.cumsum(0) - own / 2.0
    place = (middle * bins / total).long().clamp(0, bins - 1)
    place = torch.unique(place[own > 0], return_inverse=True)[1]
    of_class = torch.full_like(counts, -1)
    of_class[order[: len(place)]] = place
    per_class = torch.bincount(place)
    per_sample = torch.zeros_like(per_class).index_add_(0, place, own[: len(place)])
    return FrequencyBins(of_class, tuple(per_class.tolist()), tuple(per_sample.tolist()))


def class_counts(targets: Tensor, classes: int) -> Tensor:
    """Samples of each class, int64 [classes]; targets of any shape, every entry a sample.

    Raises:
        ValueError: targets are not whole numbers.
    """
    if targets.is_floating_point():
        raise ValueError(f"targets: got {targets.dtype}; classes as whole numbers are allowed")
    return torch.bincount(targets.flatten(), minlength=classes)


@torch.no_grad()
def losses_by_bin(model: nn.Module, data: Data, bins: FrequencyBins) -> Tensor:
    """The mean cross entropy of the samples of each bin, float64 [bins].

    Args:
        model: inputs -> logits [B, (T,) classes].
        data: samples with targets [B, (T)].
        bins: of the classes.
    """
    sums = torch.zeros(len(bins), dtype=torch.float64)
    seen = torch.zeros(len(bins), dtype=torch.int64)
    for start in range(0, len(data), ROWS):
        part = data[start : start + ROWS]
        losses, targets = token_losses(model(part.inputs), part.targets).flatten(), part.targets.flatten()
        place = bins.of_class.to(targets.device)[targets]
        known = place >= 0
        sums.index_add_(0, place[known].cpu(), losses[known].double().cpu())
        seen += torch.bincount(place[known].cpu(), minlength=len(bins))
    return sums / seen  # NaN for a bin of which there is no sample


def token_losses(output: Tensor, target: Tensor) -> Tensor:
    """Cross entropy of each label: output [B, (T,) C] with target [B, (T)] -> [B, (T)]."""
    return -F.log_softmax(output, -1).gather(-1, target.unsqueeze(-1)).squeeze(-1)


@dataclass(frozen=True, eq=False)
class FrequencyCurves:
    """Training losses by class frequency.

    Attributes:
        bins: of the classes.
        marks: steps at which they were measured, 0 the first.
        losses: name -> float64 [marks, bins]; NaN after a divergence, and for a bin of which nothing was measured.
        rates: name -> the learning rate that was best: the lowest mean training loss over the last fifth of the steps.
    """

    bins: FrequencyBins
    marks: tuple[int, ...]
    losses: Mapping[str, Tensor]
    rates: Mapping[str, float]


def frequency_curves(
    task: Task,
    contenders: Mapping[str, Contender] = FOUR,
    *,
    steps: int = 100,
    batch: int | None = 128,
    bins: int = 10,
    marks: Sequence[int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    tell: Callable[[str, int, int], None] = lambda name, done, total: None,
) -> FrequencyCurves:
    """Train with each optimizer, at the best of its rates, and measure the training loss by class frequency.

    All start from the same model and see the same batches.

    Args:
        task: a classifier with cross entropy.
        contenders: name -> an optimizer that has a rule, with the rates to choose from.
        steps: of each run.
        batch: samples a step, drawn with replacement; None: all of them.
        bins: at most so many.
        marks: steps to measure at; about ten unless given.
        samples: labels of the training data, on which to measure; None: all.
        seed: of model and batches.
        tell: called with the name, and steps done and to be done in all, in between too.

    Raises:
        ValueError: the task has no classes.
    """
    data, classes = task.dataset.train, task.dataset.classes
    if classes is None:
        raise ValueError(f"task: {task.name} has no classes, whose frequencies could be looked at")
    found = frequency_bins(class_counts(data.targets, classes), bins)
    measured = some_of(data, samples, seed)
    marks = tuple(marks or sorted({round(i * steps / 10) for i in range(11)}))
    total = steps * sum(len(_rates(contender)) for contender in contenders.values())
    done, losses, rates = 0, {}, {}
    for name, contender in contenders.items():
        best, kept = math.inf, None
        for rate in _rates(contender):
            module = task.initial(seed).to(data.inputs.device)
            stepper, seen, recent = Stepper(module, task.loss, contender.rule(rate, contender.settings)), [], []
            for t in range(steps + 1):
                if t in marks:
                    seen.append(copy.deepcopy(module))
                if t < steps:
                    rows = data if batch is None else data[integers(key(seed, "batch", t), len(data), batch)]
                    recent.append(float(stepper.step(rows.inputs, rows.targets)[0].mean()))
                    done += 1
                    tell(name, done, total)
            last = recent[-max(1, steps // 5) :]
            end = sum(last) / len(last) if stepper.finite and all(map(math.isfinite, last)) else math.inf
            if kept is None or end < best:
                best, kept, rates[name] = end, seen, rate
        assert kept is not None
        table = []
        for module in kept:
            tell(name, done, total)
            table.append(losses_by_bin(module, measured, found))
        losses[name] = torch.stack(table)
    return FrequencyCurves(found, marks, losses, rates)


def some_of(data: Data, labels: int | None, seed: int = 0) -> Data:
    """Random samples with about so many labels together (a text has several a sample), in another order.

    None, or more than there are, takes all.
    """
    rows = len(data) if labels is None else -(-labels // max(1, data.targets[0].numel()))
    return data if rows >= len(data) else data[permutation(key(seed, "some"), len(data))[:rows]]


def _rates(contender: Contender) -> Sequence[float]:
    if not isinstance(contender.rates, Sequence) or not contender.rates:
        raise ValueError(f"contenders: got rates {contender.rates!r}; one or more numbers are allowed")
    return contender.rates


# -- reweighting -------------------------------------------------------------------------------------------------------


def class_weights(counts: Tensor, power: float = 0.5) -> Tensor:
    """Weights pi_k^-power of classes, float32 [classes], with a mean of 1 over the samples; 0 for empty classes."""
    share = counts.double() / counts.sum()
    weights = torch.where(share > 0, share.clamp_min(1e-300).pow(-power), torch.zeros_like(share))
    return (weights / (weights * share).sum()).float()


@dataclass(frozen=True, eq=False)
class Reweighted:
    """Cross entropy with a weight for each class, a loss for a `Task`.

    Attributes:
        weights: [classes], as of `class_weights`.
    """

    weights: Tensor

    def __call__(self, output: Tensor, target: Tensor) -> Tensor:
        """Per-sample losses [B]; output [B, (T,) C], target [B, (T)]."""
        losses = token_losses(output, target) * self.weights.to(output)[target]
        return losses if losses.dim() == 1 else losses.flatten(1).mean(1)


# -- the closed-form model ---------------------------------------------------------------------------------------------


def flow_margin(x: Tensor, classes: int) -> Tensor:
    """M(x) of gradient flow: the root of exp(M) + (c-1) M = 1 + c x, by Newton's method from above, float64.

    Args:
        x: pi_k t >= 0.
        classes: c >= 2.

    Raises:
        ValueError: fewer than 2 classes, or a negative time.
    """
    x = x.double()
    if classes < 2 or bool((x < 0).any()):
        raise ValueError(f"classes, x: got {classes} and a least x of {float(x.min())}; c >= 2 and x >= 0 are allowed")
    c = float(classes)
    m = torch.minimum(torch.log1p(c * x), c * x / (c - 1.0))  # both are upper bounds
    for _ in range(60):
        m = m - (torch.expm1(m) + (c - 1.0) * m - c * x) / (torch.exp(m) + c - 1.0)
    return m


def margin_loss(margin: Tensor, classes: int) -> Tensor:
    """log(1 + (c-1) exp(-a))."""
    return F.softplus(math.log(classes - 1.0) - margin.double())


def flow_losses(shares: Tensor, time: float, classes: int) -> Tensor:
    """Losses of classes of these shares after gradient flow for some time."""
    return margin_loss(flow_margin(shares.double() * time, classes), classes)


def sign_losses(shares: Tensor, time: float, classes: int) -> Tensor:
    """Losses of classes after sign descent for some time: the same for all."""
    return margin_loss(torch.full_like(shares.double(), 2.0 * time), classes)


def zipf(classes: int) -> Tensor:
    """Shares proportional to 1/k, float64 [classes]."""
    shares = 1.0 / torch.arange(1, classes + 1, dtype=torch.float64)
    return shares / shares.sum()
