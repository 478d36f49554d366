"""K. Yue, R. Jin, C.-W. Wong, H. Dai, "Federated Learning via Plurality Vote", 2021 (arXiv 2110.02998).

Claimed: clients that vote on binary weights, one bit each, instead of sending quantised gradients, reach the highest
accuracy per round among methods that quantise, on non-IID data; with reputations the vote withstands clients that send
the opposite.

Criteria, fixed before the run:

1. The expected vote is the weight, over a grid of draws to its spacing; latent weights give soft votes back to 1e-12.
2. A client sends one bit for each voted weight.
3. Fashion-MNIST, 10 clients, Dirichlet(0.5): after the first round the deployed binary model's test accuracy is above
   that of a majority vote on the signs of local updates (signSGD, one bit a weight, weights in floats),
4. and so it is after the last round, in the mean over seeds.
5. With 4 of 10 clients sending the opposite, reputations give an accuracy at least 10 points above that of uniform
   votes after the last round.

"full": 6,000 samples, MLP 784-128-64-10, 10 rounds of 40 steps with batches of 50, three seeds; each method has its
best of four rates (FedVote: of its local Adam; signs: of the server) by the sum of both accuracies on another seed.
"check": 2,000 samples, 784-32-32-10, 5 rounds of 20 steps, one seed, one rate for each.

Notes. Each hidden layer is followed by a normalisation without trained parameters, as in the publication, but of a
sample's features instead of a batch's: clients' batches may be of any size then. Reputations are the authors' code's,
which leaves out those below the mean; those of the publication, in proportion, are among the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor, nn

from shoal.learning import Learner, Task
from shoal.learning.data import Dataset
from shoal.optim import Adam
from shoal.papers.measures import some_of
from shoal.papers.result import Finding, Result
from shoal.protocols import FedVote, Needs
from shoal.protocols.federated.fedvote import inverse, sample
from shoal.simulation import Run, simulate
from shoal.tensors.packing import pack_bits, unpack_bits
from shoal.tensors.payload import encoded_size

CLIENTS = 10
LEAD = 0.10


@dataclass(frozen=True)
class Setting:
    """One scale of the comparison; a single rate is taken as it is."""

    samples: int
    hidden: tuple[int, int]
    rounds: int
    steps: int
    rates: Sequence[float]
    sign_rates: Sequence[float]
    seeds: Sequence[int]
    tuning_seed: int = 80


CHECK = Setting(2_000, (32, 32), 5, 20, (0.1,), (0.01,), (81,))
FULL = Setting(6_000, (128, 64), 10, 40, (0.02, 0.05, 0.1, 0.2), (0.001, 0.003, 0.01, 0.03), (81, 82, 83))


@dataclass(frozen=True)
class SignMajority:
    """For comparison: clients send the signs of their local updates, the server moves by what most of them say.

    Attributes:
        lr: how far every weight moves in a round.
        steps: local steps.
    """

    lr: float
    steps: int
    needs: ClassVar[Needs] = Needs(server=True, requests=True)

    async def __call__(self, me: Learner) -> None:
        """The server's part."""
        if not me.is_server:
            me.serve("signs", partial(self.signs, me), capacity=1)
            return
        async for _ in me.rounds():
            replies = await me.request_all(me.clients, me.model, "signs")
            votes = torch.stack([unpack_bits(bits, 1, me.model.numel()) for bits in replies.values()])
            me.model = me.model + self.lr * (2.0 * votes - 1.0).sum(0).sign()

    async def signs(self, me: Learner, sender: int, model: Tensor) -> Tensor:
        """A client's part."""
        me.reset_optimizer()
        return pack_bits(await me.update(self.steps, at=model) > 0, 1)


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    dataset = some_of("fashion-mnist", setting.samples)
    findings = [exact(figures), bits(figures), *training(setting, dataset, figures)]
    published = {
        "accuracy per round": "highest among signSGD, FedPAQ and others, non-IID FEMNIST and CIFAR-10",
        "Byzantine clients": "sign inverting ones are withstood",
    }
    return Result(findings, figures, published, setting.seeds)


def exact(figures: dict[str, float], n: int = 4096) -> Finding:
    """Criterion 1."""
    w = torch.linspace(-1.0, 1.0, 1001, dtype=torch.float64)[1:-1]
    u = (torch.arange(n, dtype=torch.float64)[:, None] + 0.5) / n
    bias = max(float((sample(w, u, kind).mean(0) - w).abs().max()) for kind in ("binary", "ternary"))
    p = w * (1.0 - 1e-4)
    error = float((torch.tanh(1.5 * inverse(p, 1.5)) - p).abs().max())
    figures["bias of a vote over a grid of 4096 draws"], figures["error of soft votes"] = bias, error
    return Finding(
        "votes are right on average to the grid's spacing, soft votes come back to 1e-12",
        f"{bias:.1e}, {error:.1e}",
        bias <= 1.0 / n + 1e-12 and error <= 1e-12,
    )


