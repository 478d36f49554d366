"""Top-k and Rand-k, restated in float64 NumPy.

S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with Memory", NeurIPS (2018), arXiv:1809.07599, which also
has the error feedback: p = gamma g + e, x <- x - mean C(p), e = p - C(p).

    Top-k:  x_i at the k largest |x_i|, else 0          |C(x) - x|^2 <= (1 - k / d) |x|^2
    Rand-k: x_i at a uniformly drawn set of k places    E |C(x) - x|^2 = (1 - k / d) |x|^2
            times d / k it is unbiased                  E |Q(x) - x|^2 = (d / k - 1) |x|^2

Choices where the source leaves or contradicts itself:

* Of equal magnitudes the lower index.
* Rand-k without the factor is the contractive one (for error feedback), with it the unbiased one: two functions.
* Bits: 32 for a value; Top-k adds k ceil(log2 d) for the places; Rand-k's places follow from a shared seed.
"""

from itertools import combinations
from math import ceil, log2

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]


def top_k_places(x: Array, k: int) -> Integers:
    """Return the places [k] of the largest magnitudes, in ascending order."""
    return np.sort(np.array(sorted(range(x.size), key=lambda i: (-abs(x[i]), i))[:k], np.int64))


def keep(x: Array, places: Integers) -> Array:
    """Return x [d] at `places`, 0 elsewhere: Top-k with its places, the contractive Rand-k with drawn ones."""
    kept = np.zeros_like(x)
    kept[places] = x[places]
    return kept


def rand_k_unbiased(x: Array, places: Integers) -> Array:
    """Return x [d] at `places` [k] times d / k, 0 elsewhere."""
    return keep(x, places) * (x.size / len(places))


def rand_k_moments(x: Array, k: int) -> tuple[Array, float, float]:
    """Return E Q(x), E |Q(x) - x|^2 of the unbiased form and E |C(x) - x|^2 of the contractive one, over all sets."""
    sets = [np.array(places) for places in combinations(range(x.size), k)]
    unbiased = np.array([rand_k_unbiased(x, places) for places in sets])
    contractive = np.array([keep(x, places) for places in sets])
    return (
        unbiased.mean(axis=0),
        float(np.mean(np.sum((unbiased - x) ** 2, axis=1))),
        float(np.mean(np.sum((contractive - x) ** 2, axis=1))),
    )


def top_k_step(x: Array, errors: Array, gradients: Array, gamma: float, k: int) -> tuple[Array, Array, Array]:
    """One step of Top-k SGD with error feedback: x [d], errors, gradients [M, d] -> x, errors, messages [M, d]."""
    wanted = gamma * gradients + errors
    messages = np.stack([keep(p, top_k_places(p, k)) for p in wanted])
    return x - messages.mean(axis=0), wanted - messages, messages


def top_k_bits(d: int, k: int) -> int:
    """Return the bits of a message: values and places."""
    return k * (32 + ceil(log2(d)))


def rand_k_bits(k: int) -> int:
    """Return the bits of a message: values."""
    return 32 * k
