"""One byte a slope: against its independent restatement, and equal models whoever comes, goes or mishears."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shoal import Run, simulate
from shoal.engine import Crash, Fault, Join, Leave, Link, Partition, PeerFailed, Restart
from shoal.protocols import OneByte
from shoal.protocols.compressed import one_byte
from shoal.protocols.compressed.one_byte import ABSENT, ZERO, decode_slope, directions, encode_slope, united
from shoal.tensors.random import integers, key
from tests.restatements.compression import just_one_byte as restated

from . import runs

SIZES = (5, 10, 20)
SMALL: dict[str, Any] = {"samples": 2, "lr": 0.02, "batch": None, "check": 8}


def one_byte_run(sizes: tuple[int, ...] = SIZES, rounds: int = 10, **options: Any) -> Run:
    given_ = {name: options.pop(name) for name in ("faults", "topology", "network", "seed") if name in options}
    settings: dict[str, Any] = {"network": "ideal", "topology": "complete", "seed": 3, "workers": 1, **given_}
    task = runs.regression()
    protocol, pieces = OneByte(**{**SMALL, **options}), runs.partition(task, sizes)
    return simulate(protocol, task=task, partition=pieces, peers=len(sizes), rounds=rounds, **settings)


def z(t: int, peer: int, j: int) -> restated.Array:
    (drawn,) = directions(0, t, torch.tensor([peer]), torch.tensor([j]), torch.zeros(runs.SIZE, dtype=torch.float64))
    return drawn.numpy()


def by_hand(sizes: tuple[int, ...], present: list[list[int]], samples: int = 2) -> list[restated.Array]:
    """Models before each iteration and at the end, as the restatement has them."""
    data, pieces = runs.partition(runs.regression(), sizes)
    x, y = data.inputs.numpy(), data.targets.numpy()

    def loss(w: restated.Array, t: int, peer: int, j: int) -> float:
        rows, split = pieces[peer].numpy(), runs.WIDTH * runs.OUTPUTS
        error = x[rows] @ w[:split].reshape(runs.OUTPUTS, runs.WIDTH).T + w[split:] - y[rows]
        return float(0.5 * (error**2).sum(1).mean())

    joined = dict.fromkeys(range(len(sizes)), 0.0)
    start = runs.start(runs.regression()).numpy()
    return restated.run(start, present, joined, z, loss, lr=0.02, samples_each=samples)[0]


def equal(run: Run) -> bool:
    models = runs.stack(run)
    return bool((models == models[0]).all())


# -- the byte


def test_bytes_stand_for_what_the_restatements_stand_for() -> None:
    for size in np.exp(np.linspace(-6.0, 6.0, 601)):
        for rho in (size, -size):
            expected = restated.decode(restated.encode(rho))
            assert decode_slope(encode_slope(rho)) == pytest.approx(expected, rel=1e-14)
    assert encode_slope(0.0) == ZERO
    assert decode_slope(ZERO) == 0.0 == restated.decode(restated.encode(0.0))


@given(rho=st.floats(math.exp(-63 / 16), math.exp(63 / 16)))
def test_within_the_range_a_byte_is_right_to_a_32nd_of_its_logarithm(rho: float) -> None:
    for sign in (1.0, -1.0):
        found = decode_slope(encode_slope(sign * rho))
        assert math.copysign(1.0, found) == sign
        assert abs(math.log(abs(found)) - math.log(rho)) <= 1 / 32 + 1e-12


@given(rho=st.floats(allow_nan=False, allow_infinity=False))
def test_every_slope_is_one_byte_with_its_sign(rho: float) -> None:
    code = encode_slope(rho)
    assert 0 <= code < ABSENT
    assert np.sign(decode_slope(code)) == np.sign(rho)
    assert encode_slope(decode_slope(code)) == code


@pytest.mark.parametrize("rho", [math.nan, math.inf, -math.inf])
def test_no_byte_is_a_slope_that_is_not_finite(rho: float) -> None:
    with pytest.raises(ValueError, match=r"^rho: got"):
        encode_slope(rho)


# -- iterations


@pytest.mark.parametrize(("sizes", "samples"), [(SIZES, 2), ((7,) * 5, 1), ((12, 3), 4)])
def test_the_trajectory_is_the_restatements(sizes: tuple[int, ...], samples: int) -> None:
    expected = by_hand(sizes, [list(range(len(sizes)))] * 12, samples)
    for rounds in (1, 5, 12):
        run = one_byte_run(sizes, rounds, samples=samples)
        assert equal(run)
        np.testing.assert_allclose(run.models[0].numpy(), expected[rounds], rtol=1e-9, atol=1e-12)


def test_peers_together_are_one_that_averages_all_their_estimates() -> None:
    """With a learning rate a third as large for a third of the directions each: sums of the same terms."""
    before, after = by_hand(SIZES, [[0, 1, 2]])
    alone = [by_hand(SIZES, [[a]])[1] - before for a in range(3)]
    np.testing.assert_allclose(after - before, np.mean(alone, axis=0), rtol=1e-12, atol=1e-14)
    run = one_byte_run(rounds=1)
    assert equal(run)
    np.testing.assert_allclose(run.models[0].numpy(), after, rtol=1e-9, atol=1e-12)


def test_a_message_is_a_byte_for_each_sample() -> None:
    few, many = (one_byte_run(rounds=6, samples=n, check=100).info["bytes"]["channels"]["exchange"] for n in (5, 9))
    assert few["messages"] == many["messages"] == 6 * 3 * 2
    assert many["sent"] - few["sent"] == 4 * few["messages"]


def test_the_loss_falls() -> None:
    curve = one_byte_run(rounds=150, samples=4, lr=0.05).curve("loss")
    assert curve[-1, 1] < 0.7 * curve[0, 1]


# -- who comes, goes and mishears


@pytest.mark.parametrize("fault", [Crash, Leave])
def test_without_somebody_the_others_go_on_together(fault: Any) -> None:
    """An iteration takes 2 samples of 2 losses at a third of 0.01 s: 0.0133 s."""
    run = one_byte_run(rounds=12, faults=[fault(0.03, 2)])
    assert {i for i in (0, 1) if torch.equal(run.models[i], run.models[0])} == {0, 1}
    expected = by_hand(SIZES, [[0, 1, 2]] * 2 + [[0, 1]] * 10)
    np.testing.assert_allclose(run.models[0].numpy(), expected[-1], rtol=1e-9, atol=1e-12)


SCRIPTS: dict[str, list[Fault]] = {
    "back from its last iteration": [Crash(0.1, 1), Restart(0.25, 1)],
    "back at once": [Crash(0.1, 1), Restart(0.101, 1)],
    "back with nothing": [Crash(0.1, 1), Restart(0.25, 1, empty=True)],
    "late": [Join(0.2, 2)],
    "two late and one back": [Join(0.2, 2), Join(0.21, 3), Crash(0.15, 0), Restart(0.3, 0)],
    "one by one": [Crash(0.05 + 0.1 * i, i) for i in range(4)]
    + [Restart(0.1 + 0.1 * i, i, i % 2 == 0) for i in range(4)],
    "apart for a while": [Partition(0.1, 0.6, ((0, 1), (2, 3)))],
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("network", ["ideal", "wan"])
def test_whoever_comes_late_or_comes_back_has_the_same_model_in_the_end(script: str, network: str) -> None:
    run = one_byte_run((8, 9, 10, 11), 60, network=network, faults=SCRIPTS[script])
    assert run.status == "finished"
    assert equal(run)
    asked = run.info["bytes"]["channels"].get("log", {"messages": 0})["messages"]
    # On a wan a partition heals before anybody is given up: what was under way is sent again, and nothing is missed.
    assert (asked > 0) == ((script, network) != ("apart for a while", "wan"))


def test_a_newcomers_bytes_count_once_it_keeps_pace() -> None:
    """Its model is the others', and they would have another one without it."""
    late, never = (one_byte_run(rounds=60, faults=[fault]) for fault in (Join(0.2, 2), Crash(0.0, 2)))
    assert equal(late)
    assert not torch.equal(late.models[0], never.models[0])


