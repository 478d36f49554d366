"""MASHA1 and MASHA2, restated in float64 NumPy, with extragradient and compressed descent-ascent beside them.

A. Beznosikov, P. Richtárik, M. Diskin, M. Ryabinin, A. Gasnikov, "Distributed Methods with Compressed Communication for
Solving Variational Inequalities, with Theoretical Guarantees", arXiv:2110.03313 (2021).

M devices, F = (1/M) sum_m F_m; z = w = z0, F_m(w) and F(w) known:

    z_bar = tau z + (1 - tau) w;   z_half = z_bar - gamma F(w)
    MASHA1:  g = Q(mean_m Q_m(F_m(z_half) - F_m(w)));   z <- z_half - g gamma           Q: Rand-k times d / k
    MASHA2:  c_m = C(gamma (F_m(z_half) - F_m(w)) + e_m);   e_m <- gamma (F_m(z_half) - F_m(w)) + e_m - c_m
             g = C(mean_m c_m + e);   e <- mean_m c_m + e - g;   z <- z_half - g         C: Top-k
    bit b ~ Bernoulli(1 - tau):  b = 1: w <- the new z, devices send F_m(w), server answers F(w), both whole

    extragradient:  z_half = z - gamma F(z);   z <- z - gamma F(z_half)
    compressed descent-ascent (CSGDA):  z <- z - gamma Q(mean_m Q_m(F_m(z)));   with Top-k: as MASHA2 with F_m(w) = 0

Choices where the source leaves or contradicts itself:

* The error of MASHA2 is that of what was compressed: it includes the old e_m, as written above. Writing
  e_m += gamma (...) - c_m says the same.
* Counted are floats a device sends (up) and the server sends to all (down), per device: k for each compressed message,
  d for each whole one, and d up and d down for the first F(w). Indices are counted apart: k up and k down for Top-k.
  Those of Rand-k follow from a shared seed and are not sent. The bit b is counted in neither.
* Rand-k draws the index sets of the devices independently; the server's is one more. Both are arguments.
* Top-k: of equal magnitudes the lower index.
* 1 - tau = k / d for Rand-k, so that on average the whole exchange costs as much as the compressed one. For Top-k the
  same is used. tau and gamma are arguments.
* There is no constraint set here: with one, where the projections stand matters and the sources differ.
* Rand-k on the way down as well multiplies the variance by d / k once more. On quadratic games with d = 20, k = 2 and
  10 devices, 2000 floats up and the best of a grid of gamma, MASHA1 reached 2e-10 with it and 2e-27 with a whole answer
  (server_set = all places). MASHA2 with Top-k 2 both ways reached 4e-20, extragradient 6e-23.
* "Two-way Top-k" of comparisons is not defined further; here it has error feedback on both sides and no w. With a
  constant gamma and unlike devices it stalls away from the solution (3e-4 in the setting above), as the F_m do not
  vanish there: the reference w is what cures it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Integers = NDArray[np.int64]
Operator = Callable[[Array], Array]


@dataclass(frozen=True)
class State:
    """z, w [d], F_m(w) [M, d], their mean [d], errors of devices [M, d] and of the server [d], and what was sent."""

    z: Array
    w: Array
    Fm_w: Array
    F_w: Array
    errors: Array
    server_error: Array
    floats_up: int
    floats_down: int
    indices_up: int = 0
    indices_down: int = 0


def start(z0: Array, operators: Sequence[Operator]) -> State:
    """Return the state at z = w = z0, after the first whole exchange."""
    Fm = np.stack([F(z0) for F in operators])
    d = z0.size
    return State(z0.copy(), z0.copy(), Fm, Fm.mean(axis=0), np.zeros_like(Fm), np.zeros(d), d, d)


def rand_k(x: Array, indices: Integers) -> Array:
    """Return x [d] at `indices` [k] times d / k, 0 elsewhere."""
    kept = np.zeros_like(x)
    kept[indices] = x[indices] * x.size / len(indices)
    return kept


def top_k(x: Array, k: int) -> Array:
    """Return x [d] at its k largest magnitudes, 0 elsewhere."""
    kept = np.zeros_like(x)
    chosen = np.argsort(-np.abs(x), kind="stable")[:k]
    kept[chosen] = x[chosen]
    return kept


def half_step(s: State, gamma: float, tau: float) -> Array:
    """Return z_half."""
    return tau * s.z + (1.0 - tau) * s.w - gamma * s.F_w


def refresh(s: State, operators: Sequence[Operator], bit: bool) -> State:
    """Return the state with w moved to z and a whole exchange if the bit is set."""
    if not bit:
        return s
    d = s.z.size
    Fm = np.stack([F(s.z) for F in operators])
    return replace(s, w=s.z, Fm_w=Fm, F_w=Fm.mean(axis=0), floats_up=s.floats_up + d, floats_down=s.floats_down + d)


def masha1_step(
    s: State,
    operators: Sequence[Operator],
    gamma: float,
    tau: float,
    device_sets: Integers,
    server_set: Integers,
    bit: bool,
) -> tuple[State, Array]:
    """One iteration; device_sets [M, k], server_set [k']. Returns the new state and the messages [M, d]."""
    z_half = half_step(s, gamma, tau)
    messages = np.stack([rand_k(F(z_half) - Fw, i) for F, Fw, i in zip(operators, s.Fm_w, device_sets, strict=True)])
    g = rand_k(messages.mean(axis=0), server_set)
    moved = replace(
        s,
        z=z_half - gamma * g,
        floats_up=s.floats_up + device_sets.shape[1],
        floats_down=s.floats_down + len(server_set),
    )
    return refresh(moved, operators, bit), messages


def two_way_top_k(s: State, differences: Array, k: int, server_k: int) -> tuple[State, Array, Array]:
    """Compress [M, d] up and the mean down, both with error feedback. Returns state, messages [M, d], answer [d]."""
    wanted = differences + s.errors
    messages = np.stack([top_k(row, k) for row in wanted])
    server_wanted = messages.mean(axis=0) + s.server_error
    g = top_k(server_wanted, server_k)
    counted = replace(
        s,
        errors=wanted - messages,
        server_error=server_wanted - g,
        floats_up=s.floats_up + k,
        floats_down=s.floats_down + server_k,
        indices_up=s.indices_up + k,
        indices_down=s.indices_down + server_k,
    )
    return counted, messages, g


def masha2_step(
    s: State, operators: Sequence[Operator], gamma: float, tau: float, k: int, server_k: int, bit: bool
) -> tuple[State, Array]:
    """One iteration. Returns the new state and the messages [M, d]."""
    z_half = half_step(s, gamma, tau)
    differences = np.stack([gamma * (F(z_half) - Fw) for F, Fw in zip(operators, s.Fm_w, strict=True)])
    counted, messages, g = two_way_top_k(s, differences, k, server_k)
    return refresh(replace(counted, z=z_half - g), operators, bit), messages


def extragradient_step(z: Array, operators: Sequence[Operator], gamma: float) -> Array:
    """One iteration; 2 d floats up and 2 d down."""
    z_half = z - gamma * np.mean([F(z) for F in operators], axis=0)
    return np.asarray(z - gamma * np.mean([F(z_half) for F in operators], axis=0))


def compressed_descent_ascent_step(
    z: Array, operators: Sequence[Operator], gamma: float, device_sets: Integers, server_set: Integers
) -> Array:
    """One iteration with Rand-k both ways and no reference point; k floats up, k' down."""
    messages = np.stack([rand_k(F(z), i) for F, i in zip(operators, device_sets, strict=True)])
    return z - gamma * rand_k(messages.mean(axis=0), server_set)


def top_k_descent_ascent_step(s: State, operators: Sequence[Operator], gamma: float, k: int, server_k: int) -> State:
    """One iteration with Top-k and error feedback both ways and no reference point."""
    counted, _, g = two_way_top_k(s, np.stack([gamma * F(s.z) for F in operators]), k, server_k)
    return replace(counted, z=s.z - g)


def game(A: Array, B: Array, C: Array) -> Array:
    """Return the matrix of min_x max_y x'Ax/2 + x'By - y'Cy/2: [[A, B], [-B', C]]."""
    return np.block([[A, B], [-B.T, C]])


def affine(matrix: Array, offset: Array) -> Operator:
    """Return z -> matrix z + offset."""
    return lambda z: matrix @ z + offset
