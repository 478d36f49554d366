"""Torch's fused kernels, for rules that are one of them, and for rules that have one as a part.

A kernel goes over all its tensors once. With numbers of one's own, and scratch in the place of a tensor that a rule has
not, more rules are kernels than torch's: RMSProp is Adam without a first moment, and LaProp's average is stepped as
AdamW steps a parameter. What comes out differs from the chain, taken operation by operation, by rounding alone.

The functions that take items are for `Transform.fused`, and say whether they took the step.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from shoal.optim.common import DecoupledDecay, WeightDecay
from shoal.optim.core import State, stepping
from shoal.optim.core.stepping import Item

ENDLESS = 2.0**62  # a number of steps after which moments need no correction
VECTOR = 64  # entries that fill the widest vectors: kernels round those differently that fill none
Decay = WeightDecay | DecoupledDecay


def adam(
    items: Sequence[Item],
    betas: tuple[float, float],
    eps: float,
    *,
    largest: str | None = None,
    times: float = 1.0,
    t: float | None = None,
) -> bool:
    """Adam's step, alone or after either kind of weight decay, with the slots "m" and "v".

    Args:
        items: as of `Transform.fused`.
        betas, eps: settings.
        largest: slot of the largest second moment, for AMSGrad.
        times: what the step is multiplied by.
        t: number of the step in the corrections of the moments; None is that of the parameters.
    """
    decay = _only_decay(items)
    if decay is None or not times or not plain(items, ("cpu", "cuda")):
        return False
    c = items[0].scalars[-2]
    decoupled = isinstance(decay, DecoupledDecay)
    kernel: Any = torch._fused_adamw_ if decoupled else torch._fused_adam_
    kernel(
        *([item.p for item in items], [item.g for item in items]),
        *([item.state[slot] for item in items] for slot in ("m", "v")),
        [item.state[largest] for item in items] if largest else [],
        [steps(c.t if t is None else t).to(items[0].p.device)] * len(items),
        lr=c.lr * times,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=decay.lam / times if decoupled else decay.lam,
        eps=eps,
        amsgrad=largest is not None,
        maximize=items[0].negate,
    )
    return True


def adam_(
    p: Tensor,
    g: Tensor,
    m: Tensor,
    v: Tensor,
    t: Tensor,
    *,
    lr: float,
    betas: tuple[float, float],
    eps: float,
    decay: float = 0.0,
    largest: Tensor | None = None,
) -> None:
    """Adam's step of one tensor.

    Args:
        p, g, m, v: parameter, gradient and moments; alike.
        t: number of the step in the corrections, as of `steps`.
        lr, betas, eps: settings; lr may be negative.
        decay: decoupled weight decay.
        largest: largest second moment so far, for AMSGrad.
    """
    torch._fused_adamw_(
        *([p], [g], [m], [v], [] if largest is None else [largest], [t]),
        lr=lr,
        beta1=betas[0],
        beta2=betas[1],
        weight_decay=decay,
        eps=eps,
        amsgrad=largest is not None,
        maximize=False,
    )


def moments_(
    u: Tensor, m: Tensor, v: Tensor, t: Tensor, spare: Tensor, betas: tuple[float, float], largest: Tensor | None = None
) -> None:
    """Adam's moments alone; `spare` is filled with anything, and `t` is any step."""
    adam_(spare, u, m, v, t, lr=0.0, betas=betas, eps=1.0, largest=largest)


def steps(t: float = ENDLESS) -> Tensor:
    """The number of a step as Adam's kernel takes it."""
    return torch.tensor(t, dtype=torch.float32)


def adagrad(items: Sequence[Item], eps: float, lr_decay: float) -> bool:
    """Adagrad's step, alone or after coupled weight decay, with the slot "squares"."""
    decay = _only_decay(items)
    if not isinstance(decay, WeightDecay) or not plain(items):
        return False
    c = items[0].scalars[-2]
    torch._fused_adagrad_(
        *([item.p for item in items], [item.g for item in items], [item.state["squares"] for item in items]),
        [steps(c.t)] * len(items),
        lr=c.lr,
        lr_decay=lr_decay,
        weight_decay=decay.lam,
        eps=eps,
        maximize=items[0].negate,
    )
    return True


def momentum_(p: Tensor, u: Tensor, m: Tensor, *, mu: float, new: float, lr: float) -> None:
    """m <- mu m + new u, then p <- p - lr m, with mu other than 0."""
    torch._fused_sgd_(
        *([p], [u], [m]),
        weight_decay=0.0,
        momentum=mu,
        lr=lr,
        dampening=1.0 - new,
        nesterov=False,
        maximize=False,
        is_first_step=False,
    )


@dataclass(eq=False, slots=True)
class Block:
    """What a transform finds of a block of a parameter; all tensors are flat.

    Attributes:
        u: the update so far; not to be changed.
        p: the parameter.
        s: slots of the transform.
        spare: scratch, with anything in it.
    """

    u: Tensor
    p: Tensor
    s: State
    spare: list[Tensor]


def by_blocks(items: Sequence[Item], take: Callable[[Block], None], spare: int = 0, behind: int = 0) -> bool:
    """The step of element-wise chains whose last transform, and the step itself, are done by `take`.

    Args:
        items: as of `Transform.fused`.
        take: steps a block in place.
        spare: how many blocks of scratch it needs.
        behind: how many transforms after that one it does as well.
    """
    plan = items[0].plan
    last = len(plan.chain) - 1 - behind
    if plan.granularity != "element" or plan.given or min(plan.after, default=last) < last or not plain(items):
        return False
    scratch = [items[0].p.new_empty(0)] * spare
    for part in stepping.pieces(items, VECTOR):
        p, g, state = part.p, part.g, part.state
        if p.dim() != 1:
            p, g, state = p.view(-1), g.view(-1), {key: state[key].view(-1) for key in plan.tensors}
        if part.negate:
            g = -g
        states = plan.bind(state)
        plan.begin(p, states, part.scalars)
        u = plan.transform(g, p, g, states, part.scalars, 0, last)
        n = p.numel()
        if spare and scratch[0].numel() < n:
            scratch = [torch.empty_like(p) for _ in range(spare)]
        take(Block(u, p, states[last], [x if x.numel() == n else x[:n] for x in scratch]))
    return True


def _only_decay(items: Sequence[Item]) -> Decay | None:
    """What stands before the last transform, if that is one decay; one of 0 for nothing."""
    *before, _ = items[0].plan.chain
    if not before:
        return WeightDecay(0.0)
    [*others, decay] = before
    return decay if not others and isinstance(decay, Decay) and type(decay) in (WeightDecay, DecoupledDecay) else None


def plain(items: Sequence[Item], devices: tuple[str, ...] = ("cpu",)) -> bool:
    """Whether all tensors are contiguous, on one such device, and all float32 or all float64."""
    first, keys = items[0].p, items[0].plan.tensors
    dtype, device = first.dtype, first.device
    if dtype not in (torch.float32, torch.float64) or device.type not in devices:
        return False
    for item in items:
        state = item.state
        for x in (item.p, item.g, *[state[key] for key in keys]):
            if x.dtype is not dtype or x.device != device or not x.is_contiguous():
                return False
    return True
