"""F. Kunstner, R. Yadav, A. Milligan, M. Schmidt, A. Bietti, "Heavy-Tailed Class Imbalance and Why Adam Outperforms
Gradient Descent on Language Models", NeurIPS 2024 (arXiv 2402.19449).

Claimed: SGD trails Adam on text because it learns rare classes slowly, which Adam and sign descent do not; the same gap
appears wherever classes are heavy-tailed, and reweighting classes by 1/sqrt(pi) closes much of it. (Shown there in
curves; no single number is published.)

Criteria, fixed before the run:

1. A linear classifier on one-hot inputs with 500 classes of Zipf's law, float64: trained by small steps of gradient
   descent, the losses of all classes lie on the one curve of pi_k t to 2%; by steps along the sign they are equal
   to 1e-6, and those of the closed form to 1e-6.
2. There, at the first step at which the mean loss is at most 0.1 (6.2 at first), the loss of the rarest tenth of
   the classes is more than 5 times the mean by gradient descent at each rate from 1 to 2^12, and at most 1.1 times by
   Adam at each from 2^-10 to 1, a factor of 4 apart.
3. Fashion-MNIST of which half is in rare classes by a barcode, an MLP, each optimizer at the best of five rates by the
   training loss: on the rare half the loss of momentum is at least 1.5 times Adam's, and the ratio is larger there than
   on the frequent half.
4. Sign descent's loss on the rare half is nearer to Adam's than to momentum's (in the logarithm).
5. Momentum on losses weighted by 1/sqrt(pi): at least half of its gap to Adam on the rare half is closed, in the
   unweighted training loss.
6. The built-in text and a small transformer: momentum's loss exceeds Adam's by more on the rarest tenth of the
   characters than on the most frequent tenth.

Changed after a review: criterion 2 compared losses of the rarest tenth after 200 steps, each optimizer at the best of
its rates, and was met by 0.122 against 0. Gradient descent's best rate, 2^8, was the last of the grid, the loss goes on
falling at larger ones (0.0085 at 2^11), and any loss above 5e-300 was more than 5 times Adam's. There is no best rate:
one class an input is fitted by a single step if only it is large enough. What is compared since is how the loss is
spread over classes at one mean loss.

"check": 4 bits of barcode, 150 steps, fewer rates; text 80 steps. "full": 6 bits, 1,200 steps of batch 256; text 500
steps. Rates were written down before any run, a factor of about 3 apart. If Fashion-MNIST is not there, the embedded
digits stand in, with fewer bits.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
from torch import Tensor

from shoal.instruments.frequencies import (
    FrequencyCurves,
    Reweighted,
    class_counts,
    class_weights,
    flow_losses,
    frequency_curves,
    sign_losses,
    zipf,
)
from shoal.learning import Contender, Task
from shoal.learning.data import barcoded, load
from shoal.learning.models import mlp
from shoal.optim import SGD, Adam, Lion
from shoal.papers.optimizers import characters
from shoal.papers.result import Finding, Result

SEED = 51
STEPS = {"check": 150, "full": 1200}
BITS = {"check": 4, "full": 6}
BATCH = 256
TEXT = {"check": 80, "full": 500}
LOOKED = {"check": 5_000, "full": 20_000}  # characters that losses are measured on
CONTENDERS: dict[str, tuple[Any, dict[str, Any], tuple[float, ...]]] = {
    "momentum": (SGD, {"momentum": 0.9}, (0.01, 0.03, 0.1, 0.3, 1.0)),
    "Adam": (Adam, {}, (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)),
    "sign": (Lion, {"betas": (0.0, 0.0)}, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [closed_form(figures), rarest(scale, figures), *images(scale, figures), text(scale, figures)]
    published: dict[str, float | str] = {
        "rare classes": "slow by SGD, not by Adam",
        "reweighting by 1/sqrt(pi)": "closes much of the gap",
    }
    return Result(findings, figures, published, (SEED,))


# -- 1 and 2: one-hot inputs -------------------------------------------------------------------------------------------


def slope(w: Tensor, shares: Tensor) -> Tensor:
    """The gradient [c, c] of the mean cross entropy; row k are the logits of class k."""
    return shares[:, None] * (torch.softmax(w, 1) - torch.eye(len(shares), dtype=w.dtype))


def losses_of(w: Tensor) -> Tensor:
    """The loss of each class."""
    return -torch.log_softmax(w, 1).diagonal()


def closed_form(figures: dict[str, float], classes: int = 500) -> Finding:
    """Criterion 1."""
    shares = zipf(classes)
    worst, w, lr = 0.0, torch.zeros(classes, classes, dtype=torch.float64), 0.25
    for t in range(1, 401):
        w -= lr * slope(w, shares)
        if t % 50 == 0:
            expected = flow_losses(shares, lr * t, classes)
            worst = max(worst, float((losses_of(w) / expected - 1.0).abs().max()))
    w, step = torch.zeros_like(w), 0.01
    for _ in range(300):
        w -= step * slope(w, shares).sign()
    signed = losses_of(w)
    apart = max(float(signed.max() - signed.min()), float((signed - sign_losses(shares, 3.0, classes)).abs().max()))
    figures |= {"one-hot: losses against the curve, relative": worst, "one-hot: losses by signs apart": apart}
    return Finding(
        "one-hot, Zipf: all losses on one curve of pi_k t to 2%; by signs equal, and as in closed form, to 1e-6",
        f"{worst:.2%}; {apart:.1e}",
        worst <= 0.02 and apart <= 1e-6,
    )


def pull(w: Tensor, shares: Tensor) -> Tensor:
    """`slope` where the logits of the wrong classes are alike: w [c, 2] are those of the right and of a wrong one."""
    others = len(shares) - 1
    wrong = torch.sigmoid(w[:, 1] - w[:, 0] + math.log(others))
    return shares[:, None] * torch.stack([-wrong, wrong / others], 1)


def spread(name: str, rate: float, shares: Tensor, goal: float, limit: int = 100_000) -> tuple[float, int]:
    """The rarest tenth's loss over the mean at the first step at which that is as low as the goal, and that step.

    Raises:
        ValueError: an unknown optimizer.
    """
    if name not in ("gradient descent", "Adam"):
        raise ValueError(f"name: got {name!r}; 'gradient descent' or 'Adam' is allowed")
    others, tenth = len(shares) - 1, len(shares) // 10
    w = torch.zeros(len(shares), 2, dtype=torch.float64)
    m, v = torch.zeros_like(w), torch.zeros_like(w)
    for t in range(limit):
        losses = torch.nn.functional.softplus(w[:, 1] - w[:, 0] + math.log(others))
        if (mean := float(shares @ losses)) <= goal:
            return float(losses[-tenth:].mean()) / mean, t
        g = pull(w, shares)
        if name == "Adam":
            m, v = torch.lerp(m, g, 0.1), torch.lerp(v, g.square(), 0.001)
            g = m / (1 - 0.9 ** (t + 1)) / ((v / (1 - 0.999 ** (t + 1))).sqrt() + 1e-12)
        w = w - rate * g
    return math.nan, limit


def rarest(scale: str, figures: dict[str, float], classes: int = 500, goal: float = 0.1) -> Finding:
    """Criterion 2."""
    shares = zipf(classes)
    every = 2 if scale == "full" else 4
    found: dict[str, list[float]] = {}
    for name, powers in (("gradient descent", range(0, 13, every)), ("Adam", range(-10, 1, every))):
        found[name] = []
        for power in powers:
            ratio, step = spread(name, 2.0**power, shares, goal)
            found[name].append(ratio)
            figures[f"one-hot, {name}, rate 2^{power}: steps to a mean loss of {goal:g}"] = step
            figures[f"one-hot, {name}, rate 2^{power}: the rarest tenth's loss over the mean"] = ratio
    slow, fast = found["gradient descent"], found["Adam"]
    return Finding(
        f"one-hot, Zipf: at a mean loss of {goal:g} the rarest tenth's is over 5 times that by gradient descent, at "
        "most 1.1 times by Adam, at every rate",
        f"{min(slow):.3g} to {max(slow):.3g} against {min(fast):.3g} to {max(fast):.3g}",
        all(ratio > 5.0 for ratio in slow) and all(ratio <= 1.1 for ratio in fast),
    )


# -- 3 to 6: networks --------------------------------------------------------------------------------------------------


def contenders(scale: str, *names: str) -> dict[str, Contender]:
    """Those of the names, with every rate, or every other one."""
    every = 1 if scale == "full" else 2
    return {
        name: Contender(cls, given, rates[::every]) for name, (cls, given, rates) in CONTENDERS.items() if name in names
    }


def images(scale: str, figures: dict[str, float]) -> list[Finding]:
    """Criteria 3 to 5."""
    whole = load("fashion-mnist", fallback=True)
    dataset = barcoded(whole, bits=BITS[scale] if "fashion" in whole.name else 3)
    task = Task("barcoded", mlp(dataset, hidden=64), dataset)
    counts = class_counts(dataset.train.targets, dataset.classes or 0)
    how = {"steps": STEPS[scale], "batch": BATCH, "seed": SEED}
    found = frequency_curves(task, contenders(scale, "momentum", "Adam", "sign"), **how)  # type: ignore[arg-type]
    weighted = dataclasses.replace(task, loss=Reweighted(class_weights(counts)))
    heavier = frequency_curves(weighted, contenders(scale, "momentum"), **how)  # type: ignore[arg-type]
    rare, frequent = {}, {}
    for name, curves, which in (
        ("momentum", found, "momentum"),
        ("Adam", found, "Adam"),
        ("sign", found, "sign"),
        ("momentum, reweighted", heavier, "momentum"),
    ):
        frequent[name], rare[name] = halves(curves, which)
        figures |= {
            f"barcoded, {name}: rate": curves.rates[which],
            f"barcoded, {name}: loss on the frequent half": frequent[name],
            f"barcoded, {name}: loss on the rare half": rare[name],
        }
    ratio, other = rare["momentum"] / rare["Adam"], frequent["momentum"] / frequent["Adam"]
    log = {name: math.log(value) for name, value in rare.items()}
    gap, left = rare["momentum"] - rare["Adam"], rare["momentum, reweighted"] - rare["Adam"]
    return [
        Finding(
            "barcoded: on the rare half momentum's loss is at least 1.5 times Adam's, a larger ratio than elsewhere",
            f"{rare['momentum']:.3g} against {rare['Adam']:.3g}, {ratio:.2f} times; elsewhere {other:.2f} times",
            ratio >= 1.5 and ratio > other,
        ),
        Finding(
            "barcoded: sign descent's loss on the rare half is nearer to Adam's than to momentum's",
            f"{rare['sign']:.3g}; Adam {rare['Adam']:.3g}, momentum {rare['momentum']:.3g}",
            abs(log["sign"] - log["Adam"]) < abs(log["sign"] - log["momentum"]),
        ),
        Finding(
            "barcoded: reweighting by 1/sqrt(pi) closes at least half of momentum's gap to Adam on the rare half",
            f"{rare['momentum']:.3g} becomes {rare['momentum, reweighted']:.3g}, Adam {rare['Adam']:.3g}",
            gap > 0 and left <= 0.5 * gap,
        ),
    ]


def halves(curves: FrequencyCurves, name: str) -> tuple[float, float]:
    """Training loss at the end: of the classes above, and below, the mean share of a class in all."""
    last = curves.losses[name][-1]
    weights = torch.tensor(curves.bins.samples, dtype=torch.float64)
    many = torch.tensor(curves.bins.frequencies) > 1.0 / sum(curves.bins.classes)
    parts = [float((last[some] * weights[some]).sum() / weights[some].sum()) for some in (many, ~many)]
    return parts[0], parts[1]


def text(scale: str, figures: dict[str, float]) -> Finding:
    """Criterion 6."""
    found = frequency_curves(
        characters(),
        contenders(scale, "momentum", "Adam"),
        steps=TEXT[scale],
        batch=32,
        samples=LOOKED[scale],
        seed=SEED,
    )
    excess = found.losses["momentum"][-1] - found.losses["Adam"][-1]
    figures |= {f"text, bin {i}: momentum's loss over Adam's": float(x) for i, x in enumerate(excess)}
    return Finding(
        "text: momentum's loss exceeds Adam's by more on the rarest tenth of the characters than on the most frequent",
        f"{float(excess[-1]):+.3f} against {float(excess[0]):+.3f}; rates {found.rates['momentum']:g} and "
        f"{found.rates['Adam']:g}",
        float(excess[-1]) > max(0.0, float(excess[0])),
    )
