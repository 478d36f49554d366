"""FedVote against its independent restatement, and what votes keep."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from shoal import Run, simulate
from shoal.engine import Crash
from shoal.learning import Task
from shoal.learning.data import Data, Dataset, load
from shoal.learning.models import mlp
from shoal.optim import SGD, Adam
from shoal.protocols import FedVote
from shoal.protocols.federated import fedvote
from shoal.protocols.federated.fedvote import CLIP, Vote, credibility, inverse, sample, vote_weights
from shoal.tensors import Layout, integers, key, normal, uniform
from shoal.tensors.layout import flatten_module
from tests.restatements.compression import fedvote as restated

KINDS = ("binary", "ternary")
WIDE = torch.float64


def votes_of(m: int, d: int, kind: str, seed: int = 0) -> Tensor:
    values = torch.tensor([-1.0, 1.0] if kind == "binary" else [-1.0, 0.0, 1.0], dtype=WIDE)
    return values[integers(key(seed, "votes"), len(values), (m, d))]


# -- maths


@pytest.mark.parametrize("kind", KINDS)
def test_votes_are_the_restatements_and_right_on_average(kind: Any) -> None:
    n = 40_000
    w = torch.linspace(-1.0, 1.0, 21, dtype=WIDE)
    u = uniform(key(1, "u"), (n, 21), dtype=WIDE)
    drawn = sample(w.expand(n, -1), u, kind)
    np.testing.assert_array_equal(drawn.numpy(), restated.sample(w.numpy(), u.numpy(), kind))
    spread = (1 - w**2 if kind == "binary" else w.abs() - w**2).sqrt()
    assert bool(((drawn.mean(0) - w).abs() <= 4.5 * spread / n**0.5 + 1e-12).all())


@pytest.mark.parametrize("a", [0.5, 1.5, 4.0])
def test_latent_weights_give_their_soft_votes_back(a: float) -> None:
    p = torch.linspace(-1.0, 1.0, 101, dtype=WIDE)
    h = inverse(p, a)
    torch.testing.assert_close(torch.tanh(a * h), p.clamp(-1 + CLIP, 1 - CLIP), rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(h.numpy(), restated.phi_inverse(p.numpy(), a), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("m", [1, 2, 5, 6])
def test_credibility_is_the_restatements(kind: Any, m: int) -> None:
    votes = votes_of(m, 200, kind, m)
    np.testing.assert_allclose(credibility(list(votes), kind).numpy(), restated.credibility(votes.numpy(), kind))


@pytest.mark.parametrize("cut", [False, True])
def test_vote_weights_are_the_restatements_and_add_up_to_one(cut: bool) -> None:
    for reputation in ([1.0, 1.0, 1.0], [0.9, 0.4, 0.7, 0.7], [0.5]):
        nu = torch.tensor(reputation, dtype=WIDE)
        found = vote_weights(nu, cut=cut)
        np.testing.assert_allclose(found.numpy(), restated.vote_weights(nu.numpy(), below_mean_out=cut))
        assert float(found.sum()) == pytest.approx(1.0, abs=1e-15)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("d", [1, 7, 8, 41])
def test_votes_are_packed_and_their_opposite_is_the_opposite(kind: str, d: int) -> None:
    protocol = FedVote(kind=kind)
    w = votes_of(1, d, kind, d)[0]
    vote = protocol.pack(w)
    assert len(vote.packed) == (-(-d // 8) if kind == "binary" else -(-d // 5))
    assert torch.equal(protocol.unpack(vote, d).to(WIDE), w)
    assert torch.equal(protocol.unpack(vote.negated(), d).to(WIDE), -w)


@pytest.mark.parametrize("wrong", [None, torch.zeros(2), Vote(torch.zeros(2, dtype=torch.uint8), True), 3])
def test_what_is_no_vote_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"^vote: got"):
        FedVote().unpack(wrong, 16)


def test_deployed_weights_are_the_restatements() -> None:
    p = torch.tensor([-0.9, -0.5, -0.1, 0.0, 0.2, 0.5, 0.51, 1.0], dtype=WIDE)
    for kind in KINDS:
        expected = restated.deployed(p.numpy(), kind)  # type: ignore[arg-type]
        np.testing.assert_array_equal(FedVote(kind=kind).deployed(p).numpy(), expected)


# -- runs


def small_task() -> Task:
    """Two linear layers in float64."""
    draw = normal(key(0, "data"), (40, 5), dtype=WIDE)
    data = Data(draw[:, :3].contiguous(), draw[:, 3:].contiguous())

    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double()

    return Task("two layers", build, Dataset("two layers", data, data), squared, metrics={})


def squared(output: Tensor, target: Tensor) -> Tensor:
    return 0.5 * (output - target).square().sum(-1)


def small_run(protocol: FedVote, rounds: int, rule: Any = None, **options: Any) -> Run:
    task = small_task()
    pieces = (task.dataset.train, list(torch.arange(40).split(8)))
    settings: dict[str, Any] = {"peers": 5, "batch": None, "network": "ideal", "seed": 3, **options}
    settings["batch"] = 0 if settings["batch"] is None else settings["batch"]
    return simulate(protocol, task=task, partition=pieces, optimizer=rule or SGD.rule(0.5), rounds=rounds, **settings)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beta", [None, 0.5])
def test_a_trajectory_is_the_restatements(kind: Any, beta: float | None) -> None:
    """Whole shards and one Adam step a round; gradients by torch in the weights used, votes by the same draws."""
    task, rounds, a, s = small_task(), 4, 1.5, 3**-0.5
    module, layout = task.initial(0), Layout.of(task.initial(0))
    start = flatten_module(task.initial(key(3, "init")))[0]
    piece = layout["0.weight"].slice
    server = restated.FedVote(
        restated.phi_inverse((start[piece] / s).numpy()), 5, kind=kind, reputation=beta is not None, beta=beta or 0.0
    )

    def gradient(client: int, w: np.ndarray) -> np.ndarray:
        weight = torch.tensor(s * w).requires_grad_()
        model = torch.cat([weight, start[piece.stop :]])
        rows = slice(8 * client, 8 * client + 8)
        output = torch.func.functional_call(module, layout.unflatten(model), (task.dataset.train.inputs[rows],))
        loss = squared(output, task.dataset.train.targets[rows]).mean()
        return s * torch.autograd.grad(loss, weight)[0].numpy()

    for r in range(rounds):
        votes = []
        for client in range(5):
            h = restated.local_update(server.h, lambda w, step, c=client: gradient(c, w), steps=1, lr=0.3, a=a)
            u = uniform(key(key(3, "peer", client), "vote", r), len(h), dtype=WIDE).numpy()
            votes.append(server.vote(h, u))
        server.round(np.stack(votes))
    (found,) = small_run(FedVote(steps=1, kind=kind, beta=beta), rounds, Adam.rule(0.3)).models.values()
    np.testing.assert_allclose(found[piece].numpy(), s * server.deployed(), rtol=1e-12)
    assert torch.equal(found[piece.stop :], start[piece.stop :])


@pytest.mark.parametrize("kind", KINDS)
def test_the_deployed_weights_have_two_or_three_values_and_the_rest_stays(kind: str) -> None:
    (before,), (after,) = (small_run(FedVote(steps=3, kind=kind), rounds).models.values() for rounds in (0, 3))
    allowed = {round(v * 3**-0.5, 12) for v in ((-1, 1) if kind == "binary" else (-1, 0, 1))}
    assert {round(float(v), 12) for v in after[:12]} <= allowed
    assert torch.equal(before[12:], after[12:])


def test_the_first_latent_weights_are_those_of_the_initial_model() -> None:
    """With no local step the expected vote is the initial model; within 5 standard errors over clients' draws."""
    task = small_task()
    vector, layout = flatten_module(task.initial(1))
    voted = fedvote.voted_segments(layout)
    latent = FedVote().latent_of(vector, voted)
    torch.testing.assert_close(3**-0.5 * torch.tanh(1.5 * latent[:12]), vector[:12], rtol=1e-3, atol=1e-9)
    assert torch.equal(latent[12:], vector[12:])


