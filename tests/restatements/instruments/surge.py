"""The best learning rate of sign-like steps and of SGD against the batch size, restated in float64 NumPy.

S. Li, P. Zhao, H. Zhang, X. Sun, H. Wu, D. Jiao, W. Wang, C. Liu, Z. Fang, J. Xue, Y. Tao, B. Cui, D. Wang, "Surge
Phenomenon in Optimal Learning Rate and Batch Size Scaling", arXiv:2405.14578 (2024); SGD: S. McCandlish, J. Kaplan,
D. Amodei et al., "An Empirical Model of Large-Batch Training", arXiv:1812.06162 (2018).

    gradient of a sample: coordinate i ~ N(mu_i, sigma_i^2), independent;  H: Hessian;  s_i = mu_i / sigma_i
    E_i = erf( sqrt(B / 2) s_i )                                         mean of the sign of the batch's gradient
    dL(eps) = -eps sum_i E_i mu_i + eps^2 / 2 [ sum_i H_ii + sum_{i != j} H_ij E_i E_j ]
    eps_opt(B) = sum E_i mu_i / [...]                                    gain: (sum E_i mu_i)^2 / (2 [...])
    T = sum_i H_ii,  S = sum_{i != j} H_ij s_i s_j,  N = sum_i mu_i^2 / sigma_i;  E_i ~ sqrt(2 B / pi) s_i:
    B_noise = pi T / (2 S),  eps_max = N / (2 sqrt(T S)),  eps_opt ~ 2 eps_max / (sqrt(B_noise / B) + sqrt(B / B_noise))
    gain ~ gain_max / (1 + B_noise / B),  gain_max = N^2 / (2 S)
    SGD: B_noise = sum_i H_ii sigma_i^2 / mu^T H mu,  eps_max = |mu|^2 / mu^T H mu
         eps_opt = eps_max / (1 + B_noise / B)

Choices: S <= 0 leaves no peak: B_noise and eps_max raise. B may be any positive number, infinity too.
"""

from math import pi, sqrt

import numpy as np
from numpy.typing import NDArray
from scipy.special import erf

Array = NDArray[np.float64]


def mean_sign(mu: Array, sigma: Array, B: float) -> Array:
    return np.asarray(erf(sqrt(B / 2) * mu / sigma))


def _off_diagonal(H: Array, x: Array) -> float:
    return float(x @ H @ x - np.diag(H) @ x**2)


def best_rate(mu: Array, sigma: Array, H: Array, B: float) -> float:
    E = mean_sign(mu, sigma, B)
    return float(E @ mu) / (float(np.trace(H)) + _off_diagonal(H, E))


def best_gain(mu: Array, sigma: Array, H: Array, B: float) -> float:
    E = mean_sign(mu, sigma, B)
    return float(E @ mu) ** 2 / (2 * (float(np.trace(H)) + _off_diagonal(H, E)))


def _S(mu: Array, sigma: Array, H: Array) -> float:
    S = _off_diagonal(H, mu / sigma)
    if S <= 0:
        raise ValueError(f"H, mu, sigma: a positive sum of H_ij s_i s_j over i != j is needed for a peak, got {S}")
    return S


def noise_batch(mu: Array, sigma: Array, H: Array) -> float:
    return pi * float(np.trace(H)) / (2 * _S(mu, sigma, H))


def largest_rate(mu: Array, sigma: Array, H: Array) -> float:
    return float(np.sum(mu**2 / sigma)) / (2 * sqrt(float(np.trace(H)) * _S(mu, sigma, H)))


def surge_rate(largest: float, noise: float, B: float) -> float:
    return 2 * largest / (sqrt(noise / B) + sqrt(B / noise))


def surge_gain(mu: Array, sigma: Array, H: Array, B: float) -> float:
    largest = float(np.sum(mu**2 / sigma)) ** 2 / (2 * _S(mu, sigma, H))
    return largest / (1 + noise_batch(mu, sigma, H) / B)


def sgd_noise_batch(mu: Array, sigma: Array, H: Array) -> float:
    return float(np.diag(H) @ sigma**2) / float(mu @ H @ mu)


def sgd_best_rate(mu: Array, sigma: Array, H: Array, B: float) -> float:
    return float(mu @ mu) / float(mu @ H @ mu) / (1 + sgd_noise_batch(mu, sigma, H) / B)


def noise_batch_from_trade_off(steps: float, examples: float, least_steps: float, least_examples: float) -> float:
    """B_noise = E_min / S_min; raises where (S / S_min - 1) (E / E_min - 1) = 1 is off by more than a tenth."""
    product = (steps / least_steps - 1) * (examples / least_examples - 1)
    if abs(product - 1) > 0.1:
        raise ValueError(f"steps, examples: the product of the trade-off must be 1, got {product}")
    return least_examples / least_steps
