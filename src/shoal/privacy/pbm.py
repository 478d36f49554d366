"""The Poisson binomial mechanism: a coordinate as the number of heads of t coins that it biases.

    z ~ Binomial(t, 1/2 + theta x / c);    mean of n clients = c (sum z - n t / 2) / (n t theta)

W.-N. Chen, A. Ozgur, P. Kairouz, "The Poisson Binomial Mechanism for Unbiased Federated Learning with Secure
Aggregation", ICML 2022 (arXiv 2207.09916). The authors ask for theta <= 1/4; the algebra holds up to 1/2.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from shoal.privacy.renyi import Array


@dataclass(frozen=True)
class PBM:
    """Probabilities of one coordinate's number of heads.

    Attributes:
        clip: c, above 0: inputs lie in [-c, c].
        theta: in (0, 1/2).
        trials: coins t, at least 1; t + 1 values are sent.
    """

    clip: float
    theta: float
    trials: int = 15

    def __post_init__(self) -> None:
        if not 0.0 < self.clip < math.inf:
            raise ValueError(f"clip: got {self.clip}; a number above 0 is allowed")
        if not 0.0 < self.theta < 0.5:
            raise ValueError(f"theta: got {self.theta}; a number in (0, 1/2) is allowed")
        if self.trials < 1:
            raise ValueError(f"trials: got {self.trials}; at least 1 is allowed")

    @classmethod
    def of_variance(cls, variance: float, clip: float, trials: int = 15) -> PBM:
        """The one whose decoded value has this variance at x = 0: theta = c / (2 sqrt(t variance))."""
        return cls(clip, clip / (2.0 * math.sqrt(trials * variance)), trials)

    def values(self) -> Array:
        """What each number of heads is decoded to [t + 1]."""
        heads = np.arange(self.trials + 1, dtype=np.float64)
        return (heads - self.trials / 2.0) * (self.clip / (self.trials * self.theta))

    def pmf(self, x: float) -> Array:
        """Pr(z) [t + 1] for an input in [-c, c].

        Raises:
            ValueError: it is not.
        """
        if not abs(x) <= self.clip:
            raise ValueError(f"x: got {x}; a number in [-{self.clip}, {self.clip}] is allowed")
        p, t = 0.5 + self.theta * x / self.clip, self.trials
        return np.array([math.comb(t, z) * p**z * (1.0 - p) ** (t - z) for z in range(t + 1)])

    def variance(self, x: float) -> float:
        """Of the decoded value."""
        p = 0.5 + self.theta * x / self.clip
        return (self.clip / (self.trials * self.theta)) ** 2 * self.trials * p * (1.0 - p)
