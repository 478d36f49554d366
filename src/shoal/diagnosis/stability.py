"""Where full-batch steps become unstable: the curvature beyond which they grow along an eigenvector of the Hessian.

    gradient descent             2 / lr
    heavy ball, momentum mu      2 (1 + mu) / lr                  over 1 - dampening
    Nesterov's momentum mu       2 (1 + mu) / ((1 + 2 mu) lr)

less what weight decay adds: L2 decay lam itself, decoupled decay (1 + mu) lam.

J. M. Cohen, S. Kaur, Y. Li, J. Z. Kolter, A. Talwalkar, "Gradient Descent on Neural Networks Typically Occurs at the
Edge of Stability", ICLR 2021 (arXiv:2103.00065). Of adaptive optimizers the eigenvalues of the preconditioned Hessian
are bounded so, and not those of the Hessian: J. M. Cohen et al., "Adaptive Gradient Methods at the Edge of Stability",
arXiv:2207.14484 (2022).
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from shoal.optim import Momentum, Param, Rule
from shoal.optim.adamw import RatedMomentum
from shoal.optim.common import DecoupledDecay, WeightDecay


@dataclass(frozen=True)
class Stability:
    """Where steps become unstable.

    Attributes:
        edge: the curvature; None where there is no such number.
        formula: how it follows from the learning rate lr, or why there is none.
    """

    edge: float | None
    formula: str


def stability(rule: Rule, model: nn.Module) -> Stability:
    """The curvature beyond which full-batch steps of a rule grow, if its steps are the gradient, or its momentum."""
    plans = [rule.plan(Param(name, tuple(p.shape), p.dtype)) for name, p in model.named_parameters() if p.requires_grad]
    (chain, *others) = {plan.chain for plan in plans}
    (factor, *more) = {plan.factor for plan in plans}
    if others or more:
        return Stability(None, f"{rule.name} treats parameters differently")
    before, momentum = chain, Momentum(0.0)
    if chain and isinstance(last := chain[-1], Momentum | RatedMomentum):
        before = chain[:-1]
        momentum = last if isinstance(last, Momentum) else Momentum(last.mu, last.nesterov)  # the rate is constant
    decays = [link for link in before if isinstance(link, WeightDecay | DecoupledDecay)]
    if len(before) > len(decays) or len(before) > 1 or momentum.dampening >= 1.0:
        return Stability(None, f"the steps of {rule.name} are not in proportion to gradients")
    mu, lr = momentum.mu, rule.lr * factor
    edge, formula = 2.0 * (1.0 + mu) / lr, f"2 (1 + {mu:g}) / lr" if mu else "2 / lr"
    if momentum.nesterov:
        edge, formula = edge / (1.0 + 2.0 * mu), f"2 (1 + {mu:g}) / ((1 + {2 * mu:g}) lr)"
    elif mu and momentum.dampening:
        edge, formula = edge / (1.0 - momentum.dampening), f"{formula} / {1 - momentum.dampening:g}"
    for link in decays:
        if momentum.nesterov and isinstance(link, DecoupledDecay):
            return Stability(None, f"no formula for Nesterov's momentum with decoupled decay ({rule.name})")
        less = link.lam * (1.0 + mu if isinstance(link, DecoupledDecay) else 1.0)
        edge, formula = edge - less, f"{formula} - {less:g}"
    return Stability(edge, formula)
