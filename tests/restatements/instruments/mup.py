"""Width factors of the maximal update parametrisation as a table, restated in Python.

G. Yang, E. Littwin, "Tensor Programs IVb: Adaptive Optimization in the Infinite-Width Limit", arXiv:2308.01814 (2023);
SGD and the tables: G. Yang, E. J. Hu et al., "Tensor Programs V: Tuning Large Neural Networks via Zero-Shot
Hyperparameter Transfer", arXiv:2203.03466 (2022), tables 3 and 8.

    effective weights (no multipliers), width n, base width n0, r = n / n0
                    initial variance        rate, Adam       rate, SGD
    input d -> n    1 / d                   1                r
    hidden n -> n   1 / n                   1 / r            1
    output n -> k   1 / (n r)               1 / r            1 / r
    bias of n       0 (or constant)         1                r
    bias of k       0 (or constant)         1                1
    same net, output multiplied by 1 / r, its weights:  variance 1 / n0, rate 1 (Adam), r (SGD)
    standard: variances 1 / fan-in, all rates 1;   attention logits: q^T k sqrt(d0) / d instead of q^T k / sqrt(d)

Choices where the source leaves or contradicts itself:

* All is relative to the base: at n = n0 it is the standard parametrisation.
* fan-in and fan-out may grow by different ratios: hidden has 1 / r_in for Adam and r_out / r_in for SGD, input r_out.
* Gains of the activations, and the constant of a zero-initialised output, are the user's.
"""

from dataclasses import dataclass
from typing import Literal

Role = Literal["input", "hidden", "output", "bias", "output_bias"]
Optimizer = Literal["adam", "sgd"]


@dataclass(frozen=True)
class Factors:
    variance: float
    rate: float
    multiplier: float = 1.0


def mup(role: Role, optimizer: Optimizer, fan_in: int, r_in: float, r_out: float) -> Factors:
    """r_in, r_out: fan-in and fan-out over those of the base; 1 for what does not grow."""
    adam = optimizer == "adam"
    if role == "input":
        return Factors(1 / fan_in, 1.0 if adam else r_out)
    if role == "hidden":
        return Factors(1 / fan_in, 1 / r_in if adam else r_out / r_in)
    if role == "output":
        return Factors(1 / (fan_in * r_in), 1 / r_in)
    if role == "bias":
        return Factors(0.0, 1.0 if adam else r_out)
    return Factors(0.0, 1.0)


def output_with_multiplier(optimizer: Optimizer, fan_in: int, r_in: float) -> Factors:
    return Factors(r_in / fan_in, 1.0 if optimizer == "adam" else r_in, 1 / r_in)


def effective(factors: Factors, optimizer: Optimizer) -> Factors:
    """Return the same layer without a multiplier: the gradient of w is that of W times the multiplier, w = W / it."""
    k = factors.multiplier
    return Factors(factors.variance * k**2, factors.rate * (k if optimizer == "adam" else k**2))


def attention_scale(head_dim: int, base_head_dim: int) -> float:
    return float(base_head_dim**0.5 / head_dim)