@pytest.mark.parametrize("seed", [1, 2])
def test_messages_that_get_lost_make_models_differ_until_they_are_compared(seed: int) -> None:
    links = [Link(latency=0.01, loss=0.1, patience=0.5)] * 4
    assert equal(one_byte_run((8, 9, 10, 11), 32, network=links, check=4, timeout=1.0, seed=seed))


def test_digests_show_a_difference_and_logs_are_asked_for() -> None:
    """What one peer alone missed is in the others' logs: afterwards the model is as if nobody had missed it."""
    links = [Link(latency=0.001, loss=0.05, patience=0.5)] * 3
    whole = by_hand(SIZES, [[0, 1, 2]] * 8)
    run = one_byte_run(rounds=8, network=links, check=1, timeout=1.0)
    assert equal(run)
    assert run.info["bytes"]["channels"]["exchange"]["lost"] > 0
    np.testing.assert_allclose(run.models[0].numpy(), whole[-1], rtol=1e-9, atol=1e-12)


# -- logs


def a_log(seed: int, iterations: int) -> Tensor:
    codes = integers(key(seed, "codes"), 255, (iterations, 3, 2)).to(torch.uint8)
    return torch.where(integers(key(seed, "there"), 3, (iterations, 3, 1)) == 0, ABSENT, codes)


