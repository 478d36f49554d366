"""FID: the Fréchet distance between two sets of samples, seen as Gaussians in a space of features.

    FID = |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)),     Tr (C1 C2)^(1/2) = Tr (C1^(1/2) C2 C1^(1/2))^(1/2)

with means m and covariances C of the features. The matrix on the right is symmetric and not negative, so that its root
is real whatever C1 and C2 are, singular ones too.

M. Heusel, H. Ramsauer, T. Unterthiner, B. Nessler, S. Hochreiter, "GANs Trained by a Two Time-Scale Update Rule
Converge to a Local Nash Equilibrium", NeurIPS 2017, arXiv:1706.08500.

Figures of different features, or of different numbers of samples, do not compare: FID is biased upwards where samples
are few. Published figures have features of Inception-v3 [2048] and 50,000 samples; any callable can be the features.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

Features = Callable[[Tensor], Tensor]
ENOUGH = 10
"""Samples a dimension below which a distance comes with a warning."""


def frechet_distance(mean1: Tensor, cov1: Tensor, mean2: Tensor, cov2: Tensor) -> float:
    """The squared Fréchet (Wasserstein-2) distance of two Gaussians, in float64.

    Args:
        mean1, mean2: [d].
        cov1, cov2: [d, d], symmetric, without negative eigenvalues but for rounding.

    Returns:
        A number >= 0.

    Raises:
        ValueError: shapes differ, a value is not finite, or a covariance is none.
    """
    d = mean1.shape[0] if mean1.dim() == 1 else -1
    for name, x, shape in (
        ("mean1", mean1, (d,)),
        ("mean2", mean2, (d,)),
        ("cov1", cov1, (d, d)),
        ("cov2", cov2, (d, d)),
    ):
        if tuple(x.shape) != shape or d < 1:
            raise ValueError(f"{name}: got shape {tuple(x.shape)}; means [d] and covariances [d, d] are allowed")
        if not bool(torch.isfinite(x).all()):
            raise ValueError(f"{name}: got NaN or infinity; finite numbers are allowed")
    root = _root("cov1", cov1)
    _root("cov2", cov2)
    c1, c2 = cov1.double(), cov2.double().to(root.device)
    gap = mean1.double().to(root.device) - mean2.double().to(root.device)
    cross = torch.linalg.eigvalsh(_symmetric(root @ c2 @ root)).clamp(min=0.0).sqrt().sum()
    return max(0.0, float(gap @ gap + c1.trace() + c2.trace() - 2.0 * cross))


def _root(name: str, covariance: Tensor) -> Tensor:
    """The symmetric square root."""
    c = covariance.double()
    scale = max(float(c.abs().max()), 1e-300)
    if float((c - c.T).abs().max()) > 1e-6 * scale:
        raise ValueError(f"{name}: got a matrix that is not symmetric; covariances are allowed")
    values, vectors = torch.linalg.eigh(_symmetric(c))
    if float(values[0]) < -1e-6 * scale * len(values):
        raise ValueError(f"{name}: got an eigenvalue of {float(values[0]):.3g}; covariances have none below 0")
    root: Tensor = (vectors * values.clamp(min=0.0).sqrt()) @ vectors.T
    return root


def _symmetric(matrix: Tensor) -> Tensor:
    return (matrix + matrix.T) / 2


@dataclass(frozen=True)
class Moments:
    """Number, mean and covariance of samples that come in parts, in float64.

        moments = Moments.of(first) + Moments.of(second)

    Sums are of deviations from the mean (Chan, Golub, LeVeque 1983), so that a large mean costs no digits.

    Attributes:
        count: number of samples.
        mean: [d].
        scatter: [d, d], the sum of outer products of deviations from the mean.
    """

    count: int
    mean: Tensor
    scatter: Tensor

    @classmethod
    def of(cls, samples: Tensor) -> Moments:
        """Of samples [n, d], at least one.

        Raises:
            ValueError: another shape, or a value that is not finite.
        """
        if samples.dim() != 2 or not samples.numel():
            raise ValueError(f"samples: got shape {tuple(samples.shape)}; [n, d] with n, d >= 1 is allowed")
        x = samples.detach().double()
        if not bool(torch.isfinite(x).all()):
            raise ValueError("samples: got NaN or infinity; finite numbers are allowed")
        mean = x.mean(0)
        x = x - mean
        return cls(len(x), mean, x.T @ x)

    def __add__(self, other: Moments) -> Moments:
        """Of both together.

        Raises:
            ValueError: they are of different dimensions.
        """
        if self.mean.shape != other.mean.shape:
            raise ValueError(f"samples: got {len(other.mean)} dimensions after {len(self.mean)}; one number is allowed")
        count = self.count + other.count
        gap = other.mean - self.mean
        mean = self.mean + gap * (other.count / count)
        between = torch.outer(gap, gap) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """[d, d], unbiased.

        Raises:
            ValueError: there is one sample only.
        """
        if self.count < 2:
            raise ValueError(f"samples: got {self.count}; a covariance needs at least 2")
        return self.scatter / (self.count - 1)


class FID:
    """Distances between sets of samples, through one and the same features.

        fid = FID(fashion_features())
        fid(real, fake)                                    # tensors, or iterables of batches
        known = fid.moments(real)                          # once, for many fakes
        fid(known, fake)

    Args:
        features: samples [n, ...] -> [n, d] (what has more axes is flattened). A module is used as it is: put it into
            `eval()` where that matters.
        batch: samples that go through the features at once.
        strict: refuse what else brings a warning.

    Raises:
        ValueError: an argument is not allowed.
    """

    def __init__(self, features: Features, *, batch: int = 1000, strict: bool = False) -> None:
        if not callable(features):
            raise ValueError(f"features: got {type(features).__name__}; a function of samples is allowed")
        if batch < 1:
            raise ValueError(f"batch: got {batch}; at least 1 is allowed")
        self.features, self.batch, self.strict = features, batch, strict

    @torch.no_grad()
    def moments(self, samples: Tensor | Iterable[Tensor]) -> Moments:
        """Of the features of samples [n, ...], or of batches of them.

        Raises:
            ValueError: there are none, or features are not finite.
        """
        found: Moments | None = None
        for part in (samples,) if isinstance(samples, Tensor) else samples:
            for some in part.split(self.batch):
                own = Moments.of(self.features(some).flatten(1))
                found = own if found is None else found + own
        if found is None:
            raise ValueError("samples: got none; at least 2 are needed")
        return found

    def __call__(self, real: Moments | Tensor | Sequence[Tensor], fake: Moments | Tensor | Sequence[Tensor]) -> float:
        """The distance; symmetric in its arguments.

        Raises:
            ValueError: a set has no more samples than there are features: its covariance is singular whatever the
                samples are. With `strict` also where it has fewer than 10 times as many, which brings a warning else.
        """
        sides = [x if isinstance(x, Moments) else self.moments(x) for x in (real, fake)]
        for name, side in zip(("real", "fake"), sides, strict=True):
            self._check(name, side)
        a, b = sides
        return frechet_distance(a.mean, a.covariance, b.mean, b.covariance)

    def _check(self, name: str, side: Moments) -> None:
        n, d = side.count, len(side.mean)
        if n >= ENOUGH * d:
            return
        said = f"{name}: got {n} samples for {d} features"
        if n <= d:
            raise ValueError(f"{said}; more samples than features are allowed, and {ENOUGH * d} are advised")
        if self.strict:
            raise ValueError(f"{said}; at least {ENOUGH * d} are allowed")
        warnings.warn(f"{said}: the distance is biased upwards; {ENOUGH * d} or more are advised", stacklevel=3)
