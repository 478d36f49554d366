"""Learning rates that change over time: pure functions from the number of a step, 0 at first, to its rate.

    scaling:   lr = base_lr kn / base_batch, for k workers with n samples a step each
    warm-up:   up to that rate by a constant amount a step
    decay:     times 0.1 from each milestone on

P. Goyal et al., "Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour", 2017, arXiv:1706.02677.

`await me.train(steps=1, lr=schedule(t))` uses one in a protocol; under torch, an optimizer of rate 1 does with
`torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)`.
"""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable, Sequence

Schedule = Callable[[float], float]


def linear_scaling(batch: int, *, base_lr: float = 0.1, base_batch: int = 256) -> float:
    """The rate for `batch` samples a step, over all workers together: base_lr batch / base_batch.

    Args:
        batch: at least 1.
        base_lr: rate that suits `base_batch`, >= 0.
        base_batch: at least 1.

    >>> linear_scaling(8192)
    3.2
    """
    for name, value in (("batch", batch), ("base_batch", base_batch)):
        if value < 1:
            raise ValueError(f"{name}: got {value}; at least 1 is allowed")
    return _rate("base_lr", base_lr) * batch / base_batch


def constant(lr: float) -> Schedule:
    """The same rate `lr` >= 0 at every step."""
    _rate("lr", lr)
    return lambda step: lr


def step_decay(lr: float, milestones: Sequence[float], factor: float = 0.1) -> Schedule:
    """`lr` at first, multiplied by `factor` from each milestone on.

    Args:
        lr: >= 0.
        milestones: numbers of steps, in rising order.
        factor: >= 0.

    >>> schedule = step_decay(1.0, [30, 60])
    >>> [schedule(t) for t in (29, 30)]
    [1.0, 0.1]
    """
    _rate("lr", lr)
    _rate("factor", factor)
    ordered = tuple(milestones)
    if any(a >= b for a, b in itertools.pairwise(ordered)):
        raise ValueError(f"milestones: got {ordered}; numbers in rising order are allowed")
    return lambda step: lr * factor ** bisect.bisect_right(ordered, step)


def gradual_warmup(schedule: Schedule, *, start: float, steps: float) -> Schedule:
    """From `start` at step 0 to the rate of `schedule` at step `steps` in a straight line, then the schedule.

    Args:
        schedule: what follows; its own steps count from the start of the warm-up.
        start: rate of the first step, >= 0.
        steps: length of the warm-up, >= 0.

    >>> schedule = gradual_warmup(constant(0.5), start=0.1, steps=4)
    >>> [round(schedule(t), 3) for t in range(6)]
    [0.1, 0.2, 0.3, 0.4, 0.5, 0.5]
    """
    target = _warmed(schedule, start, steps)

    def rate(step: float) -> float:
        if step >= steps:
            return schedule(step)
        done = step / steps
        return (1.0 - done) * start + done * target

    return rate


def constant_warmup(schedule: Schedule, *, start: float, steps: float) -> Schedule:
    """The rate `start` for `steps` steps, then the schedule; arguments as of `gradual_warmup`."""
    _warmed(schedule, start, steps)
    return lambda step: schedule(step) if step >= steps else start


def power_decay(lr: float, power: float, steps: float = 1.0) -> Schedule:
    """lr / (1 + step / steps)^power: `lr` at first, and a 2^power-th of it after `steps` steps.

    Args:
        lr: >= 0.
        power: >= 0.
        steps: > 0.

    >>> schedule = power_decay(1.0, 0.5, steps=1)
    >>> [schedule(t) for t in (0, 3, 15)]
    [1.0, 0.5, 0.25]
    """
    _rate("lr", lr)
    _rate("power", power)
    if not 0.0 < steps < math.inf:
        raise ValueError(f"steps: got {steps}; a finite number > 0 is allowed")
    return lambda step: float(lr * (1.0 + step / steps) ** -power)


def warmup_cosine(peak: float, *, steps: int, warmup_steps: int = 0, final: float = 0.0) -> Schedule:
    """Linear up to `peak` in the warm-up, then half a cosine down to `final`, which is the rate of the last step.

    Counts steps as `shoal.optim.large_batch.warmup_polynomial`, the same with a polynomial, does.
    I. Loshchilov, F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2016, arXiv:1608.03983.

    Args:
        peak: rate of the last step of the warm-up, >= 0.
        steps: of the whole training; `final` is kept after them.
        warmup_steps: in [0, steps). The first step has peak / warmup_steps, not 0.
        final: >= 0.

    >>> schedule = warmup_cosine(1.0, steps=6, warmup_steps=2)
    >>> [round(schedule(t), 3) for t in range(6)]
    [0.5, 1.0, 0.854, 0.5, 0.146, 0.0]
    """
    _rate("peak", peak)
    _rate("final", final)
    if not 0 <= warmup_steps < steps:
        raise ValueError(f"warmup_steps: got {warmup_steps}; a number >= 0 and below steps = {steps} is allowed")

    def rate(step: float) -> float:
        t = step + 1.0
        if t <= warmup_steps:
            return peak * t / warmup_steps
        done = min(1.0, (t - warmup_steps) / (steps - warmup_steps))
        return final + (peak - final) * 0.5 * (1.0 + math.cos(math.pi * done))

    return rate


def large_minibatch(
    batch: int,
    epoch: float,
    *,
    base_lr: float = 0.1,
    base_batch: int = 256,
    warmup: float = 5,
    milestones: Sequence[float] = (30, 60, 80),
) -> Schedule:
    """The publication's recipe: scaled rate, warm-up from `base_lr` if it is above that, and decay by 0.1.

    Args:
        batch: samples a step, over all workers together.
        epoch: steps in an epoch, > 0.
        base_lr: rate that suits `base_batch`, and start of the warm-up.
        base_batch: batches up to this one need no warm-up.
        warmup: length of the warm-up in epochs.
        milestones: epochs from which the rate is a tenth of what it was before.
    """
    if not 0.0 < epoch < math.inf:
        raise ValueError(f"epoch: got {epoch}; a number of steps above 0 is allowed")
    target = linear_scaling(batch, base_lr=base_lr, base_batch=base_batch)
    schedule = step_decay(target, [m * epoch for m in milestones])
    return gradual_warmup(schedule, start=base_lr, steps=warmup * epoch) if batch > base_batch else schedule


def _warmed(schedule: Schedule, start: float, steps: float) -> float:
    _rate("start", start)
    _rate("steps", steps)
    return schedule(steps)


def _rate(name: str, value: float) -> float:
    if not 0.0 <= value < math.inf:
        raise ValueError(f"{name}: got {value}; a finite number >= 0 is allowed")
    return value
