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
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from shoal.optim.core.arguments import finite, plain
from shoal.text import shown

T = TypeVar("T")
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
        _checked(name, value, _is_number(value) and value >= 1, "a finite number >= 1")
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
    ordered = _rising(milestones)
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
    _checked("steps", steps, _is_number(steps) and steps > 0.0, "a finite number > 0")
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
    check_warmup(warmup_steps, steps)

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
    _checked("epoch", epoch, _is_number(epoch) and epoch > 0.0, "a finite number > 0")
    _rate("warmup", warmup)
    target = linear_scaling(batch, base_lr=base_lr, base_batch=base_batch)
    schedule = step_decay(target, [m * epoch for m in _rising(milestones)])
    return gradual_warmup(schedule, start=base_lr, steps=warmup * epoch) if batch > base_batch else schedule


def _warmed(schedule: Schedule, start: float, steps: float) -> float:
    _rate("start", start)
    _rate("steps", steps)
    _checked("schedule", schedule, callable(schedule), "a function from the step to the rate, such as constant(0.1),")
    return schedule(steps)


def check_warmup(warmup_steps: float, steps: float) -> None:
    """Refuse a warm-up that does not end within the training.

    Raises:
        ValueError: names the argument.
    """
    _checked("steps", steps, _is_number(steps) and steps > 0, "a finite number > 0")
    fits = _is_number(warmup_steps) and 0 <= warmup_steps < steps
    _checked("warmup_steps", warmup_steps, fits, f"a number >= 0 and below steps = {steps}")


def _rising(milestones: Sequence[float]) -> tuple[float, ...]:
    found = tuple(milestones) if isinstance(milestones, Iterable) else None
    if found is None or not all(map(_is_number, found)) or any(a >= b for a, b in itertools.pairwise(found)):
        raise ValueError(f"milestones: got {shown(milestones)}; numbers in rising order are allowed")
    return found


def _rate(name: str, value: float) -> float:
    return _checked(name, value, _is_number(value) and value >= 0.0, "a finite number >= 0")


def _is_number(value: object) -> bool:
    return finite(plain(value))


def _checked(name: str, value: T, fits: bool, allowed: str) -> T:
    if not fits:
        raise ValueError(f"{name}: got {shown(value)}; {allowed} is allowed")
    return value
