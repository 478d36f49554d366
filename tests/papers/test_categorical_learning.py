"""The claim's own arithmetic: exact criteria, and nets that are the same in both worlds."""

from __future__ import annotations

import torch

from shoal.learning.models import SmallCNN
from shoal.lenses import plain, step, whole_loss, xor
from shoal.lenses.boolean import bits, difference, lookup, polynomials
from shoal.papers import categorical_learning as paper


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.gradients(figures).holds
    assert paper.laws(figures).holds
    assert paper.trajectories(figures).holds


def test_iris_holds() -> None:
    assert paper.iris({}, (81,)).holds


def test_the_convolutional_net_is_the_torch_model() -> None:
    net = paper.conv_net(8, 4, 3)
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    module = paper.reversed_into(SmallCNN(8, 10, 4), net.start)
    torch.testing.assert_close(net.fwd(net.start, x), module(x).detach(), rtol=1e-5, atol=1e-6)


def test_a_circuit_behind_a_table_changes_errors_as_the_docstring_says() -> None:
    """e becomes (1 + M M^T) e, a matrix of determinant 1 over Z2 here, so that no error but 0 vanishes."""
    m = torch.tensor([[1, 1], [0, 1]])
    left = (torch.eye(2, dtype=torch.int64) + m @ m.T) % 2
    assert (left[0, 0] * left[1, 1] + left[0, 1] * left[1, 0]) % 2 == 1
    circuit = lookup(2, 2) >> plain(polynomials(2, [[0], [1]], [[1]]).lens)
    learner, words = step(circuit, difference, xor, whole_loss), bits(2)
    here, wanted = learner.start, bits(2).flip(0)
    error = learner.predict(here, words) ^ wanted
    for _ in range(4):
        here = learner(here, words, wanted)
        expected = (error.long() @ left.T) % 2 == 1
        error = learner.predict(here, words) ^ wanted
        assert torch.equal(error, expected)
