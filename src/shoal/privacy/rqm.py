"""The law of the randomised quantisation mechanism (RQM): exact probabilities of what `shoal.compression.RQM` sends.

    X = c + Delta;   B(i) = -X + 2 X i / (m - 1);   levels 0 and m - 1 are kept, each other one with probability q
    z = b with probability (x - B(a)) / (B(b) - B(a)), else a, where a, b are the kept neighbours of x
    Pr(z) = sum over pairs a <= x < b with z in {a, b} of k_a k_b (1 - q)^(b - a - 1) Pr(z | a, b);   k = 1 at the ends

Y. Youn, Z. Hu, J. Ziani, J. Abernethy, "Randomized Quantization is All You Need for Differential Privacy in Federated
Learning", 2023 (arXiv 2306.11913).

Pure privacy. Every Pr(z) is linear in x between neighbouring levels and continuous, so the extremes of its logarithm
over [-c, c] lie at -c, c and the levels between: `epsilon` is exact. It is at most

    log(2 (1 + c / Delta)) + (m - 2) log(1 / (1 - q)),

since Pr(0) is at least (1 - q)^(m - 2) Delta / (2 X) (no inner level is kept, and x goes down), an inner z's at least
q (1 - q)^(m - 3) Delta / (2 X) (only z is kept), and none above 1 or q. Two inputs c and -c are not always the worst
pair: for c = Delta, m = 16, q = 0.2 they give 2.865, B(4) and c 2.911.

The mechanism itself, which draws, is a codec and lies with the codecs; neither room needs the other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shoal.privacy.renyi import Array


@dataclass(frozen=True)
class RQMLaw:
    """Probabilities of one coordinate's level.

    Attributes:
        clip: c, above 0: inputs lie in [-c, c].
        delta: Delta, above 0: how far the outermost levels lie beyond.
        levels: m, at least 2.
        q: probability with which an inner level is kept, in (0, 1).
    """

    clip: float
    delta: float
    levels: int = 16
    q: float = 0.42

    def __post_init__(self) -> None:
        for name, size in (("clip", self.clip), ("delta", self.delta)):
            if not 0.0 < size < math.inf:
                raise ValueError(f"{name}: got {size}; a number above 0 is allowed")
        if self.levels < 2:
            raise ValueError(f"levels: got {self.levels}; at least 2 is allowed")
        if not 0.0 < self.q < 1.0:
            raise ValueError(f"q: got {self.q}; a number in (0, 1) is allowed")

    def values(self) -> Array:
        """B [m]."""
        x = self.clip + self.delta
        return -x + 2.0 * x * np.arange(self.levels) / (self.levels - 1)

    def pmf(self, x: float) -> Array:
        """Pr(z) [m] for an input in [-c, c].

        Raises:
            ValueError: it is not.
        """
        if not abs(x) <= self.clip:
            raise ValueError(f"x: got {x}; a number in [-{self.clip}, {self.clip}] is allowed")
        values, m = self.values(), self.levels
        below = int(np.searchsorted(values, x, side="right")) - 1
        kept = np.full(m, self.q)
        kept[[0, -1]] = 1.0
        a, b = np.arange(below + 1), np.arange(below + 1, m)
        weight = kept[a][:, None] * kept[b] * (1.0 - self.q) ** (b - a[:, None] - 1)
        up = (x - values[a][:, None]) / (values[b] - values[a][:, None])
        return np.concatenate([(weight * (1.0 - up)).sum(1), (weight * up).sum(0)])

    def variance(self, x: float) -> float:
        """Of the decoded value B(z)."""
        p, values = self.pmf(x), self.values()
        return float(p @ (values - p @ values) ** 2)

    def epsilon(self) -> float:
        """The largest log Pr_x(z) / Pr_x'(z) over all z and all inputs x, x'."""
        values = self.values()
        knots = [-self.clip, *values[np.abs(values) < self.clip].tolist(), self.clip]
        table = np.stack([self.pmf(x) for x in knots])
        return float(np.log(table.max(0) / table.min(0)).max())

    def epsilon_bound(self) -> float:
        """A closed form that `epsilon` does not exceed."""
        return math.log(2.0 * (1.0 + self.clip / self.delta)) - (self.levels - 2) * math.log(1.0 - self.q)
