"""D. M. Gomes, Y. Zhang, E. Belilovsky, G. Wolf, M. S. Hosseini, "AdaFisher: Adaptive Second Order Optimization via
Fisher Information", ICLR 2025 (arXiv 2405.16397).

Claimed: momentum over a diagonal Fisher matrix of Kronecker factors beats Adam, K-FAC, AdaHessian and Shampoo in
accuracy at equal time, is flat in its hyper-parameters, and costs about as much as Adam.

Criteria, fixed before the run:

1. float64: for one sample the factors of a linear layer, before they are normalised, give its squared gradient, to
   1e-12 of the largest entry.
2. float64, 20 steps, t_cov = 5: with lam = 1e9 and lr = 1e9 eta the way is that of SGD with corrected momentum at eta,
   to 1e-6.
3. An MLP on images, batch 128: the CPU time of a training step is at most 1.25 times that with Adam.
4. The same MLP, rates half a decade apart within 30 times of the default (1e-3, as Adam's; AdaHessian 0.15 within 10),
   mean over seeds: AdaFisher's best accuracy is at least Adam's,
5. and at least AdaHessian's for as many steps;
6. at least as many of its rates as of Adam's are within 2 points of the better of the two best.
7. The Fisher matrix matters: the best accuracy is at least half a point above that of SGD with corrected momentum at
   the rates lr / lam, which is AdaFisher with F = lam. (The averages shrink by 0.08 at each update and take 0.008 of
   what is new, so that entries of S x H fall below 1e-4, a tenth of lam.)

"check": 150 steps, every other rate, one seed, t_cov = 50. "full": 800 steps, three seeds, t_cov = 100. If
Fashion-MNIST is not there, the embedded digits stand in.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from shoal.optim import AdaFisher, AdaHessian
from shoal.optim.factors import inputs, outputs
from shoal.papers.loops import Scores, accuracies, around, best, good_rates, relative_cost, swept
from shoal.papers.optimizers import fashion, points
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

STEPS = {"check": 150, "full": 800}
SEEDS = {"check": (141,), "full": (141, 142, 143)}
PERIOD = {"check": 50, "full": 100}
BATCH, LAM = 128, 1e-3


class CorrectedMomentum(torch.optim.Optimizer):
    """p <- p - lr m / (1 - beta^t): momentum without any scaling."""

    def __init__(self, params: Any, lr: float, beta: float = 0.9) -> None:
        super().__init__(params, {"lr": lr, "beta": beta})
        self.t = 0

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step."""
        self.t += 1
        for group in self.param_groups:
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p)).lerp_(p.grad, 1.0 - group["beta"])
                p.sub_(m, alpha=group["lr"] / (1.0 - group["beta"] ** self.t))


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    period = PERIOD[scale]
    findings = [one_sample(figures), without_fisher(figures), cost(figures)]
    arms: dict[str, tuple[Callable[..., Any], float, int]] = {
        "AdaFisher": (partial(AdaFisher, lam=LAM, t_cov=period), 1e-3, 3),
        "Adam": (torch.optim.Adam, 1e-3, 3),
        "AdaHessian": (AdaHessian, 0.15, 2),
        "momentum": (CorrectedMomentum, 1e-3 / LAM, 3),
    }
    how: dict[str, Any] = {"steps": STEPS[scale], "batch": BATCH, "seeds": SEEDS[scale]}
    every = 2 if scale == "check" else 1
    scores = {
        name: accuracies(swept(fashion(), make, around(middle, reach, every), **how))
        for name, (make, middle, reach) in arms.items()
    }
    for name, found in scores.items():
        figures |= {f"{name}, lr {rate:.3g}: accuracy": score for rate, score in found.items()}
    findings += [
        above(scores, "Adam"),
        above(scores, "AdaHessian"),
        as_flat(scores["AdaFisher"], scores["Adam"]),
        above(scores, "momentum", 0.005),
    ]
    published: dict[str, float | str] = {
        "accuracy": "above Adam's, AdaHessian's, K-FAC's and Shampoo's",
        "cost": "near Adam's",
        "sensitivity": "flat",
    }
    return Result(findings, figures, published, SEEDS[scale])


def one_sample(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    layer = nn.Linear(7, 5).double()
    h, s = (normal(key(0, name), (1, size), dtype=torch.float64) for name, size in (("h", 7), ("s", 5)))
    layer(h).backward(s)
    diagonal = torch.outer(outputs(layer, s), inputs(layer, h))
    assert layer.weight.grad is not None
    squares = layer.weight.grad.square()
    error = float((diagonal - squares).abs().max() / squares.max())
    figures["one sample: distance of the factors' product from the squared gradient"] = error
    return Finding("one sample: the factors give the squared gradient, to 1e-12", f"{error:.1e}", error <= 1e-12)


def without_fisher(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    ends = []
    for make in (partial(AdaFisher, lr=1e8, lam=1e9, t_cov=5), partial(CorrectedMomentum, lr=0.1)):
        model = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)).double()
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p.copy_(0.5 * normal(key(1, "start", i), tuple(p.shape), dtype=torch.float64))
        optimizer: Any = make(model.parameters())
        if isinstance(optimizer, AdaFisher):
            optimizer.watch(model)
        for step in range(20):
            optimizer.zero_grad()
            model(normal(key(2, "batch", step), (16, 6), dtype=torch.float64)).square().mean().backward()
            optimizer.step()
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    error = float((ends[0] - ends[1]).abs().max())
    figures["lam = 1e9: distance from SGD with corrected momentum"] = error
    return Finding("a large lam, and lr in proportion, is momentum alone, to 1e-6", f"{error:.1e}", error <= 1e-6)


def cost(figures: dict[str, float]) -> Finding:
    """Criterion 3."""
    ratio = relative_cost(fashion(), AdaFisher, partial(torch.optim.Adam, lr=1e-3), batch=BATCH, steps=100, rounds=7)
    figures["CPU time of a step over Adam's"] = ratio
    return Finding("a step costs at most 1.25 of Adam's", f"{ratio:.2f}", ratio <= 1.25)


def above(scores: dict[str, Scores], other: str, margin: float = 0.0) -> Finding:
    """Criteria 4, 5 and 7."""
    (r, a), (q, b) = best(scores["AdaFisher"]), best(scores[other])
    least = f"at least half a point above {other}'s" if margin else f"at least {other}'s"
    return Finding(
        f"AdaFisher's best accuracy is {least}",
        f"{100 * a:.2f} % at {r:.3g}, {other} {100 * b:.2f} % at {q:.3g}: {points(a, b)}",
        a >= b + margin,
    )


def as_flat(ours: Scores, theirs: Scores) -> Finding:
    """Criterion 6."""
    mine, other = good_rates(ours, theirs)
    return Finding(
        f"as many of {len(ours)} rates as of Adam's are within 2 points of the better best",
        f"{mine} against {other}",
        mine >= other,
    )
