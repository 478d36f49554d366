"""What gradients that still have their graph tell of the Hessian: products with it, its diagonal, Newton's direction.

The functions take one model, or n stacked ones whose losses do not touch each other: the product of the summed losses'
Hessian with stacked vectors holds each model's own.

M. F. Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1989; M. R. Hestenes, E. Stiefel,
"Methods of Conjugate Gradients for Solving Linear Systems", 1952; T. Steihaug, "The Conjugate Gradient Method and Trust
Regions in Large Scale Optimization", 1983.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from shoal.optim.core.plan import Memory, Plan, compute_dtype
from shoal.optim.core.scalars import Scalar
from shoal.optim.core.transform import Shape
from shoal.tensors.attention import plain_attention
from shoal.tensors.random import derive, uniform

GRAPHED = ("curvature", "newton")
"""What needs gradients with their graph."""
BITS = 24  # of a number between 0 and 1, each of which makes a sign


@contextlib.contextmanager
def second_derivatives() -> Iterator[None]:
    """Forward passes in here can be differentiated twice: the fast forms of attention, which cannot, are avoided."""
    with plain_attention():
        yield


def signs(seed: Tensor, t: Scalar, shape: Shape, dtype: torch.dtype) -> Tensor:
    """-1 and 1 with equal chance.

    Args:
        seed: int64, 0-dim; or [n].
        t: number of the step; or a tensor [n].
        shape: of one draw.
        dtype: of the result.

    Returns:
        [*shape]; or [n, *shape].
    """
    step = torch.as_tensor(t, device=seed.device).to(torch.int64)
    count = math.prod(shape)
    words = (uniform(derive(seed, step), -(-count // BITS), purpose="signs") * 2.0**24).to(torch.int32)
    bits = words[..., None] >> torch.arange(BITS, dtype=torch.int32, device=seed.device) & 1
    return bits.flatten(-2)[..., :count].reshape((*seed.shape, *shape)).to(dtype).mul_(2.0).sub_(1.0)


def product(gradients: Sequence[Tensor], parameters: Sequence[Tensor], v: Sequence[Tensor], keep: bool) -> list[Tensor]:
    """The Hessian times v, in parts as the parameters are.

    Args:
        gradients: with their graph; those without are constant.
        parameters: what they are of.
        v: of the same shapes.
        keep: whether the graph is needed again.
    """
    pairs = [(g, x) for g, x in zip(gradients, v, strict=True) if g.requires_grad]
    if not pairs:
        return [torch.zeros_like(p) for p in parameters]
    outputs, along = zip(*pairs, strict=True)
    try:
        found = torch.autograd.grad(outputs, parameters, along, retain_graph=keep, allow_unused=True)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise RuntimeError(f"{error}: compute the loss within `with shoal.optim.second_derivatives():`") from error
    return [torch.zeros_like(p) if x is None else x for p, x in zip(parameters, found, strict=True)]


def diagonal(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], z: Sequence[Tensor], keep: bool = False
) -> list[Tensor]:
    """z * (H z): its mean over random signs is the Hessian's diagonal, which it meets exactly if that is all there is.

    Args:
        gradients, parameters, keep: as of `product`.
        z: signs.
    """
    return [(x * s).contiguous() for x, s in zip(product(gradients, parameters, z, keep), z, strict=True)]


def newton(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], steps: int, damping: float, stacked: bool = False
) -> list[Tensor]:
    """(H + damping)^-1 g by conjugate gradients.

    They end at the precision of the numbers, and at a direction without positive curvature; if that is the first, the
    gradient is returned. The graph is kept.

    Args:
        gradients, parameters: as of `product`.
        steps: at most.
        damping: added to the diagonal.
        stacked: whether there is a first axis of models, each of which ends by itself.
    """

    def dot(a: Sequence[Tensor], b: Sequence[Tensor]) -> Tensor:
        rows = a[0].shape[:1] if stacked else ()
        return torch.stack(
            [(x * y).reshape(*rows, -1).sum(-1, dtype=torch.float64) for x, y in zip(a, b, strict=True)]
        ).sum(0)

    def times(weight: Tensor, a: Sequence[Tensor]) -> list[Tensor]:
        return [x * weight.to(x.dtype).view([*weight.shape, *[1] * (x.dim() - weight.dim())]) for x in a]

    r = [g.detach() for g in gradients]
    d, q = [torch.zeros_like(x) for x in r], r
    first = left = dot(r, r)
    going = first > 0
    steepest = torch.zeros_like(going)
    for step in range(steps):
        if not stacked and not bool(going):
            break
        image = [x + damping * y for x, y in zip(product(gradients, parameters, q, True), q, strict=True)]
        bend = dot(q, image)
        if step == 0:
            steepest = going & (bend <= 0)
        going = going & (bend > 0)
        length = torch.where(going, left / torch.where(going, bend, 1.0), 0.0)
        d = [x + y for x, y in zip(d, times(length, q), strict=True)]
        r = [x - y for x, y in zip(r, times(length, image), strict=True)]
        new = dot(r, r)
        turn = torch.where(going, new / torch.where(left > 0, left, 1.0), 0.0)
        q = [x + y for x, y in zip(r, times(turn, q), strict=True)]
        left = new
        going = going & (left > first * torch.finfo(r[0].dtype).eps ** 2)
    instead = times(steepest.double(), [g.detach() for g in gradients])
    return [(x + y).contiguous() for x, y in zip(d, instead, strict=True)]


def supplied(
    plans: Sequence[Plan],
    gradients: Sequence[Tensor],
    parameters: Sequence[Tensor],
    signs: Sequence[Tensor],
    stacked: bool = False,
) -> list[Memory]:
    """What each parameter's chain asks for of the Hessian of those that ask for the same; the graph is let go.

    Args:
        plans: of the parameters.
        gradients, parameters, stacked: as of `newton`, whose settings are those of the plans that ask for it.
        signs: of the parameters whose plans ask for "curvature".

    Returns:
        For each parameter, tensors by name.

    Raises:
        ValueError: parameters of one Newton direction have different settings for it.
    """
    given: list[Memory] = [{} for _ in parameters]
    for name in ("newton", "curvature"):  # the last one lets go of the graph
        places = [i for i, plan in enumerate(plans) if name in plan.given]
        if not places:
            continue
        gs, ps = [gradients[i] for i in places], [parameters[i] for i in places]
        if name == "curvature":
            found = diagonal(gs, ps, signs)
        else:
            asking: list[Any] = [plans[i].chain[plans[i].given[name]] for i in places]
            wanted = {(transform.cg_steps, transform.eps) for transform in asking}
            if len(wanted) > 1:
                several = " and ".join(f"cg_steps={n}, eps={eps}" for n, eps in sorted(wanted))
                raise ValueError(f"param_groups: got {several} for one Newton direction; one of each is allowed")
            found = newton(gs, ps, *wanted.pop(), stacked)
        for i, x in zip(places, found, strict=True):
            given[i][name] = x.detach().to(compute_dtype(x.dtype))
    return given
