"""X. Chen, C. Liang, D. Huang, E. Real, K. Wang, Y. Liu, H. Pham, X. Dong, T. Luong, C.-J. Hsieh, Y. Lu, Q. V. Le,
"Symbolic Discovery of Optimization Algorithms", 2023 (arXiv 2302.06675).

Claimed: an optimizer found by a search over programs, Lion, keeps one average instead of AdamW's two and moves every
entry by the sign of another; it is as accurate or better (up to +2% for a ViT on ImageNet, up to 5 times less compute
on JFT), needs a smaller learning rate, and gains more the larger the batch.

Criteria, fixed before the run:

1. Without decay every entry moves by the learning rate, neither more nor less, in every step, to 1e-12 of it.
2. Its paths are those of sign descent for beta1 = beta2 = 0, and of sign momentum for beta1 = beta2, to 1e-12.
3. Gradients 2^13 times as large give the same path, bit for bit.
4. State: 4 bytes a parameter where AdamW has 8, as measured in float32.
5. Fashion-MNIST, MLP, a small and a 16 times larger batch ("check": 8 times), each with its best rate: Lion's test
   accuracy is no more than half a point below AdamW's at the small batch,
6. and no more than half a point below at the large one.
7. Lion's lead over AdamW is no smaller at the large batch than at the small one.

Notes. Lion's decay is five times AdamW's, as its rates are to be three to ten times lower. The search is not repeated:
what it found is judged. The number of steps is the same for both batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from shoal.learning.contenders import Contender
from shoal.optim import AdamW
from shoal.optim.lion import Lion
from shoal.papers.optimizers import apart, outcome, path, points, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

WITHIN = 0.005
BATCHES = {"check": (64, 512), "full": (64, 1024)}
CHANGES: dict[str, dict[str, Any]] = {
    "check": {"steps": 80, "rates": (3e-4, 1e-3, 3e-3, 1e-2), "seeds": (7,)},
    "full": {"rates": (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)},
}
CONTENDERS = {
    "AdamW": Contender(AdamW, {"weight_decay": 0.01}),
    "Lion": Contender(Lion, {"weight_decay": 0.05}),
}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [even_steps(figures), special_cases(figures), scale_free(figures), *contest(scale, figures)]
    published = {
        "ViT on ImageNet, Lion against AdamW": "up to +2%",
        "pre-training compute on JFT": "up to 5 times less",
        "compute of diffusion models": "up to 2.3 times less",
        "batch": "gains grow with it",
    }
    return Result(findings, figures, published, (7, 8, 9) if scale == "full" else (7,))


def gradients(steps: int = 40, entries: int = 60) -> torch.Tensor:
    """Random gradients [steps, entries] of very different sizes."""
    sizes = torch.logspace(-3, 3, entries, dtype=torch.float64)
    return normal(key(31, "gradients"), (steps, entries), dtype=torch.float64) * sizes


def even_steps(figures: dict[str, float], lr: float = 0.02) -> Finding:
    """Criterion 1."""
    g = gradients()
    moves = path(Lion.rule(lr), list(g), torch.zeros_like(g[0])).diff(dim=0).abs()
    error = figures["length of a move / learning rate, distance from 1"] = float((moves / lr - 1.0).abs().max())
    return Finding("every entry moves by the learning rate, to 1e-12 of it", f"{error:.1e}", error <= 1e-12)


def special_cases(figures: dict[str, float], lr: float = 0.02, beta: float = 0.8) -> Finding:
    """Criterion 2."""
    g = gradients()
    start = torch.zeros_like(g[0])
    average, signs = start, []
    for gradient in g:
        average = beta * average + (1.0 - beta) * gradient
        signs.append(average.sign())
    expected = {"sign descent": (0.0, g.sign()), "sign momentum": (beta, torch.stack(signs))}
    for name, (b, directions) in expected.items():
        ours = path(Lion.rule(lr, betas=(b, b)), list(g), start)[1:]
        figures[f"distance from {name}"] = apart(ours, -lr * directions.cumsum(0))
    errors = [figures[f"distance from {name}"] for name in expected]
    return Finding(
        "beta1 = beta2 = 0 is sign descent, beta1 = beta2 sign momentum, to 1e-12",
        ", ".join(f"{error:.1e}" for error in errors),
        max(errors) <= 1e-12,
    )


def scale_free(figures: dict[str, float]) -> Finding:
    """Criterion 3."""
    g = gradients()
    plain, large = (path(Lion.rule(0.02), list(f * g), torch.zeros_like(g[0])) for f in (1.0, 2.0**13))
    error = figures["gradients 2^13 times as large: distance"] = apart(plain, large)
    return Finding("gradients 2^13 times as large: the same path, bit for bit", f"{error:.1e}", error == 0.0)


def contest(scale: str, figures: dict[str, float]) -> list[Finding]:
    """Criteria 4 to 7."""
    leads, words = {}, {}
    for batch in BATCHES[scale]:
        found = race(CONTENDERS, scale, batch=batch, **CHANGES[scale])
        record(found, figures, f"batch {batch}")
        leads[batch] = found["Lion"].mean - found["AdamW"].mean
        words[batch] = outcome(found)
    sizes = {name: float(found[name].state_bytes or 0.0) for name in CONTENDERS}
    figures.update({f"bytes of state a parameter, {name}": size for name, size in sizes.items()})
    return [state(sizes), *accuracies(leads, words, found.task)]


def state(sizes: Mapping[str, float]) -> Finding:
    """Criterion 4, from bytes a parameter."""
    return Finding(
        "4 bytes of state a parameter, AdamW 8",
        f"Lion {sizes['Lion']:.2f}, AdamW {sizes['AdamW']:.2f}",
        sizes["Lion"] == 4.0 and sizes["AdamW"] == 8.0,
    )


def accuracies(leads: Mapping[int, float], words: Mapping[int, str], task: str) -> list[Finding]:
    """Criteria 5 to 7, from Lion's accuracy minus AdamW's at each batch, the small one first."""
    within = [
        Finding(f"{task}, batch {batch}: at most half a point below AdamW", words[batch], lead >= -WITHIN)
        for batch, lead in leads.items()
    ]
    small, large = leads.values()
    lead = f"{points(small, 0.0)} at the small, {points(large, 0.0)} at the large"
    return [*within, Finding("lead no smaller at the large batch than at the small one", lead, large >= small)]
