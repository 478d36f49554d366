"""The claim's exact criteria, the stream, and how accuracies are judged."""

import pytest
import torch

from shoal.optim import SGD
from shoal.papers import upgd as paper
from shoal.tensors.random import key, permutation


def test_the_exact_criteria_hold() -> None:
    figures: dict[str, float] = {}
    assert paper.like_sgd(figures).holds
    assert paper.most_useful(figures).holds
    assert paper.noise(figures).holds


def test_a_method_without_utility_and_noise_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "UPGD", type("Plain", (), {"rule": lambda lr, **h: SGD.rule(lr)}))
    assert not paper.most_useful({}).holds
    assert not paper.noise({}).holds


def test_the_stream_trains_the_network_that_its_weights_were_drawn_for(monkeypatch: pytest.MonkeyPatch) -> None:
    images, labels = torch.randn(50, 64, generator=torch.Generator().manual_seed(3)), torch.arange(50) % 10
    monkeypatch.setattr(paper, "pooled", lambda: (images, labels))
    ended: list[torch.Tensor] = []

    def make(params: list[torch.nn.Parameter], lr: float, seed: int) -> torch.optim.Optimizer:
        ended.append(params[0])
        return torch.optim.SGD(params, lr=lr)

    accuracies = paper.online(make, 0.1, 7, tasks=2, samples=15)
    torch.manual_seed(7)
    first, second, third = torch.nn.Linear(64, 32), torch.nn.Linear(32, 16), torch.nn.Linear(16, 10)
    network = torch.nn.Sequential(first, torch.nn.ReLU(), second, torch.nn.ReLU(), third)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    order, right = permutation(key(7, "stream"), 50), [0, 0]
    for i in range(30):
        target = permutation(key(7, "labels", i // 15), 10)[labels[order[i]]].reshape(1)
        output = network(images[order[i]][None])
        right[i // 15] += int(output.argmax()) == int(target)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(output, target).backward()
        optimizer.step()
    assert accuracies == [count / 15 for count in right]
    expected = torch.cat([p.detach().flatten() for p in network.parameters()])
    assert ended[0].detach().numpy() == pytest.approx(expected.numpy(), abs=1e-6)


@pytest.mark.parametrize(
    ("sgd", "upgd", "expected"),
    [
        ([0.4, 0.9, 0.9, 0.3], [0.4, 0.1, 0.1, 0.45], [True, True, True]),
        ([0.4, 0.9, 0.9, 0.36], [0.4, 0.1, 0.1, 0.39], [False, False, False]),
    ],
)
def test_the_first_and_the_last_quarter_count(sgd: list[float], upgd: list[float], expected: list[bool]) -> None:
    findings = paper.plasticity({"SGD": [sgd, sgd], "UPGD": [upgd, upgd]}, {})
    assert [finding.holds for finding in findings] == expected
