"""Models, losses and metrics against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.learning import Net, Task, accuracy, cross_entropy, squared_error
from shoal.learning.models import cnn, logistic, mlp, transformer, vit
from shoal.learning.objective import apart, weighted
from shoal.tensors.random import key, normal

from . import small

IMAGES, TEXT = small.classification(width=16), small.characters()


@pytest.fixture(autouse=True)
def _generator() -> None:
    """Torch's own generator, from a fixed seed."""
    torch.manual_seed(0)


def values(*shape: int, name: str = "values") -> Tensor:
    return normal(key(1, name), shape, dtype=torch.float64)


def count(build: small.Build) -> int:
    return sum(p.numel() for p in build().parameters())


def test_sizes_are_those_of_the_formula() -> None:
    assert count(logistic(IMAGES)) == 16 * 4 + 4
    assert count(mlp(IMAGES, hidden=5)) == (16 * 5 + 5) + (5 * 4 + 4)
    assert count(mlp(IMAGES, hidden=5, depth=3)) == (16 * 5 + 5) + 2 * (5 * 5 + 5) + (5 * 4 + 4)
    assert count(cnn(IMAGES, channels=2)) == (2 * 9 + 2) + (4 * 2 * 9 + 4) + (4 * 4 + 4)


@pytest.mark.parametrize(
    "build", [logistic(IMAGES), mlp(IMAGES), cnn(IMAGES), transformer(IMAGES, 8, 1, 2), vit(IMAGES, 8, 1, 2, 2)]
)
def test_a_classifier_gives_a_score_a_class_and_sees_each_sample_by_itself(build: small.Build) -> None:
    module, x = build().double(), values(6, 16)
    together = module(x)
    assert together.shape == (6, 4)
    torch.testing.assert_close(together, torch.cat([module(x[i : i + 1]) for i in range(6)]), rtol=1e-12, atol=1e-12)


def test_a_vision_transformer_sees_patches_and_not_their_order_but_by_positions() -> None:
    module = vit(IMAGES, width=8, layers=1, heads=2, patch=2)().double()
    x = values(3, 16)
    image = x.reshape(3, 4, 4)
    turned = torch.cat([image[:, :, 2:], image[:, :, :2]], 2)  # left and right patches change places
    assert not torch.allclose(module(x), module(turned.reshape(3, 16)))
    with torch.no_grad():
        module.position.zero_()  # type: ignore[union-attr, operator]
    torch.testing.assert_close(module(x), module(turned.reshape(3, 16)), rtol=1e-10, atol=1e-10)
    mixed = image.clone()
    mixed[:, 0, 0], mixed[:, 0, 2] = image[:, 0, 2], image[:, 0, 0]  # pixels of two patches change places
    assert not torch.allclose(module(x), module(mixed.reshape(3, 16)))
    assert module(image[:, None]).shape == (3, 4)


def test_a_character_is_predicted_from_those_up_to_it() -> None:
    module = transformer(TEXT, width=8, layers=2, heads=2)().double()
    x = TEXT.train.inputs[:3].clone()
    before = module(x)
    assert before.shape == (3, 5, 7)
    for place in range(5):
        changed = x.clone()
        changed[:, place] = (changed[:, place] + 1) % 7
        after = module(changed)
        torch.testing.assert_close(after[:, :place], before[:, :place], rtol=1e-12, atol=1e-12)
        assert not torch.allclose(after[:, place:], before[:, place:])
    torch.testing.assert_close(module(x[:, :2]), before[:, :2], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: mlp(IMAGES, activation="tan"), "activation: got 'tan'; allowed are relu, tanh, gelu"),
        (lambda: mlp(IMAGES, hidden=0), "hidden, depth: got 0, 1"),
        (lambda: mlp(IMAGES, depth=0), "hidden, depth: got 64, 0"),
        (lambda: transformer(IMAGES, width=10, heads=4), "width: got 10"),
        (lambda: transformer(IMAGES, width=8, heads=4, base_width=6), "base_width: got 6; a multiple of heads = 4"),
        (lambda: vit(IMAGES, width=10), "width: got 10"),
        (lambda: vit(IMAGES, patch=3), "patch: got 3; a divisor of the image's side of 4 is allowed"),
        (lambda: cnn(small.classification(width=15)), "square images"),
        (lambda: logistic(small.regression()), "no classes"),
    ],
)
def test_an_impossible_model_is_refused(make: small.Build, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_the_initial_model_depends_on_the_seed_alone() -> None:
    task = small.task("mlp")
    torch.manual_seed(5)
    state = torch.get_rng_state()
    one, again, other = (task.initial(seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    for (name, a), b, c in zip(one.named_parameters(), again.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert not torch.equal(a, c), name


def test_losses_and_metrics_are_those_of_torch_for_each_sample() -> None:
    output, target = values(6, 4), torch.arange(6) % 4
    torch.testing.assert_close(cross_entropy(output, target), F.cross_entropy(output, target, reduction="none"))
    assert accuracy(output, target).tolist() == (output.argmax(1) == target).float().tolist()
    texts, symbols = values(6, 5, 4, name="texts"), (torch.arange(30) % 4).view(6, 5)
    each = F.cross_entropy(texts.flatten(0, 1), symbols.flatten(), reduction="none").view(6, 5)
    torch.testing.assert_close(cross_entropy(texts, symbols), each.mean(1))
    torch.testing.assert_close(accuracy(texts, symbols), (texts.argmax(2) == symbols).float().mean(1))
    goal = values(6, 4, name="goal")
    expected = F.mse_loss(output, goal, reduction="none").sum(1) / 2
    torch.testing.assert_close(squared_error(output, goal), expected)


def test_a_weighted_loss_ignores_what_has_no_weight_and_refuses_one_number() -> None:
    losses = torch.tensor([1.0, 3.0, 100.0])
    assert float(weighted(losses, torch.tensor([0.5, 0.5, 0.0]))) == 2.0
    with pytest.raises(ValueError, match=r"a batch of 3; one loss a sample"):
        weighted(losses.mean(), torch.ones(3))


def test_a_net_shows_its_parameters_as_one_vector_in_the_layouts_order() -> None:
    module = small.task("mlp").initial(0)
    net = Net(module, dict(module.named_parameters()))
    assert torch.equal(net.vector(), torch.cat([p.flatten() for p in module.parameters()]))
    x = values(2, 9).float()
    assert torch.equal(net(x), module(x))


def test_gradients_are_set_apart_only_where_they_share_memory() -> None:
    base = values(4)
    given = [base, base, base[1:], torch.ones((), dtype=torch.float64).expand(3), values(2)]
    result = apart(given)
    for before, after in zip(given, result, strict=True):
        assert torch.equal(before, after)
    kept = [part.clone() for part in result]
    for i, part in enumerate(result):
        part.mul_(2.0)
        assert all(torch.equal(a, b) for a, b in zip(result[i + 1 :], kept[i + 1 :], strict=True))
    assert result[0] is base
    assert result[4] is given[4]


def test_a_task_measures_accuracy_unless_told_otherwise() -> None:
    assert list(small.task("mlp").metrics) == ["accuracy"]
    assert Task("", lambda: torch.nn.Linear(1, 1), IMAGES, metrics={}).metrics == {}