@given(a=st.integers(0, 9), b=st.integers(0, 9), c=st.integers(0, 9), lengths=st.tuples(*[st.integers(0, 5)] * 3))
def test_logs_become_the_same_in_whatever_order_they_are_united(
    a: int, b: int, c: int, lengths: tuple[int, int, int]
) -> None:
    x, y, w = (a_log(seed, n) for seed, n in zip((a, b, c), lengths, strict=True))
    assert torch.equal(united(x, y), united(y, x))
    assert torch.equal(united(united(x, y), w), united(x, united(y, w)))
    assert torch.equal(united(x, x), x)
    assert len(united(x, y)) == max(len(x), len(y))


def test_a_replay_is_the_restatements_and_goes_on_where_it_stopped() -> None:
    log, protocol = a_log(3, 6), OneByte(**SMALL)
    start = runs.start(runs.regression())
    entries = [
        [
            (a, [restated.encode(decode_slope(int(code))) for code in row])
            for a, row in enumerate(entry)
            if int(row[0]) != ABSENT
        ]
        for entry in log
    ]
    whole = protocol.replay(start, log)
    np.testing.assert_allclose(whole.numpy(), restated.replay(start.numpy(), entries, z, 0.02), rtol=1e-12, atol=1e-14)
    assert torch.equal(protocol.replay(protocol.replay(start, log[:4]), log[4:], 4), whole)


def test_directions_do_not_depend_on_how_many_are_drawn_together(monkeypatch: pytest.MonkeyPatch) -> None:
    like, peers, numbers = torch.zeros(33), torch.tensor([0, 0, 1, 2, 2]), torch.tensor([0, 1, 0, 0, 1])
    together = torch.stack(list(directions(4, 7, peers, numbers, like)))
    monkeypatch.setattr(one_byte, "DRAWN", 1)
    assert torch.equal(torch.stack(list(directions(4, 7, peers, numbers, like))), together)
    assert not torch.equal(together[0], together[1])


# -- what is refused


def test_everybody_has_to_hear_everybody() -> None:
    with pytest.raises((ValueError, PeerFailed), match="topology: everybody has to hear everybody"):
        one_byte_run((3,) * 5, topology="ring")


@pytest.mark.parametrize(
    "settings", [{"samples": 0}, {"check": 0}, {"lr": 0.0}, {"eps": -1.0}, {"timeout": 0.0}, {"lr": math.inf}]
)
def test_impossible_settings_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{next(iter(settings))}: got"):
        OneByte(**settings)
