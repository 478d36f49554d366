"""K. Lv, H. Yan, Q. Guo, H. Lv, X. Qiu, "AdaLomo: Low-memory Optimization with Adaptive Learning Rate", 2023 (arXiv
2310.10195).

Claimed: to update each tensor within the backward pass as LOMO does, with a factored second moment and updates
normalised tensor by tensor, is as good as AdamW for instruction tuning and further training of LLaMA 7B to 65B, and
much better than LOMO, at about LOMO's memory: gradients of one tensor at a time, and state of O(m + n) for a matrix.

Criteria, fixed before the run:

1. A gradient whose squares are of rank one, first step: every entry moves by lr max(1e-3, RMS(p)), in the direction of
   its sign, to 1e-10.
2. The RMS of an update never exceeds lr max(1e-3, RMS(p)), to 1e-9, over 40 steps with gradients that grow suddenly.
3. A transformer for characters: live gradients never exceed the largest tensor in bytes, none is left after the
   backward pass, and state is at most 15% of the model's bytes, all measured; AdamW has gradients of the whole model.
4. The fused update gives the same model as a backward pass with the update after it, to 1e-6, over 5 steps.
5. Characters, that transformer, each with its best rate: test loss at most AdamW's + 0.03.
6. It is below LOMO's.

Notes. Training begins at random weights, not at those of a language model. 15% allows for biases and normalisations,
whose second moments are not factored. LOMO without clipping is SGD.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from shoal.learning import Task
from shoal.learning.contenders import Contender
from shoal.learning.results import Comparison
from shoal.optim import AdamW, Optimizer
from shoal.optim.adalomo import LOMO, AdaLomo
from shoal.papers.optimizers import characters, outcome, path, race, record
from shoal.papers.result import Finding, Result
from shoal.tensors import key, normal

SLACK, SHARE = 0.03, 0.15
CONTENDERS = {
    "AdamW": Contender(AdamW, rates=(1e-3, 3e-3, 1e-2, 3e-2)),
    "AdaLomo": Contender(AdaLomo, rates=(1e-2, 3e-2, 1e-1, 3e-1)),  # of a tensor's size
    "LOMO": Contender(LOMO, rates=(1e-1, 3e-1, 1.0, 3.0)),
}
CHANGES: dict[str, dict[str, Any]] = {
    "check": {"steps": 70, "seeds": (7,), "batch": 16, "metric": "loss"},
    "full": {"steps": 300, "batch": 16, "metric": "loss"},
}


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    figures: dict[str, float] = {}
    task = characters()
    findings = [rank_one(figures), bounded(figures), memory(task, figures), fused(task, figures)]
    found = race(CONTENDERS, scale, task, **CHANGES[scale])
    record(found, figures)
    findings += contest(found)
    published = {
        "instruction tuning, further training": "on a par with AdamW, LOMO much worse",
        "memory": "about LOMO's",
    }
    return Result(findings, figures, published, found.seeds)


# -- exact -------------------------------------------------------------------------------------------------------------


def rank_one(figures: dict[str, float], lr: float = 0.02) -> Finding:
    """Criterion 1."""
    rows, columns = (normal(key(51, name), n, dtype=torch.float64) for name, n in (("rows", 7), ("columns", 5)))
    worst = 0.0
    for size in (2.0, 1e-5):
        start = size * normal(key(51, "start"), (7, 5), dtype=torch.float64)
        moved = start - path(AdaLomo.rule(lr), [torch.outer(rows, columns)], start)[-1]
        step = lr * max(1e-3, float(start.square().mean().sqrt()))
        worst = max(worst, float((moved / step - torch.outer(rows.sign(), columns.sign())).abs().max()))
    figures["first step of rank one: distance from the signs"] = worst
    return Finding("squares of rank one: the first step is the sign, to 1e-10", f"{worst:.1e}", worst <= 1e-10)


def bounded(figures: dict[str, float], lr: float = 0.02, steps: int = 40) -> Finding:
    """Criterion 2."""
    sizes = torch.ones(steps, 1, 1, dtype=torch.float64)
    sizes[::7] = 100.0
    gradients = normal(key(52, "gradients"), (steps, 9, 6), dtype=torch.float64) * sizes
    points = path(AdaLomo.rule(lr), list(gradients), normal(key(52, "start"), (9, 6), dtype=torch.float64))
    rms = [x.square().mean((1, 2)).sqrt() for x in (points.diff(dim=0), points[:-1])]
    most = figures["largest RMS of an update / (lr RMS(p))"] = float((rms[0] / (lr * rms[1].clamp(min=1e-3))).max())
    return Finding("RMS of updates at most lr RMS(p), to 1e-9", f"{most:.9f} times", most <= 1.0 + 1e-9)


def losses(task: Task, model: nn.Module, step: int, batch: int = 8) -> Tensor:
    """The mean loss of some training samples."""
    part = task.dataset.train[slice(step * batch, (step + 1) * batch)]
    return task.loss(model(part.inputs), part.targets).mean()


def peak(make: type[Optimizer], task: Task, steps: int = 3) -> tuple[int, int, int]:
    """Bytes: most gradients alive at once in backward passes, gradients left after them, state."""
    model = task.initial(53)
    parameters = list(model.parameters())
    seen = [0]

    def look(_: Tensor) -> None:
        seen.append(sum(p.grad.nbytes for p in parameters if p.grad is not None))

    for p in parameters:  # before the optimizer's own hooks, which come after these
        p.register_post_accumulate_grad_hook(look)
    optimizer, left = make(parameters, lr=0.01), 0
    for step in range(steps):
        losses(task, model, step).backward()
        left = max(left, sum(p.grad.nbytes for p in parameters if p.grad is not None))
        optimizer.step()
        optimizer.zero_grad()
    return max(seen), left, optimizer.state_bytes()


def memory(task: Task, figures: dict[str, float]) -> Finding:
    """Criterion 3."""
    sizes = [p.nbytes for p in task.initial(53).parameters()]
    ours, theirs = peak(AdaLomo, task), peak(AdamW, task)
    for name, (most, left, state) in (("AdaLomo", ours), ("AdamW", theirs)):
        figures |= {f"{name}: most bytes of gradients": most, f"{name}: left after backward": left}
        figures[f"{name}: bytes of state"] = state
    figures |= {"bytes of the model": sum(sizes), "bytes of the largest tensor": max(sizes)}
    return Finding(
        f"gradients at most of the largest tensor, none left, state at most {SHARE:.0%} of the model",
        f"{ours[0]} and {ours[1]} left ({theirs[0]} for AdamW), largest {max(sizes)}; "
        f"state {ours[2]} ({theirs[2]} for AdamW), model {sum(sizes)}",
        ours[0] <= max(sizes) and ours[1] == 0 and ours[2] <= SHARE * sum(sizes) and theirs[0] == sum(sizes),
    )


def fused(task: Task, figures: dict[str, float], steps: int = 5) -> Finding:
    """Criterion 4."""
    vectors = []
    for within in (True, False):
        model = task.initial(54)
        optimizer = AdaLomo(model.parameters(), lr=0.03)
        if not within:
            optimizer.detach()
        for step in range(steps):
            losses(task, model, step).backward()
            optimizer.step()
        vectors.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    error = figures["fused against not: largest difference"] = float((vectors[0] - vectors[1]).abs().max())
    moved = math.dist(vectors[0].tolist(), torch.cat([p.flatten() for p in task.initial(54).parameters()]).tolist())
    return Finding("fused and after the pass: the same model, to 1e-6", f"{error:.1e}", error <= 1e-6 and moved > 0.01)


# -- loss --------------------------------------------------------------------------------------------------------------


def contest(found: Comparison) -> list[Finding]:
    """Criteria 5 and 6."""
    adam, ours, lomo = (found[name].mean for name in CONTENDERS)
    return [
        Finding(f"{found.task}: test loss at most AdamW's + {SLACK}", outcome(found), ours <= adam + SLACK),
        Finding("below LOMO's", f"{ours:.4f} against {lomo:.4f}", ours < lomo),
    ]
