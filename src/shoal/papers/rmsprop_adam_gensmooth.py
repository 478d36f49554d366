"""Q. Zhang, Y. Zhou, S. Zou, "Convergence Guarantees for RMSProp and Adam in Generalized-smooth Non-convex Optimization
with Affine Noise Variance", 2024 (arXiv 2404.01436).

Claimed: where the smoothness of each coordinate may grow with its gradient, and so may the noise, RMSProp and Adam
reach mean gradients of the order of epsilon within a number of steps of the order of epsilon^-4, the lower bound of
stochastic first-order methods, if the rate and 1 - beta2 go with epsilon^2. Neither gradients nor noise need bounds.

The methods as analysed have eps = zeta below the root, no bias correction and a second moment that begins above 0:
options of `shoal.optim.RMSProp` and `Adam`. The rule is `shoal.optim.stationary`.

Criteria, fixed before the run; f(x) = sum_i c_i x_i^4 / 4 in 6 dimensions, c from 0.5 to 2, which is not smooth; each
entry of the gradient is multiplied by 1 + s, s = +-1 (affine noise), and gets normal noise of 0.1; x = 2.5 at first:

1. float64: both are x - lr m / sqrt(v + zeta) with plain averages, written out, to 1e-12 over 50 steps.
2. RMSProp, lr = epsilon^2, 1 - beta2 = epsilon^2 / 2, 20 / epsilon^4 steps, epsilon from 0.5 to 0.18: the slope of
   log(mean gradient norm over all steps) over log(epsilon) is at least 1, mean of 8 runs.
3. The same of Adam with beta1 = 0.8.
4. SGD with the same rates diverges at the largest epsilon from x = 2.5, and at every epsilon from x = 12.
5. cosh(2 x) - 1 in the place of x^4, whose smoothness grows in proportion to its gradient: slopes of at least 1, too.
6. A network 64-16-10 with tanh on digits, batches of 64, each entry of their gradients times 1 + s: the slope of
   RMSProp's mean gradient norm of the training loss, measured at 40 points of the way, is at least 1 (epsilon 0.6,
   0.45, 0.34; rate epsilon^2 / 20, 10 / epsilon^4 and "full" 40 / epsilon^4 steps).
7. Controls, added after a review of a first result that was "holds": where the theory says nothing, with beta2 = 0.999
   or a rate of 0.1 for every epsilon, RMSProp's slope on x^4 is below 1. Else steps of the order of epsilon^-4 alone
   shrink the mean, and the slopes are no evidence that the rate and 1 - beta2 have to go with epsilon^2. (The review
   had found 6.54 and 2.86 for epsilon from 0.5 to 0.25.)

"check": epsilon 0.5, 0.35, 0.25 and two runs. "full": 0.5, 0.35, 0.25, 0.18 and eight.

Notes. The mean is over all steps and not the last. What is shown are slopes over a range of epsilon: rates of
convergence are statements about epsilon -> 0. The factor makes the network's noise affine; that the noise of its
batches is so too is assumed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from shoal.learning.data import load
from shoal.optim import SGD, Adam, Param, RMSProp, Rule, stationary
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal, uniform

DIMENSION, START, FAR = 6, 2.5, 12.0
ZETA, V0, BETA1, STEPS = 1e-3, 1e-2, 0.8, 20.0
CHUNK = 4096  # steps whose noise is drawn at once
EPSILONS = {"check": (0.5, 0.35, 0.25), "full": (0.5, 0.35, 0.25, 0.18)}
RUNS = {"check": 2, "full": 8}
NETWORK = (0.6, 0.45, 0.34)
NETWORK_STEPS = {"check": 10.0, "full": 40.0}
Gradient = Callable[[Tensor], Tensor]


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [written_out(figures)]
    epsilons, runs = EPSILONS[scale], RUNS[scale]
    for label, gradient in (("x^4", fourth_power), ("cosh", exponential)):
        for name in ("RMSProp", "Adam"):
            found = [mean_norm(name, gradient, epsilon, runs) for epsilon in epsilons]
            findings.append(linear(f"{name} on {label}", epsilons, found, figures))
    findings += [divergence(epsilons), network(scale, figures), controls(epsilons, runs, figures)]
    return Result(findings, figures, {"steps": "O(epsilon^-4), the lower bound"}, tuple(range(runs)))


def rule(name: str, epsilon: float) -> Rule:
    """A method with the settings for one epsilon."""
    chosen = stationary(epsilon)
    shared = {"lr": chosen.lr, "eps": ZETA, "eps_in_root": True, "v0": V0}
    if name == "Adam":
        return Adam.rule(betas=(BETA1, chosen.beta2), bias_correction=False, **shared)
    if name == "SGD":
        return SGD.rule(lr=chosen.lr)
    return RMSProp.rule(alpha=chosen.beta2, **shared)


def curvatures() -> Tensor:
    """c of each coordinate [6], float64."""
    return torch.linspace(0.5, 2.0, DIMENSION, dtype=torch.float64)


def fourth_power(x: Tensor) -> Tensor:
    """Gradient of sum c x^4 / 4."""
    return curvatures() * x**3


def exponential(x: Tensor) -> Tensor:
    """Gradient of sum c (cosh(2 x) - 1) / 4."""
    return 0.5 * curvatures() * torch.sinh(2.0 * x)


def noise(count: int, runs: int, seed: int) -> tuple[Tensor, Tensor]:
    """Factors 1 + s and additions [count, runs, 6] of `count` gradients: their variance is affine in the square."""
    shape = (count, runs, DIMENSION)
    sign = (uniform(key(seed, "sign"), shape, dtype=torch.float64) < 0.5).double()
    return 2.0 * sign, 0.1 * normal(key(seed, "noise"), shape, dtype=torch.float64)


def walk(made: Rule, gradient: Gradient, start: float, steps: int, runs: int) -> Tensor:
    """The norm of the true gradient [steps, runs] on the way of independent runs; it stops where one is not finite."""
    x = torch.full((runs, DIMENSION), start, dtype=torch.float64)
    param = Param("x", tuple(x.shape))
    state = made.views(made.memory({"x": x}), [param])
    norms: list[Tensor] = []
    for t in range(steps):
        if t % CHUNK == 0:
            factors, additions = noise(CHUNK, runs, t)
        g = gradient(x)
        norms.append(torch.linalg.vector_norm(g, dim=1))
        if t % 100 == 0 and not bool(norms[-1].isfinite().all()):
            break
        made.step([param], [x], [g * factors[t % CHUNK] + additions[t % CHUNK]], state, float(t + 1), made.lr)
    return torch.stack(norms)


def mean_norm(name: str, gradient: Gradient, epsilon: float, runs: int) -> float:
    """Mean over steps and runs."""
    steps = stationary(epsilon, steps=STEPS).steps
    return float(walk(rule(name, epsilon), gradient, START, steps, runs).mean())


def slope(epsilons: Sequence[float], norms: Sequence[float]) -> float:
    """Of log(norm) over log(epsilon), by least squares; minus infinity if a norm is not finite."""
    if not all(math.isfinite(value) for value in norms):
        return -math.inf
    u, v = (torch.tensor(values, dtype=torch.float64).log() for values in (epsilons, norms))
    u = u - u.mean()
    return float((u * v).sum() / u.square().sum())


def linear(label: str, epsilons: Sequence[float], norms: Sequence[float], figures: dict[str, float]) -> Finding:
    """Criteria 2, 3, 5 and 6."""
    found = slope(epsilons, norms)
    pairs = list(zip(epsilons, norms, strict=True))
    figures |= {f"{label}, epsilon {e:g}: mean gradient norm": value for e, value in pairs if math.isfinite(value)}
    return Finding(
        f"{label}: the mean gradient norm falls at least in proportion to epsilon",
        f"{', '.join(f'{e:g}: {value:.3g}' for e, value in pairs)}; slope {found:.2f}",
        found >= 1.0,
    )


def controls(epsilons: Sequence[float], runs: int, figures: dict[str, float]) -> Finding:
    """Criterion 7."""
    slopes = {}
    for label, changed in (("beta2 0.999", {"alpha": 0.999}), ("lr 0.1", {"lr": 0.1})):
        norms = []
        for epsilon in epsilons:
            chosen = stationary(epsilon, steps=STEPS)
            settings: dict[str, Any] = {"lr": chosen.lr, "alpha": chosen.beta2, **changed}
            made = RMSProp.rule(eps=ZETA, eps_in_root=True, v0=V0, **settings)
            norms.append(float(walk(made, fourth_power, START, chosen.steps, runs).mean()))
        slopes[label] = slope(epsilons, norms)
        figures[f"RMSProp on x^4 with {label} for every epsilon: slope"] = slopes[label]
    return Finding(
        "controls outside of the theory: RMSProp's slope on x^4 is below 1",
        ", ".join(f"{label}: {found:.2f}" for label, found in slopes.items()),
        all(found < 1.0 for found in slopes.values()),
    )


def divergence(epsilons: Sequence[float]) -> Finding:
    """Criterion 4."""
    near = walk(rule("SGD", epsilons[0]), fourth_power, START, 1000, 1)
    far = {e: walk(rule("SGD", e), fourth_power, FAR, 1000, 1) for e in epsilons}
    lost = [e for e, norms in far.items() if not norms.isfinite().all()]
    ended = "diverges" if not near.isfinite().all() else "stays finite"
    return Finding(
        f"SGD diverges from x = {START:g} at epsilon {epsilons[0]:g}, and from x = {FAR:g} at every epsilon",
        f"{ended}; from {FAR:g} at {', '.join(f'{e:g}' for e in lost) or 'none'}",
        ended == "diverges" and len(lost) == len(far),
    )


def written_out(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    worst = 0.0
    for name, beta1 in (("RMSProp", 0.0), ("Adam", BETA1)):
        made, chosen = rule(name, 0.5), stationary(0.5)
        x = torch.full((1, DIMENSION), START, dtype=torch.float64)
        y, param = x.clone(), Param("x", tuple(x.shape))
        state = made.views(made.memory({"x": x}), [param])
        factors, additions = noise(50, 1, 7)
        m, v = torch.zeros_like(y), torch.full_like(y, V0)
        for t in range(50):
            g = fourth_power(y) * factors[t] + additions[t]
            made.step([param], [x], [g], state, float(t + 1), made.lr)
            m = beta1 * m + (1.0 - beta1) * g
            v = chosen.beta2 * v + (1.0 - chosen.beta2) * g * g
            y = y - chosen.lr * m / (v + ZETA).sqrt()
            worst = max(worst, float((x - y).abs().max()))
    figures["distance from the steps written out"] = worst
    return Finding("RMSProp and Adam are the steps of the analysis, to 1e-12", f"{worst:.1e}", worst <= 1e-12)


def network(scale: str, figures: dict[str, float]) -> Finding:
    """Criterion 6."""
    found = [network_norm(epsilon, NETWORK_STEPS[scale]) for epsilon in NETWORK]
    return linear("network, RMSProp", NETWORK, found, figures)


def network_norm(epsilon: float, constant: float) -> float:
    """The mean norm of the training loss's gradient at 40 points of the way."""
    chosen = stationary(epsilon, lr=0.05, steps=constant)
    data, random = load("digits").train, torch.Generator().manual_seed(31)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(32)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.Tanh(), nn.Linear(16, 10))
    optimizer = RMSProp(model.parameters(), lr=chosen.lr, alpha=chosen.beta2, eps=1e-6, eps_in_root=True, v0=1e-4)
    norms = []
    for t in range(chosen.steps):
        if t * 40 // chosen.steps != (t - 1) * 40 // chosen.steps:
            norms.append(_gradient(model, data.inputs, data.targets))
        rows = torch.randint(len(data), (64,), generator=random)
        _gradient(model, data.inputs[rows], data.targets[rows])
        for p in model.parameters():
            assert p.grad is not None
            p.grad.mul_(2.0 * torch.randint(2, p.shape, generator=random))
        optimizer.step()
    return sum(norms) / len(norms)


def _gradient(model: nn.Module, inputs: Tensor, targets: Tensor) -> float:
    """The gradient of the mean loss, left in `grad`; returns its norm."""
    model.zero_grad()
    nn.functional.cross_entropy(model(inputs), targets).backward()
    return math.sqrt(sum(float(p.grad.square().sum()) for p in model.parameters() if p.grad is not None))
