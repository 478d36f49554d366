"""NiNo's frame around the forecasting network, restated in float64 NumPy: scales, horizons, states and jumps.

B. Knyazev, A. Moudgil, G. Lajoie, E. Belilovsky, S. Lacoste-Julien, "Accelerating Training with Neuron Interaction and
Nowcasting Networks", arXiv:2409.04434 (2024), with the details of the authors' optim/nino.py and utils/scale.py.

    steps are numbered 1, 2, ...; P = period, c = number of states, K = longest horizon, n = max(1, total steps // P)
    step i divisible by P // c:  theta, as it is before the step, joins the states
    c states:   the step is a jump: no gradient, the base optimizer and its state rest, the states are dropped
                theta^ = unscaled( scaled theta_c + Delta_k ),   Delta_k: forecast from the c scaled states
    otherwise:  the base optimizer's step
    horizon of the j-th jump (j = 1, 2, ...):  k_j = round( linspace(sqrt K, 1, n)_j ^ 2 ),  the last one ever after
    scaled, tensor by tensor: (theta - mu) / (sigma + 1e-6), mu and sigma over the entries and the c states

Choices where the source leaves or contradicts itself:

* sigma has n c - 1 below the root (torch's default). numpy's and Python's halves go to the even number.
* unscaled multiplies by sigma + 1e-6, so that a forecast of 0 leaves the weights as they are. The authors' code
  multiplies by sigma alone, which shrinks them towards mu by a factor sigma / (sigma + 1e-6).
* "Layer" is a tensor. The scaling of embeddings over the whole model is for the training of the network only.
* P not divisible by c: states are taken every P // c steps and a jump is every c (P // c) steps; the horizon still
  goes by (i - 1) // P.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Scales = list[tuple[float, float]]


def horizons(longest: int, total_steps: int, period: int, power: float = 2.0) -> list[int]:
    n = max(1, total_steps // period)
    return [int(k) for k in np.round(np.linspace(longest ** (1 / power), 1, n) ** power)]


def scaled(states: Sequence[Sequence[Array]], eps: float = 1e-6) -> tuple[list[list[Array]], Scales]:
    """states[j][i] is tensor i of state j."""
    scales: Scales = []
    for i in range(len(states[0])):
        entries = np.stack([state[i] for state in states])
        scales.append((float(entries.mean()), float(entries.std(ddof=1)) + eps))
    out = [[(x - mu) / sigma for x, (mu, sigma) in zip(state, scales, strict=True)] for state in states]
    return out, scales


def unscaled(params: Sequence[Array], scales: Scales) -> list[Array]:
    return [x * sigma + mu for x, (mu, sigma) in zip(params, scales, strict=True)]


class NiNo:
    """NiNo around any base optimizer.

    `forecast(states, k)` returns Delta_k of each tensor from the scaled states, oldest first. `step(base)` calls
    `base(params)` for the new parameters unless the step is a jump.
    """

    def __init__(
        self,
        params: Sequence[Array],
        forecast: Callable[[list[list[Array]], int], Sequence[Array]],
        *,
        total_steps: int,
        period: int = 1000,
        states: int = 5,
        longest: int = 40,
    ) -> None:
        self.params = [np.array(p, np.float64) for p in params]
        self.forecast, self.period, self.count = forecast, period, states
        self.horizons = horizons(longest, total_steps, period)
        self.states: list[list[Array]] = []
        self.i = 0
        self.jumps: list[tuple[int, int]] = []  # (number of the step, horizon)

    def step(self, base: Callable[[list[Array]], Sequence[Array]]) -> None:
        self.i += 1
        if self.i % (self.period // self.count) == 0:
            self.states.append([p.copy() for p in self.params])
        if len(self.states) < self.count:
            self.params = [np.array(p, np.float64) for p in base(self.params)]
            return
        k = self.horizons[min((self.i - 1) // self.period, len(self.horizons) - 1)]
        states, scales = scaled(self.states)
        delta = self.forecast(states, k)
        self.params = unscaled([x + d for x, d in zip(states[-1], delta, strict=True)], scales)
        self.states = []
        self.jumps.append((self.i, k))


def linear_extrapolation(states: list[list[Array]], steps: float) -> list[Array]:
    """Delta of the baseline that goes on along the last two states for `steps` of their distances."""
    return [steps * (last - before) for last, before in zip(states[-1], states[-2], strict=True)]
