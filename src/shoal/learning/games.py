"""Games: two players' parameters in one model, of which one player goes down the loss and the other up.

    min_x max_y f(x, y)        operator F = (grad_x f, -grad_y f), zero at a saddle point

A game is a task like any other: its module holds both players' parameters, and its loss is f. In its forward pass the
maximising player's parameters stand as `ascending(y)`, which turns the sign of their gradient and of nothing else. So
`Learner.gradient` is the operator F, `train` with SGD is local descent-ascent, and every protocol and optimizer takes
games as it takes other tasks: `ParallelSGD` is distributed descent-ascent, `LocalSGD` the local one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shoal.learning.data import Data, Dataset
from shoal.learning.data.dataset import Known
from shoal.learning.task import Task

PLAYERS = ("min.", "max.")


def ascending(parameter: Tensor) -> Tensor:
    """The same values, bit for bit, with the gradient's sign turned."""
    return 2.0 * parameter.detach() - parameter


class Players(nn.Module):
    """Two points: `min.point` [n] goes down, `max.point` [m] goes up."""

    def __init__(self, n: int, m: int, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.min, self.max = (nn.ParameterDict({"point": torch.zeros(k, dtype=dtype)}) for k in (n, m))

    def both(self) -> Tensor:
        """z = (x, y), [n + m]."""
        return torch.cat([self.min["point"], ascending(self.max["point"])])


class QuadraticGame(Players):
    """forward: G [B, d, d] -> 1/2 z'Gz and z, [B, 1 + d]."""

    def forward(self, inputs: Tensor) -> Tensor:
        """The quadratic part of each game, and the point."""
        z = self.both()
        value = 0.5 * (inputs @ z) @ z
        return torch.cat([value[:, None], z.expand(len(value), -1)], 1)


def game_loss(output: Tensor, target: Tensor) -> Tensor:
    """1/2 z'Gz + s'z of output (1/2 z'Gz, z) [B, 1 + d] and target s [B, d]: one value a game, [B]."""
    return output[:, 0] + (output[:, 1:] * target).sum(-1)


def quadratic_game(
    peers: int = 1,
    *,
    dimension: int = 10,
    smallest: float = 0.01,
    coupling: float = 1.0,
    spread: float = 1.0,
    samples: int = 1,
    noise: float = 0.0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Task:
    """Games f_j(x, y) = x'Ax/2 + x'By - y'Cy/2 + a'x - c'y, with A, B, C of each peer and a, c of each sample.

    Args:
        peers: blocks of samples, for the partition `contiguous`.
        dimension: of x and of y.
        smallest: least eigenvalue of A and C; theirs are uniform between this and 1. In (0, 1].
        coupling: singular values of B are uniform between 0 and this.
        spread: standard deviation of the peers' a and c.
        samples: games a peer.
        noise: standard deviation of a sample's a and c about those of its peer.
        seed: of the draws.
        dtype: of model and data.

    Returns:
        A task whose dataset has the saddle point as `known.optimum`, and f there as `known.minimum`; its metric
        "distance" is |z - z*|^2 / |z*|^2 (z starts at 0).

    Raises:
        ValueError: a number outside its range.
    """
    for name, count in (("peers", peers), ("dimension", dimension), ("samples", samples)):
        if count < 1:
            raise ValueError(f"{name}: got {count}; at least 1 is allowed")
    if not 0.0 < smallest <= 1.0:
        raise ValueError(f"smallest: got {smallest}; a number in (0, 1] is allowed")
    for name, value in (("coupling", coupling), ("spread", spread), ("noise", noise), ("seed", seed)):
        if not value >= 0:
            raise ValueError(f"{name}: got {value}; a number >= 0 is allowed")
    rng, n = np.random.Generator(np.random.Philox(seed)), dimension
    games, shifts = [], []
    for _ in range(peers):
        a, c = (_symmetric(rng, rng.uniform(smallest, 1.0, n)) for _ in range(2))
        u, v = (np.linalg.qr(rng.standard_normal((n, n)))[0] for _ in range(2))
        b = u @ np.diag(rng.uniform(0.0, coupling, n)) @ v
        games.append(np.block([[a, b], [b.T, -c]]))
        shifts.append(spread * rng.standard_normal(2 * n) + noise * rng.standard_normal((samples, 2 * n)))
    inputs = torch.from_numpy(np.repeat(np.stack(games), samples, 0)).to(dtype)
    data = Data(inputs, torch.from_numpy(np.concatenate(shifts)).to(dtype))
    known = _saddle(data)
    dataset = Dataset("game", data, data, source=f"generated from seed {seed}", known=known)
    metrics = {"distance": partial(_distance, known.optimum)}
    return Task("game", partial(QuadraticGame, n, n, dtype), dataset, game_loss, metrics, players=PLAYERS)


def operator_matrix(games: Tensor) -> Tensor:
    """[..., d, d] of F(z) = Mz + ..., from G of f = z'Gz/2 + ...: the second half of the rows with its sign turned."""
    turned = games.clone()
    turned[..., games.shape[-1] // 2 :, :] *= -1.0
    return turned


@dataclass(frozen=True)
class Constants:
    """Of linear operators M_i, and of their mean.

    Attributes:
        cocoercivity: least l with <Mu, u> >= |Mu|^2 / l for all u and every M_i.
        mean_cocoercivity: that of the mean.
        monotonicity: largest mu with <Mu, u> >= mu |u|^2, of the mean.
    """

    cocoercivity: float
    mean_cocoercivity: float
    monotonicity: float


def constants(matrices: Tensor) -> Constants:
    """Of M_i [n, d, d], each with a positive definite symmetric part.

    l = 1 / lambda_min(sym(M^-1)). The eigenvalues of M alone, as 1 / min Re(1 / lambda), give it for normal M only,
    and too small a number else.
    """
    m = matrices.double()
    mean = m.mean(0)
    return Constants(
        max(_cocoercivity(one) for one in m),
        _cocoercivity(mean),
        float(torch.linalg.eigvalsh((mean + mean.T) / 2)[0]),
    )


def _cocoercivity(m: Tensor) -> float:
    inverse = torch.linalg.inv(m)
    return 1.0 / float(torch.linalg.eigvalsh((inverse + inverse.T) / 2)[0])


def _symmetric(rng: np.random.Generator, eigenvalues: Any) -> Any:
    q = np.linalg.qr(rng.standard_normal((len(eigenvalues), len(eigenvalues))))[0]
    return q @ np.diag(eigenvalues) @ q.T


def _saddle(data: Data) -> Known:
    g, s = data.inputs.double().mean(0), data.targets.double().mean(0)
    z = torch.linalg.solve(g, -s)
    return Known(z, float(0.5 * z @ g @ z + s @ z))


def _distance(optimum: Tensor, output: Tensor, target: Tensor) -> Tensor:
    z = output[:, 1:].double()
    return (z - optimum).square().sum(-1) / optimum.square().sum()


class RobustLeastSquares(Players):
    """min_x max_y of the mean of (a_r x - y_r)^2 - penalty (y_r - b_r)^2: least squares whose targets an enemy moves.

    forward: rows (a_r, r) [B, n + 1], with r the row's number -> (a_r x - y_r, y_r) [B, 2].
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Error and moved target of each row."""
        y = ascending(self.max["point"])[inputs[:, -1].long()]
        return torch.stack([inputs[:, :-1] @ self.min["point"] - y, y], 1)


def robust_least_squares(
    samples: int = 100, *, dimension: int = 10, penalty: float = 5.0, noise: float = 0.1, seed: int = 0
) -> Task:
    """A task of `RobustLeastSquares` on a random line with noise; float64. `penalty` is above 1."""
    if not penalty > 1.0:
        raise ValueError(f"penalty: got {penalty}; a number above 1 is allowed, or the enemy's best is infinite")
    rng = np.random.Generator(np.random.Philox(seed))
    a = torch.from_numpy(rng.standard_normal((samples, dimension)) / np.sqrt(dimension))
    b = a @ torch.from_numpy(rng.standard_normal(dimension)) + noise * torch.from_numpy(rng.standard_normal(samples))
    data = Data(torch.cat([a, torch.arange(samples, dtype=torch.float64)[:, None]], 1), b)
    build = partial(RobustLeastSquares, dimension, samples, torch.float64)
    loss = partial(_robust_loss, penalty)
    dataset = Dataset("robust least squares", data, data)
    return Task("robust least squares", build, dataset, loss, metrics={}, players=PLAYERS)


def _robust_loss(penalty: float, output: Tensor, target: Tensor) -> Tensor:
    return output[:, 0].square() - penalty * (output[:, 1] - target).square()
