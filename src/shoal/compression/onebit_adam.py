"""The arithmetic of 1-bit Adam, on flat vectors [d].

    t <= T_w:   m <- beta1 m + (1 - beta1) g      v <- beta2 v + (1 - beta2) g^2      (Adam; then v stays)
                x <- x - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)
    then:       u = beta1 m + (1 - beta1) g_i + e_i        send C(u)        e_i <- u - C(u)
                s = mean_i C(u_i) + e        m <- C(s)        e <- s - m
                x <- x - lr m [v > 0] / (sqrt(v) + eps)
    C(u) = sign(u) |u|_2 / sqrt(d) for each layer, sign(0) = 1

H. Tang, S. Gan, A. A. Awan, S. Rajbhandari, C. Li, X. Lian, J. Liu, C. Zhang, Y. He, "1-bit Adam: Communication
Efficient Large-Scale Training with Adam's Convergence Speed", 2021 (arXiv 2102.02888). v is kept with its bias removed.
Entries of v that are 0 have seen no gradient; what a bit, which is never 0, says of them is left out, and they never
move again.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.compression.codec import field_of
from shoal.tensors.layout import Layout
from shoal.tensors.packing import pack_bits, packed_bits_size, unpack_bits
from shoal.tensors.payload import Content, Payload


@dataclass(frozen=True)
class ScaledSigns(Payload):
    """Signs as bits, uint8 [ceil(d / 8)], and the size of the entries of each layer [layers]."""

    signs: Tensor
    scales: Tensor


def check_settings(lr: float, betas: tuple[float, float], eps: float, warmup: int) -> None:
    """Raise ValueError for what is out of range."""
    if not lr >= 0.0:
        raise ValueError(f"lr: got {lr}; a number >= 0 is allowed")
    if len(betas) != 2 or not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas: got {betas}; two numbers in [0, 1) are allowed")
    if not eps > 0.0:
        raise ValueError(f"eps: got {eps}; a number above 0 is allowed")
    if warmup < 1:
        raise ValueError(f"warmup: got {warmup}; at least one step in full precision is needed")


def one_bit(u: Tensor, layout: Layout) -> ScaledSigns:
    """C(u) of a vector [d], which keeps the norm of each layer."""
    scales = [float(u[layer.slice].norm(dtype=torch.float64)) / max(1, layer.size) ** 0.5 for layer in layout]
    return ScaledSigns(pack_bits(u >= 0, 1), torch.tensor(scales, dtype=u.dtype, device=u.device))


def decoded(payload: Content, layout: Layout) -> Tensor:
    """The vector [d] that C(u) stands for, from a payload of anybody; raises ValueError if it is malformed."""
    signs = field_of(payload, ScaledSigns, "signs", torch.uint8, [packed_bits_size(layout.size, 1)])
    scales = field_of(payload, ScaledSigns, "scales", layout.dtype, [len(layout)])
    result = unpack_bits(signs, 1, layout.size).to(layout.dtype).mul_(2.0).sub_(1.0)
    for layer, scale in zip(layout, scales.tolist(), strict=True):
        result[layer.slice].mul_(scale)
    return result


def warm_step(
    x: Tensor, m: Tensor, v: Tensor, g: Tensor, t: int, lr: float, betas: tuple[float, float], eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Adam's step number t (1 at first): new x, m and v [d]."""
    beta1, beta2 = betas
    m = torch.lerp(m, g, 1.0 - beta1)
    v = v.mul(beta2).addcmul_(g, g, value=1.0 - beta2)
    scale = v.sqrt().div_((1.0 - beta2**t) ** 0.5).add_(eps).mul_(1.0 - beta1**t)
    return torch.sub(x, m / scale, alpha=lr), m, v


def frozen(v: Tensor, t: int, beta2: float) -> Tensor:
    """v [d] as it is kept after step t."""
    return v / (1.0 - beta2**t)


def compensated(m: Tensor, g: Tensor, error: Tensor, beta1: float, layout: Layout) -> tuple[ScaledSigns, Tensor]:
    """What a worker sends of its momentum, and its new error [d]."""
    return with_error(torch.lerp(m, g, 1.0 - beta1).add_(error), layout)


def with_error(u: Tensor, layout: Layout) -> tuple[ScaledSigns, Tensor]:
    """C(u), and what it leaves out [d]."""
    payload = one_bit(u, layout)
    return payload, u - decoded(payload, layout)


def cold_step(x: Tensor, m: Tensor, v: Tensor, lr: float, eps: float) -> tuple[Tensor, Tensor]:
    """A step along the common momentum, with v kept: new x, and m without the entries that never had a gradient."""
    m = torch.where(v > 0, m, 0.0)
    return torch.sub(x, m / (v.sqrt() + eps), alpha=lr), m
