"""What others send is untrusted: no protocol fails by it, and what is no message of the protocol changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from shoal import Run, simulate
from shoal.engine import PeerFailed, SimulatedWorld
from shoal.names import PROTOCOLS
from shoal.tensors.finite import all_finite
from shoal.tensors.payload import MalformedPayload, Payload, expect, expect_whole
from tests.engine.worlds import run as run_world

TALKING = sorted(set(PROTOCOLS) - {"isolated", "centralised"})
SEEDS = range(3)
COMMON: dict[str, Any] = {"task": "digits", "model": "mlp:8", "peers": 5, "topology": "complete", "workers": 1}


def attacked(protocol: str, attack: str, seed: int, **more: Any) -> Run:
    return simulate(protocol, attack=attack, seed=seed, rounds=5, evaluate=5, **{**COMMON, **more})


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("protocol", TALKING)
def test_no_protocol_fails_by_garbage_which_is_dropped_and_logged(protocol: str, seed: int) -> None:
    run = attacked(protocol, "garbage:0.4", seed)
    byzantine = set(run.info["byzantine"])
    assert run.status == "finished"
    assert len(byzantine) == 2
    assert all(all_finite(model) for id, model in run.models.items() if id not in byzantine)
    dropped = {e["sender"] for e in run.events if e["event"].startswith(("malformed", "dropped"))}
    assert dropped == byzantine


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("protocol", ["gossip", "dsgd", "variance-corrected", "parallel-sgd", "local-sgd"])
def test_garbage_is_as_if_nothing_had_come(protocol: str, seed: int) -> None:
    """NaN never reaches a protocol, so that honest peers go on without its senders; garbage must do no more."""
    garbage, nothing = attacked(protocol, "garbage:0.4", seed), attacked(protocol, "nan:0.4", seed)
    honest = set(nothing.models) - set(nothing.info["byzantine"])
    assert honest
    assert all(torch.equal(garbage.models[id], nothing.models[id]) for id in honest)


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_garbage_for_a_codec_is_as_if_nothing_had_come(codec: str) -> None:
    garbage, nothing = (attacked("gossip", attack, 1, codec=codec) for attack in ("garbage:0.4", "nan:0.4"))
    honest = set(garbage.models) - set(garbage.info["byzantine"])
    for id in honest:
        assert all_finite(garbage.models[id])
    assert nothing.info["byzantine"] == garbage.info["byzantine"]


def test_a_protocol_that_trusts_what_comes_would_fail() -> None:
    """So that the tests above can fail at all."""

    class Trusting:
        async def __call__(self, me: Any) -> None:
            async for r in me.rounds():
                for reply in (await me.exchange({"model": me.model}, r)).values():
                    me.model = (me.model + reply["model"]) / 2

    with pytest.raises(PeerFailed):
        simulate(Trusting(), attack="garbage:0.4", rounds=5, seed=0, **COMMON)


def test_only_the_named_asker_is_answered() -> None:
    got: dict[int, Any] = {}

    async def protocol(me: Any) -> None:
        if me.id == 0:
            me.serve("work", lambda sender, x: x + 1, asker=2)
            return
        replies = await me.request_all([0], 1, "work")
        got[me.id] = replies.get(0)

    world: SimulatedWorld = run_world(3, protocol)
    assert got == {1: None, 2: 2}
    [entry] = [e for e in world.events if e["event"] == "malformed request dropped"]
    assert entry["sender"] == 1
    assert "only peer 2 may ask" in entry["why"]


@pytest.mark.parametrize("value", [-1, 9, True, 3.0, "3", None, torch.tensor(3), 2**63])
def test_a_number_from_anybody_is_whole_and_within_its_range(value: Any) -> None:
    assert expect_whole("steps", 8, high=8) == 8
    with pytest.raises(MalformedPayload, match=r"steps: got .*; a whole number from 0 to 8 is needed"):
        expect_whole("steps", value, high=8)


def test_a_payload_from_anybody_is_of_the_class_that_is_expected() -> None:
    with pytest.raises(MalformedPayload, match="got dict; a Payload is needed"):
        expect({}, Payload)
