"""Just One Byte: decentralised zeroth-order fine-tuning by shared randomness, restated in float64 NumPy.

E. Zelikman, Q. Huang, P. Liang, N. Haber, N. D. Goodman, "Just One Byte (per gradient): A Note on Low-Bandwidth
Decentralized Language Model Finetuning Using Shared Randomness", arXiv:2306.10015 (2023); code:
ezelikman/justonebyte, app.py.

    iteration t, machine a, sample j:  z = z(t, a, j) ~ N(0, I), known to all machines
        rho = (L(theta + eps z) - L(theta - eps z)) / (2 eps)                     both losses on the same batch of a
        sent: q = clip(round(16 ln |rho|)) and the sign, one byte;   rho^ = sign(rho) e^(q / 16)
    all, in one order (time of joining, then j):   theta <- theta - (lr / n) rho^ z(t, a, j)      n = samples in all

    |ln rho^ - ln |rho|| <= 1/32 inside of the range;   for quadratic L: rho = z . grad L,  E[rho z] = grad L

Machines keep a log of (machine, bytes) of each iteration: theta at any time follows from theta_0 and the log.

Choices where the source leaves or contradicts itself:

* The byte. The code clips q to -127 ... 127 and has the sign apart: 2 * 255 values and 0, which is more than a byte,
  and it then sends the float. Here: bit 7 the sign, bits 0 to 6 q as a number in two's complement. lowest = -63
  leaves q = -64 for rho = 0; with lowest = -64 all 256 bytes are magnitudes and 0 becomes +e^-4.
* rho = 0 is 0 in the code (sign 0 times e^-127/16).
* n or its root. The last version of the code divides by sqrt(n), earlier ones by n but move by lr eps rho z / n.
  Here n by default (then all machines together are one with the mean of the n estimates), `root` for sqrt(n).
* The machine uses rho^ itself, not its rho, or it would leave the others.
* Machines that joined at the same time: the smaller number first.
* The code adds eps z, subtracts 2 eps z, adds eps z, and restores a backup because of rounding; here theta is not
  touched. It also learns eps: left out. Rounds are half to even.
* The code's check compares md5 of the printed tensors, rounded to 3 decimals; numpy prints only the ends of a tensor
  of more than 1000 entries. `digest` is of all bytes.
"""

from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Direction = Callable[[int, int, int], Array]
"""(iteration, machine, sample) -> z [d], the same wherever it is called."""
Loss = Callable[[Array, int, int, int], float]
"""(theta [d], iteration, machine, sample) -> loss on the batch that this machine has for this sample."""
Entry = Sequence[tuple[int, Sequence[int]]]
"""The bytes of one iteration, by machine, in the order in which they are applied."""


def encode(rho: float, *, lowest: int = -63, highest: int = 63) -> int:
    """Return the byte of `rho`, 0 ... 255; exponents are limited to lowest ... highest, within -64 ... 63."""
    if not np.isfinite(rho):
        raise ValueError(f"rho: a finite number, got {rho}")
    if rho == 0:
        return 64
    q = min(max(round(16 * np.log(abs(rho))), lowest), highest)
    return 128 * (rho < 0) + q % 128


def decode(byte: int, *, lowest: int = -63) -> float:
    """Return what the byte stands for."""
    q = byte % 128 - (128 if byte % 128 >= 64 else 0)
    if q < lowest:
        return 0.0
    return float((-1.0 if byte >= 128 else 1.0) * np.exp(q / 16))


def projected_gradient(loss: Callable[[Array], float], theta: Array, z: Array, eps: float) -> float:
    """Return the central difference of `loss` along `z`."""
    return (loss(theta + eps * z) - loss(theta - eps * z)) / (2 * eps)


def second_moment(gradient: Array) -> float:
    """Return E |rho z|^2 = (d + 2) |grad L|^2 for z ~ N(0, I) and a loss whose central difference is exact."""
    return (gradient.size + 2) * float(gradient @ gradient)


def samples(theta: Array, t: int, machine: int, count: int, direction: Direction, loss: Loss, eps: float) -> list[int]:
    """Return the bytes of one machine in iteration t."""
    rhos = []
    for j in range(count):
        z = direction(t, machine, j)
        rhos.append(projected_gradient(lambda at, j=j: loss(at, t, machine, j), theta, z, eps))
    return [encode(rho) for rho in rhos]


def in_order(received: Mapping[int, Sequence[int]], joined: Mapping[int, float]) -> Entry:
    """Return the received bytes by machine, the longest-standing first."""
    return [(a, list(received[a])) for a in sorted(received, key=lambda a: (joined[a], a))]


def apply(theta: Array, t: int, entry: Entry, direction: Direction, lr: float, *, root: bool = False) -> Array:
    """Return theta after the bytes of iteration t, one after the other; unchanged if there are none."""
    count = sum(len(codes) for _, codes in entry)
    share = lr / (np.sqrt(count) if root else count) if count else 0.0
    for machine, codes in entry:
        for j, code in enumerate(codes):
            theta = theta - share * decode(code) * direction(t, machine, j)
    return theta


def replay(theta: Array, log: Sequence[Entry], direction: Direction, lr: float, *, start: int = 0) -> Array:
    """Return theta after the log, whose first entry is iteration `start`: how a machine joins or comes back."""
    for t, entry in enumerate(log, start):
        theta = apply(theta, t, entry, direction, lr)
    return theta


def bits_sent(machines: int, samples_each: int, *, links: bool = False) -> int:
    """Return the bits of one iteration: each byte once (a broadcast), or once a receiver (`links`)."""
    return 8 * machines * samples_each * ((machines - 1) if links else 1)


def digest(theta: Array) -> str:
    """Return the hash by which machines compare their weights."""
    return sha256(np.ascontiguousarray(theta, np.float64).tobytes()).hexdigest()


def run(
    theta: Array,
    present: Sequence[Sequence[int]],
    joined: Mapping[int, float],
    direction: Direction,
    loss: Loss,
    *,
    lr: float,
    eps: float = 1e-3,
    samples_each: int = 1,
) -> tuple[list[Array], list[Entry]]:
    """Run one iteration for each entry of `present`, the machines that are there and reach one another.

    Returns theta before each iteration and at the end, which is the same at all machines present, and the log.
    """
    trajectory, log = [theta], []
    for t, machines in enumerate(present):
        at = trajectory[-1]
        received = {a: samples(at, t, a, samples_each, direction, loss, eps) for a in machines}
        log.append(in_order(received, joined))
        trajectory.append(apply(at, t, log[-1], direction, lr))
    return trajectory, log
