"""Opposing signals: few samples whose losses change most from one step to the next, half of them up and half down.

A large feature that two groups of outliers share, and that pulls them in opposite directions, is kept in balance in a
narrow valley. It sharpens until a step throws the balance over: the loss of one group rises while that of the other
falls, and the mean hardly shows it.

E. Rosenfeld, A. Risteski, "Outliers with Opposing Signals Have an Outsized Effect on Neural Network Optimization",
ICLR 2024 (arXiv:2311.04163).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from shoal.instruments.stepping import Stepper
from shoal.learning.task import Loss
from shoal.optim import Rule


@dataclass(frozen=True, eq=False)
class Groups:
    """The samples with the most outsized changes of loss in one step.

    Attributes:
        up, down: rows of the samples whose losses rose and fell most, int64 [count], the largest change first.
        share: part that both groups have of the sum of all absolute changes.
    """

    up: Tensor
    down: Tensor
    share: float


def opposing_groups(before: Tensor, after: Tensor, count: int) -> Groups:
    """Rank samples by how their losses changed.

    Args:
        before, after: losses [n] of the same samples.
        count: samples of each group, at most n / 2.

    Raises:
        ValueError: lengths differ, or there are too few samples.
    """
    if before.shape != after.shape or before.dim() != 1:
        raise ValueError(f"before, after: got shapes {list(before.shape)} and {list(after.shape)}; one [n] is allowed")
    if not 1 <= count <= len(before) // 2:
        raise ValueError(f"count: got {count}; 1 to half of the {len(before)} samples is allowed")
    change = after.double() - before.double()
    order = torch.argsort(change, descending=True, stable=True)
    up, down = order[:count], order.flip(0)[:count]
    whole = float(change.abs().sum())
    share = float(change[up].abs().sum() + change[down].abs().sum()) / whole if whole > 0 else 0.0
    return Groups(up, down, share)


def jump(losses: Tensor) -> int:
    """The step t, from row t of losses [T, n] to the next, at which opposing changes are best seen.

    That is where the mean loss rises most; if it never does, where most of the samples' changes cancel: the largest of
    min(sum of rises, sum of falls).

    Raises:
        ValueError: fewer than two rows.
    """
    if len(losses) < 2:
        raise ValueError(f"losses: got {len(losses)} rows; at least 2 are allowed")
    change = losses.double().diff(dim=0)
    rise = change.mean(1)
    if float(rise.max()) > 0:
        return int(rise.argmax())
    return int(torch.minimum(change.clamp(min=0).sum(1), -change.clamp(max=0).sum(1)).argmax())


@dataclass(frozen=True, eq=False)
class FullBatchPath:
    """What a full-batch training did to each sample; row t is before step t.

    Attributes:
        losses: [steps + 1, n]; shorter if it diverged.
        outputs: [steps + 1, n, C], the mean over places where an output has several.
        marks, eigenvalues: steps at which the top eigenvalue of the Hessian was measured, and what it was.
        diverged: whether it ended early.
    """

    losses: Tensor
    outputs: Tensor
    marks: tuple[int, ...]
    eigenvalues: tuple[float, ...]
    diverged: bool

    @property
    def mean(self) -> Tensor:
        """Mean losses [steps + 1]."""
        return self.losses.mean(1)


def full_batch_path(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    rule: Rule,
    steps: int,
    *,
    sharpness: Callable[[nn.Module], float] | None = None,
    every: int = 10,
    tell: Callable[[int], None] = lambda done: None,
) -> FullBatchPath:
    """Train on all samples at once, and keep every sample's loss and output.

    Args:
        model: trained in place.
        loss: `loss(output, target) -> [B]`.
        inputs, targets: all samples [n, ...].
        rule: the optimizer.
        steps: how many.
        sharpness: from the model to the top eigenvalue of the Hessian; None: it is not measured.
        every: steps from one measurement of that to the next.
        tell: called with the number of steps done.
    """
    stepper = Stepper(model, loss, rule)
    losses, outputs, marks, values = [], [], [], []
    diverged = False
    for t in range(steps + 1):
        if sharpness is not None and t % every == 0:
            marks.append(t)
            values.append(sharpness(model))
        if t < steps:
            own, output = stepper.step(inputs, targets)
        else:
            with torch.no_grad():
                output = model(inputs)
                own = loss(output, targets)
        if not bool(torch.isfinite(own).all()):
            diverged = True
            break
        losses.append(own)
        outputs.append(_flat(output))
        tell(t + 1)
    return FullBatchPath(torch.stack(losses), torch.stack(outputs), tuple(marks), tuple(values), diverged)


def alignment(model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, groups: Groups) -> float:
    """The cosine between the gradients of both groups' mean losses; near -1 they pull in opposite directions."""
    module = model.eval()
    parameters = [p for p in module.parameters() if p.requires_grad]
    found = []
    for rows in (groups.up, groups.down):
        mean = loss(module(inputs[rows]), targets[rows]).mean()
        parts = torch.autograd.grad(mean, parameters, allow_unused=True)
        zeros = (torch.zeros_like(p) if g is None else g for p, g in zip(parameters, parts, strict=True))
        found.append(torch.cat([part.flatten() for part in zeros]).double())
    sizes = float(found[0].norm() * found[1].norm())
    return float(found[0] @ found[1]) / sizes if sizes > 0 else math.nan


def _flat(output: Tensor) -> Tensor:
    """Outputs [n, ..., C] -> [n, C]."""
    if output.dim() < 2:
        return output[:, None]
    return output if output.dim() == 2 else output.flatten(1, -2).mean(1)
