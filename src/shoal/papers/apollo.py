"""H. Zhu, Z. Zhang, W. Cong, X. Liu, S. Park, V. Chandra, B. Long, D. Z. Pan, Z. Wang, J. Lee, "APOLLO: SGD-like
Memory, AdamW-level Performance", 2024 (arXiv 2412.05270).

Claimed: of AdamW's scaling only one number a channel (APOLLO) or a matrix (APOLLO-Mini) matters, and a random
projection of the gradient is enough to know it: its ratio to AdamW's is the root of rank / dimensions. So a language
model trains as well as with AdamW or better (LLaMA 130M on C4, perplexity: AdamW 25.08, APOLLO 22.94, Mini 23.84) with
about as little state as SGD.

Criteria, fixed before the run:

1. First step: channel j moves by lr sqrt(r) g_j / (|P g_j| + 1e-8), P being the projection of its seed, to 1e-10.
2. Random gradients [64, 48], rank 12: channel scales times sqrt(48 / 12) are on average within 5% of those of torch's
   Adam, with a standard deviation of at most 30%.
3. The update grows by at most 1.01 a step, and by just this where it wants to grow more, to 1e-6.
4. A matrix [m, n] costs 2 r max(m, n) numbers, a norm and a seed, as measured.
5. Characters, a small transformer, each with its best rate: APOLLO's (rank a quarter of the width) test loss is at most
   AdamW's,
6. and Mini's is at most AdamW's.
7. Both are at least 5% below SGD's with momentum.
8. Of matrices Mini keeps less than 10% of the bytes that AdamW keeps, as measured.

Notes. Embeddings are matrices like others. Biases and normalisations have AdamW's state in all; 8 leaves them out, as
they are a few percent of this model and next to nothing in a large one. Matrices here are 32 to 128 wide, so that two
numbers a channel weigh more than in a language model. The rates of SGD are higher than the others'.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import SGD, AdamW, Optimizer
from shoal.optim.apollo import APOLLO, APOLLOMini, projection
from shoal.papers.optimizers import apart, characters, outcome, path, race, record, torch_path
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

BELOW_SGD, SHARE = 0.05, 0.1
CONTENDERS = {
    "AdamW": Contender(AdamW, {"weight_decay": 0.0}),
    "APOLLO": Contender(APOLLO, {"rank": 8}, stacked=False),
    "APOLLO-Mini": Contender(APOLLOMini, stacked=False),
    "SGD": Contender(lambda lr: SGD.rule(lr, momentum=0.9), rates=(3e-2, 1e-1, 3e-1, 1.0)),
}
COMMON: dict[str, Any] = {"batch": 16, "metric": "loss"}
CHANGES: dict[str, dict[str, Any]] = {
    "check": {"steps": 60, "rates": (3e-3, 1e-2, 3e-2, 1e-1), "seeds": (7,), **COMMON},
    "full": {"steps": 300, "rates": (3e-3, 1e-2, 3e-2, 1e-1), **COMMON},
}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    findings = [first_step(figures), same_scales(figures), limited(figures), counted(figures)]
    task = characters()
    found = race(CONTENDERS, scale, task, **CHANGES[scale])
    record(found, figures)
    findings += [*contest(found), share_of_matrices(task, figures)]
    published = {"LLaMA 130M on C4, perplexity, AdamW, APOLLO, Mini (from memory)": "25.08, 22.94, 23.84"}
    return Result(findings, figures, published, found.seeds)


def first_step(figures: dict[str, float], lr: float = 0.3, rank: int = 4) -> Finding:
    """Criterion 1."""
    worst = 0.0
    for shape in ((9, 6), (6, 9)):
        x = nn.Parameter(torch.zeros(shape, dtype=torch.float64))
        g = x.grad = normal(key(41, "gradient"), shape, dtype=torch.float64)
        optimizer = APOLLO([x], lr, rank=rank, eps=1e-30)
        optimizer.step()
        p = projection(optimizer.state[x]["seed"], torch.tensor(0), rank, shape, torch.float64)
        low, axis = (g @ p.mT, 1) if shape[0] >= shape[1] else (p.mT @ g, 0)
        worst = max(worst, apart(x.detach(), -lr * g * rank**0.5 / (low.norm(dim=axis, keepdim=True) + 1e-8)))
    figures["first step: distance from the closed form"] = worst
    return Finding("the first step from its closed form, to 1e-10", f"{worst:.1e}", worst <= 1e-10)


def same_scales(figures: dict[str, float], rank: int = 12, steps: int = 60) -> Finding:
    """Criterion 2."""
    gradients = list(normal(key(42, "gradients"), (steps, 64, 48), dtype=torch.float64))
    start = torch.zeros(64, 48, dtype=torch.float64)
    ours = path(APOLLO.rule(1.0, rank=rank, eps=1e-12, norm_growth=None), gradients, start)
    theirs = torch_path(torch.optim.Adam, gradients, start, lr=1.0, eps=1e-12)
    lengths = [points.diff(dim=0)[-20:].norm(dim=2) for points in (ours, theirs)]  # over |g|, in which they agree
    ratios = lengths[0] / lengths[1] * (48 / rank) ** 0.5
    mean, spread = float(ratios.mean()), float(ratios.std())
    figures |= {"channel scales over Adam's, times sqrt(n / r)": mean, "their standard deviation": spread}
    return Finding(
        "channel scales times sqrt(n / r): Adam's within 5% on average, standard deviation at most 30%",
        f"{mean:.3f}, {spread:.3f}",
        abs(mean - 1.0) <= 0.05 and spread <= 0.3,
    )


def limited(figures: dict[str, float], steps: int = 30) -> Finding:
    """Criterion 3."""
    sizes = torch.ones(steps, dtype=torch.float64)
    sizes[10:] = 50.0
    gradients = normal(key(43, "gradients"), (steps, 12, 8), dtype=torch.float64) * sizes[:, None, None]
    moves = path(APOLLO.rule(1.0, rank=4), list(gradients), torch.zeros(12, 8, dtype=torch.float64)).diff(dim=0)
    t = torch.arange(1, steps + 1, dtype=torch.float64)
    lengths = moves.norm(dim=(1, 2)) / ((1.0 - 0.999**t).sqrt() / (1.0 - 0.9**t))
    growth = figures["largest growth of an update"] = float((lengths[1:] / lengths[:-1]).max())
    return Finding("updates grow by at most 1.01, to 1e-6", f"{growth:.9f}", abs(growth - 1.01) <= 1e-6)


def counted(figures: dict[str, float], rank: int = 5) -> Finding:
    """Criterion 4."""
    sizes = []
    for shape in ((40, 24), (24, 40)):
        x = nn.Parameter(torch.zeros(shape))
        x.grad = normal(key(44, "gradient"), shape)
        optimizer = APOLLO([x], rank=rank)
        optimizer.step()
        sizes.append(optimizer.state_bytes())
        figures[f"bytes of state, matrix {shape[0]} x {shape[1]}, rank {rank}"] = sizes[-1]
    expected = 4 * (2 * rank * 40 + 1) + 8
    return Finding("2 r max(m, n) numbers, a norm and a seed", f"{sizes}, {expected} bytes", set(sizes) == {expected})


def contest(found: Comparison) -> list[Finding]:
    """Criteria 5 to 7."""
    adam, channels, mini, sgd = (found[name].mean for name in CONTENDERS)
    worse = max(channels, mini)
    return [
        Finding(f"{found.task}: APOLLO's test loss at most AdamW's", outcome(found), channels <= adam),
        Finding("Mini's test loss at most AdamW's", f"{mini:.4f} against {adam:.4f}", mini <= adam),
        Finding("both at least 5% below SGD's", f"{worse:.4f} against {sgd:.4f}", worse <= (1.0 - BELOW_SGD) * sgd),
    ]


def matrix_bytes(make: type[Optimizer], task: Task) -> int:
    """Bytes that an optimizer keeps for the matrices of a task's model after a step."""
    matrices = [p for p in task.initial(0).parameters() if p.dim() == 2]
    for p in matrices:
        p.grad = normal(key(45, "gradient"), tuple(p.shape))
    optimizer = make(matrices)
    optimizer.step()
    return optimizer.state_bytes()


def share_of_matrices(task: Task, figures: dict[str, float]) -> Finding:
    """Criterion 8."""
    sizes = [matrix_bytes(make, task) for make in (APOLLOMini, AdamW)]
    figures |= {"bytes for matrices, Mini": sizes[0], "bytes for matrices, AdamW": sizes[1]}
    share = sizes[0] / sizes[1] if sizes[1] else math.inf
    return Finding(f"Mini's state of matrices below {SHARE:.0%} of AdamW's", f"{share:.1%}", share < SHARE)
