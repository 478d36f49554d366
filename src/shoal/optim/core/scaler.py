"""What torch's GradScaler asks of an optimizer, where that differentiates gradients a second time.

A scaler takes its scale off gradients before it calls `step`; off their graph it cannot. An optimizer whose
`_step_supports_amp_scaling` is true is left its gradients, and finds `grad_scale` (None if they are unscaled already)
and `found_inf` among its attributes for the length of a step.
"""

from __future__ import annotations

import torch


def unscaled(optimizer: torch.optim.Optimizer, given: bool) -> bool:
    """Whether to take a step at all; if so, the scale has been taken off the gradients.

    Args:
        optimizer: a scaler may have left it the gradients.
        given: whether what it needs beside gradients was worked out by somebody else, without a scale.

    Raises:
        RuntimeError: it would be worked out from the scaled loss's graph.
    """
    told = vars(optimizer)
    if "grad_scale" not in told:
        return True
    if not given:
        del optimizer.grad_scale, optimizer.found_inf  # type: ignore[attr-defined]
        raise RuntimeError(
            f"{type(optimizer).__name__} differentiates gradients a second time and cannot be stepped by a GradScaler, "
            "whose scale stays in their graph; bfloat16 needs none, or GradScaler(enabled=False)"
        )
    if bool(told["found_inf"]):
        return False
    for group in optimizer.param_groups:
        for p in group["params"]:
            if p.grad is not None and told["grad_scale"] is not None:
                p.grad.div_(told["grad_scale"].to(p.grad.device))
    return True