def bits(figures: dict[str, float], few: int = 8, many: int = 40) -> Finding:
    """Criterion 2."""
    sizes = []
    for hidden in (few, many):
        vote = FedVote().pack(torch.ones(784 * hidden))
        sizes.append(encoded_size(vote))
    found = figures["bits a weight"] = 8.0 * (sizes[1] - sizes[0]) / (784 * (many - few))
    return Finding("one bit for each weight", f"{found:.3f}", abs(found - 1.0) < 0.01)


# -- training ----------------------------------------------------------------------------------------------------


def network(dataset: Dataset, hidden: tuple[int, int]) -> Task:
    """A network with normalised hidden layers."""
    width = dataset.train.inputs[0].numel()

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in zip((width, *hidden), hidden, strict=False):
            layers += [nn.Linear(before, after, bias=False), nn.LayerNorm(after, elementwise_affine=False), nn.ReLU()]
        return nn.Sequential(*layers, nn.Linear(hidden[-1], dataset.classes or 10))

    return Task("normalised network", build, dataset)


def training(setting: Setting, dataset: Dataset, figures: dict[str, float]) -> list[Finding]:
    """Criteria 3 to 5."""
    vote = FedVote(steps=setting.steps)
    lr = best(setting, dataset, setting.rates, lambda lr: (vote, lr))
    step = best(setting, dataset, setting.sign_rates, lambda lr: (SignMajority(lr, setting.steps), 0.003))
    figures["learning rate, FedVote"], figures["learning rate, signs"] = lr, step
    arms = {
        "FedVote": (vote, lr, "none"),
        "signs": (SignMajority(step, setting.steps), 0.003, "none"),
        "attacked, uniform": (vote, lr, "sign-flip:0.4"),
        "attacked, reputations": (replace(vote, beta=0.5, cut=True), lr, "sign-flip:0.4"),
        "attacked, in proportion to reputations": (replace(vote, beta=0.5), lr, "sign-flip:0.4"),
    }
    scores = {}
    for name, (protocol, rate, attack) in arms.items():
        curves = [run_with(setting, dataset, protocol, rate, seed, attack).curve()[:, 1] for seed in setting.seeds]
        scores[name] = [sum(float(c[place]) for c in curves) / len(curves) for place in (1, -1)]
        figures[f"test accuracy, {name}, first round"], figures[f"test accuracy, {name}, last round"] = scores[name]
    return judge(scores, dataset.name)


def judge(scores: dict[str, list[float]], data: str) -> list[Finding]:
    """The findings of criteria 3 to 5."""
    vote, signs = scores["FedVote"], scores["signs"]
    uniform, trusted = (scores[f"attacked, {name}"][1] for name in ("uniform", "reputations"))
    return [
        Finding(
            f"{data}, after the first round above signs", f"{vote[0]:.1%} against {signs[0]:.1%}", vote[0] > signs[0]
        ),
        Finding("after the last round above signs", f"{vote[1]:.1%} against {signs[1]:.1%}", vote[1] > signs[1]),
        Finding(
            f"4 of 10 send the opposite: reputations at least {100 * LEAD:.0f} points above uniform votes",
            f"{trusted:.1%} against {uniform:.1%}",
            trusted >= uniform + LEAD,
        ),
    ]


def best(
    setting: Setting, dataset: Dataset, rates: Sequence[float], arm: Callable[[float], tuple[object, float]]
) -> float:
    """The rate with the largest sum of accuracies after the first and the last round, on the tuning seed."""
    if len(rates) == 1:
        return rates[0]
    scores = {}
    for rate in rates:
        protocol, lr = arm(rate)
        curve = run_with(setting, dataset, protocol, lr, setting.tuning_seed).curve()
        scores[rate] = float(curve[1, 1] + curve[-1, 1])
    return max(scores, key=lambda rate: scores[rate])


def run_with(setting: Setting, dataset: Dataset, protocol: object, lr: float, seed: int, attack: str = "none") -> Run:
    """One run of an arm; clients step by Adam."""
    return simulate(
        protocol,
        task=network(dataset, setting.hidden),
        peers=CLIENTS,
        partition="dirichlet:0.5",
        optimizer=Adam.rule(lr),
        batch=50,
        seed=seed,
        rounds=setting.rounds,
        network="ideal",
        evaluate=1,
        eval_samples=10_000,
        attack=attack,
    )
