"""What torch's GradScaler asks of an optimizer, where that differentiates gradients a second time.

A scaler takes its scale off gradients before it calls `step`; off their graph it cannot. An optimizer whose
`_step_supports_amp_scaling` is true is left its gradients, and finds `grad_scale` (None if they are unscaled already)
and `found_inf` among its attributes for the length of a step.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor


@contextmanager
def scale_taken_off(optimizer: torch.optim.Optimizer, given: bool) -> Iterator[bool]:
    """A step without the scale on its gradients; yields whether it is to be taken at all.

    If it is refused, gradients have their scale again, and the optimizer keeps nothing of the scaler's.

    Args:
        optimizer: a scaler may have left it the gradients.
        given: whether what it needs beside gradients was worked out by somebody else, without a scale.

    Raises:
        RuntimeError: it would be worked out from the scaled loss's graph.
    """
    told = vars(optimizer)
    if "grad_scale" not in told:
        yield True
        return
    scale: Tensor | None = told["grad_scale"]
    try:
        if not given:
            raise RuntimeError(
                f"{type(optimizer).__name__} differentiates gradients a second time and cannot be stepped by a "
                "GradScaler, whose scale stays in their graph; bfloat16 needs none, or GradScaler(enabled=False)"
            )
        if told["found_inf"]:
            yield False
            return
        if scale is not None:
            _multiply(optimizer, scale.reciprocal())
        yield True
    except BaseException:
        if given and scale is not None:
            _multiply(optimizer, scale)
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        raise


def _multiply(optimizer: torch.optim.Optimizer, factor: Tensor) -> None:
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None:
                p.grad.mul_(factor.to(p.grad.device))
