"""Gradient noise, and what it says about batch sizes: noise scales, and the best learning rate at each batch size.

With the gradient of a sample in coordinate i of mean mu_i and variance sigma_i^2, s = mu / sigma, and a Hessian H:

    sign descent   E_i = erf(sqrt(B/2) s_i)
                   eps(B) = sum E_i mu_i / (sum H_ii + sum_{i!=j} H_ij E_i E_j)
        small B    eps(B) = 2 eps_max / (sqrt(B_noise/B) + sqrt(B/B_noise))
                   B_noise = pi sum H_ii / (2 sum_{i!=j} H_ij s_i s_j)
                   eps_max = sum mu_i^2/sigma_i / (2 sqrt(sum H_ii sum_{i!=j} H_ij s_i s_j))
    SGD            eps(B) = eps_max / (1 + B_noise/B),   eps_max = |G|^2 / G'HG,   B_noise = tr(H Sigma) / G'HG
    simple scale   tr(Sigma) / |G|^2

S. Li, P. Zhao, H. Zhang, X. Sun, H. Wu, D. Jiao, W. Wang, C. Liu, Z. Fang, J. Xue, Y. Tao, B. Cui, D. Wang, "Surge
Phenomenon in Optimal Learning Rate and Batch Size Scaling", NeurIPS 2024 (arXiv:2405.14578); S. McCandlish, J. Kaplan,
D. Amodei et al., "An Empirical Model of Large-Batch Training", arXiv:1812.06162 (2018).

The law takes gradients to be normal and independent over coordinates, so that a sign is never 0. A coordinate whose
gradient is 0 for all samples does not move, and counts for nothing here; one whose gradient is 0 for most samples (rows
of an embedding) is outside the law at small batches.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor, nn

from shoal.learning.task import Loss
from shoal.optim import second_derivatives
from shoal.tensors.random import key, normal, rademacher

Product = Callable[[Tensor], Tensor]
"""A Hessian as its products with vectors [d] -> [d]."""
CHUNK = 1 << 23  # entries of the per-sample gradients that are held at a time


def per_sample_gradients(
    model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, *, chunk: int | None = None
) -> Iterator[Tensor]:
    """The gradients of samples one by one, in evaluation mode.

    Args:
        model: whose trained parameters, flat and in their order, are the coordinates.
        loss: `loss(output, target) -> [B]`.
        inputs, targets: samples [n, ...].
        chunk: samples at a time; as many as make `CHUNK` entries unless given.

    Yields:
        [at most `chunk`, d] in the order of the samples.

    Raises:
        ValueError: the model has nothing to train, or there are no samples.
    """
    module = copy.deepcopy(model).eval()
    trained = {name: p.detach() for name, p in module.named_parameters() if p.requires_grad}
    size = sum(p.numel() for p in trained.values())
    if not size or not len(inputs):
        raise ValueError(
            f"model, inputs: got {size} trained parameters and {len(inputs)} samples; at least 1 is allowed"
        )
    chunk = chunk or max(1, CHUNK // size)

    def one(values: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return loss(torch.func.functional_call(module, values, (x[None],)), y[None])[0]

    gradient = torch.func.grad(one)
    stacked = True
    for start in range(0, len(inputs), chunk):
        x, y = inputs[start : start + chunk], targets[start : start + chunk]
        with second_derivatives():  # the fast forms of attention are not vmapped
            if stacked:
                try:
                    found = torch.func.vmap(gradient, (None, 0, 0))(trained, x, y)
                except RuntimeError:  # what vmap cannot take goes one by one
                    stacked = False
            if not stacked:
                rows = [gradient(trained, a, b) for a, b in zip(x, y, strict=True)]
                found = {name: torch.stack([row[name] for row in rows]) for name in trained}
        yield torch.cat([found[name].reshape(len(x), -1) for name in trained], 1).detach()


@dataclass(frozen=True, eq=False)
class GradientStatistics:
    """Mean and spread of the gradients of single samples.

    Attributes:
        samples: how many there were, n >= 2.
        mean: float64 [d].
        variance: over n - 1, float64 [d].
        draws: float64 [q, d], with the covariance of the gradients: sums of their deviations with random signs.
    """

    samples: int
    mean: Tensor
    variance: Tensor
    draws: Tensor

    @property
    def active(self) -> Tensor:
        """Coordinates in which any sample has a gradient, bool [d]."""
        return (self.variance > 0) | (self.mean != 0)

    def simple_noise_scale(self, of: int | None = None) -> float:
        """tr(Sigma) / |G|^2, the batch size below which noise rules; infinite if no gradient is seen beside the noise.

        Args:
            of: how many samples there are in all, of which these were drawn without replacement; None: no end of them.
                |mean|^2 has a share of noise, which is taken off: tr(Sigma) (1/n - 1/of).
        """
        if of is not None and of < self.samples:
            raise ValueError(f"of: got {of}; at least the {self.samples} samples that were looked at is allowed")
        trace = float(self.variance.sum())
        squared = float(self.mean.square().sum()) - trace * (1.0 / self.samples - (1.0 / of if of else 0.0))
        return trace / squared if squared > 0 else math.inf


def gradient_statistics(
    model: nn.Module,
    loss: Loss,
    inputs: Tensor,
    targets: Tensor,
    *,
    draws: int = 8,
    seed: int = 0,
    chunk: int | None = None,
    tell: Callable[[int], None] = lambda count: None,
) -> GradientStatistics:
    """Mean, variance and some draws of the per-sample gradients, in one pass over the samples.

    Args:
        model, loss, inputs, targets, chunk: as of `per_sample_gradients`.
        draws: how many vectors with the gradients' covariance to make.
        seed: of their signs.
        tell: called with the number of samples done so far.

    Raises:
        ValueError: fewer than two samples.
    """
    if len(inputs) < 2:
        raise ValueError(f"inputs: got {len(inputs)} samples; at least 2 are allowed")
    signs = rademacher(key(seed, "noise"), (draws, len(inputs)), dtype=torch.float64, device=inputs.device)
    done, mean, squares, sums = 0, torch.zeros(()), torch.zeros(()), torch.zeros(())
    for found in per_sample_gradients(model, loss, inputs, targets, chunk=chunk):
        rows = found.double()
        count = done + len(rows)
        own = rows.mean(0)
        if not done:
            mean, squares, sums = torch.zeros_like(own), torch.zeros_like(own), own.new_zeros(draws, len(own))
        away = own - mean
        squares = squares + (rows - own).square().sum(0) + away.square() * (done * len(rows) / count)
        mean = mean + away * (len(rows) / count)
        sums += signs[:, done:count] @ rows
        done = count
        tell(done)
    deviations = sums - signs.sum(1, keepdim=True) * mean
    return GradientStatistics(done, mean, squares / (done - 1), deviations / math.sqrt(done - 1))


def noise_scale_of_norms(small: int, large: int, at_small: float, at_large: float) -> float:
    """The simple noise scale from the mean squared norms of gradients of two batch sizes.

    Args:
        small, large: the batch sizes.
        at_small, at_large: mean squared norms there; E|G_B|^2 = |G|^2 + tr(Sigma) / B.

    Raises:
        ValueError: the sizes are not in order.
    """
    if not 0 < small < large:
        raise ValueError(f"small, large: got {small} and {large}; 0 < small < large is allowed")
    squared = (large * at_large - small * at_small) / (large - small)
    trace = (at_small - at_large) / (1.0 / small - 1.0 / large)
    return trace / squared if squared > 0 else math.inf


def hessian_diagonal(product: Product, size: int, *, probes: int | None = 32, seed: int = 0) -> Tensor:
    """The diagonal [d] of a Hessian: exact, or the mean of z * Hz over random signs z (Hutchinson).

    Args:
        product: v [d] -> H v, float64 in and out.
        size: d.
        probes: how many z; None: exact, by d products.
        seed: of the signs.

    Raises:
        ValueError: fewer than one probe.
    """
    if probes is None:
        units = torch.eye(size, dtype=torch.float64)
        return torch.stack([product(unit)[i] for i, unit in enumerate(units)])
    if probes < 1:
        raise ValueError(f"probes: got {probes}; at least 1, or None for the exact diagonal, is allowed")
    signs = rademacher(key(seed, "diagonal"), (probes, size), dtype=torch.float64)
    return torch.stack([z.to(found.device) * found for z in signs for found in (product(z),)]).mean(0)


@dataclass(frozen=True, eq=False)
class SignLaw:
    """The best learning rate of sign descent at each batch size, at one point of the loss.

    Attributes:
        mean, deviation: of single samples' gradients in each coordinate, float64 [d].
        product: of the Hessian with a vector.
        diagonal: of the Hessian, float64 [d].
    """

    mean: Tensor
    deviation: Tensor
    product: Product
    diagonal: Tensor

    @classmethod
    def of(cls, found: GradientStatistics, product: Product, diagonal: Tensor) -> SignLaw:
        """The law at the point whose gradients these are."""
        return cls(found.mean, found.variance.sqrt(), product, diagonal)

    def expected_signs(self, batch: float) -> Tensor:
        """E_i [d], the mean sign of the gradient of a batch; 0 where no sample has a gradient."""
        return torch.erf(math.sqrt(batch / 2.0) * self._ratio)

    def curvature(self, batch: float) -> float:
        """sum H_ii + sum_{i!=j} H_ij E_i E_j."""
        return self._trace + self._apart(self.expected_signs(batch))

    def rate(self, batch: float) -> float:
        """The learning rate that lowers the quadratic model most, eps(B); NaN where that has no lowest point."""
        curvature = self.curvature(batch)
        return self._slope(batch) / curvature if curvature > 0 else math.nan

    def gain(self, batch: float) -> float:
        """By how much a step at that rate lowers the loss; NaN where there is none."""
        curvature = self.curvature(batch)
        return 0.5 * self._slope(batch) ** 2 / curvature if curvature > 0 else math.nan

    @property
    def noise_scale(self) -> float:
        """B_noise, near which the rate peaks; infinite where sum_{i!=j} H_ij s_i s_j <= 0: there is no peak then."""
        apart = self._apart_small
        return 0.5 * math.pi * self._trace / apart if apart > 0 else math.inf

    @property
    def peak(self) -> float:
        """eps_max, the rate at the peak in the approximation for small batches; NaN where there is none."""
        apart, trace = self._apart_small, self._trace
        if not (apart > 0 and trace > 0):
            return math.nan
        return float((self.mean * self._finite_ratio).sum()) / (2.0 * math.sqrt(trace * apart))

    def approximate(self, batch: float) -> float:
        """The rate in the approximation for small batches, which is wrong beyond the peak."""
        scale = self.noise_scale
        return 2.0 * self.peak / (math.sqrt(scale / batch) + math.sqrt(batch / scale))

    @cached_property
    def _ratio(self) -> Tensor:
        """s, infinite where the gradient is the same for all samples, and 0 where it is 0."""
        ratio = self.mean / self.deviation
        return torch.where(self.mean == 0, torch.zeros_like(ratio), ratio)

    @cached_property
    def _finite_ratio(self) -> Tensor:
        return torch.where(self.deviation > 0, self._ratio, torch.zeros_like(self._ratio))

    @cached_property
    def _trace(self) -> float:
        moves = (self.deviation > 0) | (self.mean != 0)
        return float(self.diagonal[moves].sum())

    @cached_property
    def _apart_small(self) -> float:
        return self._apart(self._finite_ratio)

    def _apart(self, v: Tensor) -> float:
        """sum_{i!=j} H_ij v_i v_j."""
        return float(v @ self.product(v)) - float((self.diagonal * v.square()).sum())

    def _slope(self, batch: float) -> float:
        return float((self.expected_signs(batch) * self.mean).sum())


def drawn_sign_rate(signs: Iterable[Tensor], mean: Tensor, product: Product) -> float:
    """The best rate of sign descent without the law's assumptions: E[z'G] / E[z'Hz] over signs z of drawn batches.

    The signs of a network's coordinates depend on each other, in small batches most: the law, which takes them to be
    independent, then gives rates that are too high.

    Args:
        signs: signs z [d] of the gradients of batches, one or more.
        mean: the whole gradient G, float64 [d].
        product: of the Hessian with a vector.

    Returns:
        The rate; NaN where the quadratic model has no lowest point.
    """
    slope = curvature = 0.0
    for z in signs:
        slope += float(z.double() @ mean)
        curvature += float(z.double() @ product(z.double()))
    return slope / curvature if curvature > 0 else math.nan


@dataclass(frozen=True)
class SGDLaw:
    """The best learning rate of SGD at each batch size: eps_max / (1 + B_noise / B), at one point of the loss.

    Attributes:
        squared: |G|^2.
        along: G'HG.
        noise: tr(H Sigma).
    """

    squared: float
    along: float
    noise: float

    @classmethod
    def of(cls, found: GradientStatistics, product: Product) -> SGDLaw:
        """The law at the point whose gradients these are; tr(H Sigma) is the mean of v'Hv over the draws v."""
        g = found.mean
        noise = sum(float(v @ product(v)) for v in found.draws) / max(1, len(found.draws))
        return cls(float(g @ g), float(g @ product(g)), noise)

    @property
    def peak(self) -> float:
        """eps_max, the limit for large batches; NaN where the loss bends down along the gradient."""
        return self.squared / self.along if self.along > 0 else math.nan

    @property
    def noise_scale(self) -> float:
        """B_noise; NaN where the loss bends down along the gradient."""
        return self.noise / self.along if self.along > 0 else math.nan

    def rate(self, batch: float) -> float:
        """The learning rate that lowers the quadratic model most; NaN where that has no lowest point."""
        curvature = self.along + self.noise / batch
        return self.squared / curvature if curvature > 0 else math.nan


@dataclass(frozen=True)
class Tradeoff:
    """(S / S_min - 1) (E / E_min - 1) = 1: steps S and samples E = B S that it takes to reach a loss.

    Attributes:
        least_steps, least_samples: S_min and E_min.
        error: the largest relative error of the fit in S.
    """

    least_steps: float
    least_samples: float
    error: float

    @property
    def noise_scale(self) -> float:
        """B_noise = E_min / S_min."""
        return self.least_samples / self.least_steps if self.least_steps > 0 else math.inf

    def steps(self, batch: float) -> float:
        """Steps that it takes at a batch size."""
        return self.least_steps + self.least_samples / batch


def fit_tradeoff(batches: Sequence[float], steps: Sequence[float]) -> Tradeoff:
    """Fit 1 = S_min / S + E_min / E, the same law, by least squares with S_min, E_min >= 0.

    Args:
        batches: batch sizes, at least two different ones.
        steps: steps that it took at each to reach one and the same loss.

    Raises:
        ValueError: too few, or numbers that are not above 0 and finite.

    >>> found = fit_tradeoff([10, 100, 1000], [1100, 200, 110])
    >>> round(found.least_steps), round(found.least_samples), round(found.noise_scale)
    (100, 10000, 100)
    """
    from scipy.optimize import nnls

    b, s = np.asarray(batches, dtype=float), np.asarray(steps, dtype=float)
    if b.shape != s.shape or len(set(b.tolist())) < 2:
        raise ValueError(f"batches, steps: got {len(b)} and {len(s)}; two or more different batch sizes are allowed")
    if not (np.isfinite(b * s).all() and (b > 0).all() and (s > 0).all()):
        raise ValueError("batches, steps: got numbers that are not; finite ones above 0 are allowed")
    (least_steps, least_samples), _ = nnls(np.stack([1.0 / s, 1.0 / (b * s)], 1), np.ones(len(b)))
    error = float(np.abs((least_steps + least_samples / b) / s - 1.0).max())
    return Tradeoff(float(least_steps), float(least_samples), error)


def normal_signs(mean: Tensor, deviation: Tensor, batch: int, count: int, seed: int = 0) -> Tensor:
    """Signs [count, d] of the means of batches of normal gradients, to see the law by drawing."""
    drawn = normal(key(seed, "signs"), (count, len(mean)), dtype=torch.float64)
    return torch.sign(mean + deviation / math.sqrt(batch) * drawn)