def test_the_way_up_is_a_bit_a_weight() -> None:
    runs = {h: simulate("fedvote", task="digits", model=f"mlp:{h}", peers=2, rounds=1, seed=1) for h in (8, 72)}
    sent = [run.info["bytes"]["by_peer"][0] for run in runs.values()]
    assert sent[1] - sent[0] == pytest.approx(64 * 64 / 8, abs=4)  # 64 more units of 64 weights


def test_a_client_that_is_gone_has_no_vote() -> None:
    run = small_run(FedVote(steps=2, beta=0.5), 4, faults=[Crash(0.0, 2)])
    assert run.status == "finished"


def test_reputations_tell_sign_inverting_clients_from_the_others() -> None:
    digits = load("digits")
    task = Task("digits", mlp(digits, hidden=32), digits)
    settings: dict[str, Any] = {"task": task, "peers": 10, "rounds": 4, "seed": 2, "optimizer": Adam.rule(0.05)}
    scores = {}
    for beta in (None, 0.5):
        run = simulate(FedVote(steps=20, beta=beta, cut=beta is not None), attack="sign-flip:0.4", batch=50, **settings)
        assert len(run.info["byzantine"]) == 4
        scores[beta] = float(run.curve("loss")[-1, 1])
    honest = simulate(FedVote(steps=20), batch=50, **settings)
    assert scores[0.5] < scores[None]
    assert float(honest.curve("loss")[-1, 1]) < scores[None]


def test_stacked_clients_go_the_way_of_clients_one_by_one() -> None:
    stacked, single = (small_run(FedVote(steps=3), 3, batched=batched) for batched in (True, False))
    for a, b in zip(stacked.models.values(), single.models.values(), strict=True):
        assert torch.equal(a, b)


def test_a_model_with_nothing_before_its_head_is_refused() -> None:
    with pytest.raises(Exception, match="model: the last layer is not voted on"):
        simulate("fedvote", task="digits", model="logistic", peers=2, rounds=1)


@pytest.mark.parametrize(
    "settings",
    [{"fraction": 0.0}, {"kind": "quaternary"}, {"a": 0.0}, {"beta": 1.0}, {"cut": True}, {"steps": -1}],
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(settings))}: "):
        FedVote(**settings)
