"""Games: turned gradients, the saddle point, and the constants against the restatement of ProxSkip-VIP."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from shoal import simulate
from shoal.learning import games
from shoal.optim import SGD
from shoal.protocols import FedAvg, ParallelSGD
from shoal.tensors.layout import Layout
from shoal.tensors.random import normal
from tests.restatements.compression_b import proxskip_vip as restated

F64 = torch.float64


def test_ascending_keeps_values_and_turns_gradients() -> None:
    x = normal(3, 40).requires_grad_()
    y = games.ascending(x)
    assert torch.equal(y, x)
    (y * torch.arange(40.0)).sum().backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None
    assert torch.equal(x.grad, -torch.arange(40.0))


def operator(task: object, z: torch.Tensor) -> torch.Tensor:
    """The gradient that training takes at z, over all data."""
    module = task.initial(0)  # type: ignore[attr-defined]
    layout, data = Layout.of(module), task.dataset.train  # type: ignore[attr-defined]

    def f(w: torch.Tensor) -> torch.Tensor:
        output = torch.func.functional_call(module, layout.unflatten(w), (data.inputs,))
        return task.loss(output, data.targets).mean()  # type: ignore[attr-defined,no-any-return]

    return torch.autograd.grad(f(z.requires_grad_()), z)[0]


def test_the_gradient_of_a_game_is_its_operator() -> None:
    task = games.quadratic_game(3, dimension=4, seed=5, dtype=F64)
    data, z = task.dataset.train, normal(1, 8, dtype=F64)
    m = games.operator_matrix(data.inputs).mean(0)
    s = data.targets.mean(0) * torch.tensor([1.0] * 4 + [-1.0] * 4, dtype=F64)
    torch.testing.assert_close(operator(task, z), m @ z + s, rtol=1e-12, atol=1e-12)


def test_the_operator_is_zero_at_the_saddle_point_and_monotone() -> None:
    task = games.quadratic_game(4, dimension=5, seed=2, dtype=F64)
    assert task.dataset.known is not None
    assert operator(task, task.dataset.known.optimum.clone()).abs().max() < 1e-12
    m = games.operator_matrix(task.dataset.train.inputs)
    eigenvalues = torch.linalg.eigvalsh((m + m.mT) / 2)
    assert eigenvalues.min() >= 0.01
    assert eigenvalues.max() <= 1.0


def test_constants_are_the_restatements() -> None:
    m = games.operator_matrix(games.quadratic_game(5, dimension=6, seed=7, dtype=F64).dataset.train.inputs)
    found = games.constants(m)
    assert found.cocoercivity == pytest.approx(max(restated.cocoercivity(one) for one in m.numpy()))
    assert found.mean_cocoercivity == pytest.approx(restated.cocoercivity(m.mean(0).numpy()))
    assert found.monotonicity == pytest.approx(restated.strong_monotonicity(m.mean(0).numpy()))


def test_descent_ascent_on_a_game_by_any_protocol_is_the_restatements() -> None:
    task = games.quadratic_game(4, dimension=3, seed=1, dtype=F64)
    data = task.dataset.train
    m = games.operator_matrix(data.inputs).numpy()
    s = data.targets.numpy() * np.array([1.0] * 3 + [-1.0] * 3)
    operators = [lambda z, a=a, b=b: a @ z + b for a, b in zip(m, s, strict=True)]
    gda = local = np.zeros(6)
    for _ in range(5):
        gda = restated.gda_step(gda, operators, 0.2)
        local = restated.local_gda_round(local, operators, 0.2, 4)
    for protocol, expected in ((ParallelSGD(), gda), (FedAvg(steps=4), local)):
        run = simulate(
            protocol, task=task, peers=4, partition="contiguous", optimizer=SGD.rule(0.2), batch=0, rounds=5, workers=1
        )
        (model,) = run.models.values()
        np.testing.assert_allclose(model.numpy(), expected, rtol=1e-11, atol=1e-12)


def test_the_named_game_reports_its_distance_to_the_saddle_point() -> None:
    run = simulate(
        "parallel-sgd", task="game:4,coupling=0.1,smallest=0.5", peers=3, partition="contiguous", lr=0.5, rounds=60
    )
    assert run.curve("distance")[0, 1] == pytest.approx(1.0, rel=1e-5)
    assert run.final("distance") < 1e-6


def test_the_enemy_of_robust_least_squares_moves_targets_by_its_best() -> None:
    task = games.robust_least_squares(30, dimension=4, penalty=3.0, seed=4)
    run = simulate(ParallelSGD(), task=task, peers=1, optimizer=SGD.rule(2.0), batch=0, rounds=600, workers=1)
    (z,) = run.models.values()
    a, b = task.dataset.train.inputs[:, :-1], task.dataset.train.targets
    # grad_y: (y - ax) = penalty (y - b);  grad_x with that y is plain least squares.
    x = torch.linalg.lstsq(a, b[:, None]).solution[:, 0]
    torch.testing.assert_close(z[:4], x, rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(z[4:], (3.0 * b - a @ x) / 2.0, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("settings", [{"dimension": 0}, {"smallest": 0.0}, {"coupling": -1.0}, {"samples": 0}])
def test_games_that_cannot_be_are_refused(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}: got"):
        games.quadratic_game(**settings)  # type: ignore[arg-type]


def test_an_enemy_without_bounds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"penalty: got 1\.0"):
        games.robust_least_squares(penalty=1.0)
