"""Extreme eigenvalues of a Hessian by the Lanczos method with full reorthogonalisation, from products alone.

C. Lanczos, "An Iteration Method for the Solution of the Eigenvalue Problem", 1950; B. N. Parlett, "The Symmetric
Eigenvalue Problem", 1980. An orthonormal basis Q of the Krylov space of a random vector makes the Hessian tridiagonal,
Q H Q' = T; eigenvalues of T at the ends of the spectrum converge first. A Ritz pair (theta, Q's) is off by
|H Q's - theta Q's| = beta |s_last|, and by no more is theta off an eigenvalue.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.instruments.surface import Surface
from shoal.tensors.random import key, normal


@dataclass(frozen=True)
class Eigenpairs:
    """The ends of a spectrum.

    Attributes:
        values: float64 [k] on the CPU, the largest first.
        vectors: [k, d], of length 1; row i belongs to values[i].
        residuals: float64 [k], |H v - value v|: each value is no further than this from an eigenvalue.
        products: how many products with the Hessian were taken.
        converged: whether each residual is within the tolerance.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor
    products: int
    converged: bool


def sharpness(surface: Surface, at: Tensor | None = None, *, tolerance: float = 1e-3, seed: int = 0) -> float:
    """The largest eigenvalue of the Hessian; arguments as of `eigenpairs`."""
    return float(eigenpairs(surface, at, tolerance=tolerance, seed=seed).values[0])


def eigenpairs(
    surface: Surface,
    at: Tensor | None = None,
    *,
    top: int = 1,
    bottom: int = 0,
    tolerance: float = 1e-3,
    products: int = 200,
    seed: int = 0,
) -> Eigenpairs:
    """The `top` largest and `bottom` smallest eigenvalues of a surface's Hessian, with their vectors.

    Args:
        surface: whose Hessian, [d, d].
        at: where, [d]; None: where the model is.
        top, bottom: how many, >= 0; 1 to d together.
        tolerance: of a residual, relative to the largest absolute eigenvalue found; > 0.
        products: at most so many products with the Hessian, so many vectors [d] of memory too; >= top + bottom.
        seed: of the first vector, >= 0.

    Raises:
        ValueError: an argument out of range, or a Hessian that is not finite.
    """
    start = surface.vector()
    return lanczos(
        lambda v: surface.hvp(v, at), start, top=top, bottom=bottom, tolerance=tolerance, products=products, seed=seed
    )


def lanczos(
    product: Callable[[Tensor], Tensor],
    like: Tensor,
    *,
    top: int = 1,
    bottom: int = 0,
    tolerance: float = 1e-3,
    products: int = 200,
    seed: int = 0,
) -> Eigenpairs:
    """As `eigenpairs`, of any symmetric matrix: `product(v)` is its product with v; v is in the form of `like` [d].

    Where the Krylov space is exhausted before all is found, as with eigenvalues that are there several times, another
    random vector is added, until one changes nothing.
    """
    d, wanted = like.numel(), top + bottom
    _check(d, top, bottom, tolerance, products)
    basis = like.new_empty(min(products, d), d)
    basis[0] = _fresh(basis[:0], key(seed, "lanczos", 0))
    diagonal: list[float] = []
    beside: list[float] = []
    exhausted: Tensor | None = None  # the values wanted when a Krylov space was last used up
    while True:
        m = len(diagonal) + 1
        w = product(basis[m - 1])
        diagonal.append(float(w @ basis[m - 1]))
        w = _orthogonal(w, basis[:m])
        beta = float(w.norm())
        if not math.isfinite(diagonal[-1] + beta):
            raise ValueError("product: got a result that is not finite; a finite Hessian is needed")
        values, coordinates = torch.linalg.eigh(_tridiagonal(diagonal, beside))
        scale = float(values.abs().max())
        ends = [*range(m - 1, m - 1 - min(top, m), -1), *range(min(bottom, m) - 1, -1, -1)]
        spent = m == d or beta <= 4.0 * d**0.5 * torch.finfo(like.dtype).eps * scale
        residuals = coordinates[-1, ends].abs() * (0.0 if spent else beta)
        done = m >= wanted and bool((residuals <= tolerance * scale).all())
        if done and spent and m < d:
            done = exhausted is not None and bool(((values[ends] - exhausted).abs() <= tolerance * scale).all())
        if done or m == len(basis):
            break
        if spent:
            exhausted = values[ends] if m >= wanted else None
            w, beta = _fresh(basis[:m], key(seed, "lanczos", m)), 0.0
        beside.append(beta)
        basis[m] = w / w.norm()
    vectors = coordinates[:, ends].T.to(like) @ basis[:m]
    return Eigenpairs(values[ends], vectors, residuals, m, done)


def _check(d: int, top: int, bottom: int, tolerance: float, products: int) -> None:
    if min(top, bottom) < 0 or not 1 <= top + bottom <= d:
        raise ValueError(f"top, bottom: got {top}, {bottom}; numbers >= 0 with a sum in [1, {d}] are allowed")
    if not tolerance > 0.0:
        raise ValueError(f"tolerance: got {tolerance}; > 0 is allowed")
    if products < top + bottom:
        raise ValueError(f"products: got {products}; at least top + bottom = {top + bottom} is allowed")


def _tridiagonal(diagonal: list[float], beside: list[float]) -> Tensor:
    a, b = torch.tensor(diagonal, dtype=torch.float64), torch.tensor(beside, dtype=torch.float64)
    return a.diag() + b.diag(1) + b.diag(-1)


def _fresh(basis: Tensor, key: int) -> Tensor:
    """A random vector of length 1 that is orthogonal to the basis [m, d]."""
    drawn = normal(key, basis.shape[1], dtype=torch.float64, device=basis.device).to(basis)
    return torch.nn.functional.normalize(_orthogonal(drawn, basis), dim=0)


def _orthogonal(w: Tensor, basis: Tensor) -> Tensor:
    """What of w [d] is orthogonal to all of the basis [m, d]; the second pass removes what rounding left."""
    for _ in range(2):
        w = w - (basis @ w) @ basis
    return w
