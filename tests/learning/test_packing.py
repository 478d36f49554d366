"""What travels of a vector: packed by one peer, unpacked by another, with a memory that survives a crash."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from shoal import simulate
from shoal.compression import BF16, FP16, ErrorFeedback, Identity
from shoal.engine import Crash, Refused, Restart
from shoal.learning import Learner, Packer
from shoal.learning.packing import Packed
from shoal.protocols import DSGD, DecAvg, FedAvg, Gossip, Isolated, Needs, Pairwise, ParallelSGD, VarianceCorrected
from shoal.tensors import Layout, Segment
from shoal.tensors.payload import MalformedPayload, decode, encode

PACKING = {
    "gossip": Gossip(steps=2),
    "dsgd": DSGD(),
    "pairwise": Pairwise(steps=2),
    "decavg": DecAvg(steps=2),
    "variance-corrected": VarianceCorrected(steps=2),
    "fedavg": FedAvg(steps=2),
    "parallel-sgd": ParallelSGD(),
}
SMALL: dict[str, Any] = {"task": "digits", "peers": 5, "rounds": 3, "seed": 3, "eval_samples": 50, "workers": 1}


def layout() -> Layout:
    """Two weights with a buffer between them."""
    parts = [("w", (3,), "trainable"), ("mean", (2,), "buffer"), ("v", (2, 2), "trainable")]
    segments, start = [], 0
    for name, shape, role in parts:
        size = int(torch.tensor(shape).prod())
        segments.append(Segment(name, shape, torch.float32, role, start, start + size))  # type: ignore[arg-type]
        start += size
    return Layout(tuple(segments))


def models(run: Any) -> dict[int, bytes]:
    return {i: model.numpy().tobytes() for i, model in run.models.items()}


@pytest.mark.parametrize("protocol", PACKING.values(), ids=PACKING)
def test_with_the_identity_training_is_the_same_to_the_last_bit(protocol: Any) -> None:
    plain, packed = simulate(protocol, **SMALL), simulate(protocol, codec=Identity(), **SMALL)
    assert models(plain) == models(packed)
    assert plain.info["bytes"]["total"] == packed.info["bytes"]["total"]


@pytest.mark.parametrize("protocol", PACKING.values(), ids=PACKING)
def test_half_precision_sends_less_and_ends_close_by(protocol: Any) -> None:
    plain, packed = simulate(protocol, **SMALL), simulate(protocol, codec=BF16(), **SMALL)
    assert packed.info["bytes"]["total"] < 0.8 * plain.info["bytes"]["total"]
    for i, model in packed.models.items():
        apart = float((model - plain.models[i]).norm() / plain.models[i].norm())
        assert 0.0 < apart < 0.02


@pytest.mark.parametrize(("codec", "why"), [(ErrorFeedback(FP16()), "gossip packs a model"), (FP16(), "does not pack")])
def test_a_codec_that_makes_no_sense_is_refused_with_the_reason(codec: Any, why: str) -> None:
    with pytest.raises(Refused, match=why):
        simulate(Gossip() if "gossip" in why else Isolated(), codec=codec, **SMALL)


def test_a_protocol_with_a_rule_of_its_own_refuses_optimizers() -> None:
    class Own:
        needs = Needs(optimizer=False)

        async def __call__(self, me: Learner) -> None:
            pass

    for setting in ({"optimizer": "adam"}, {"lr": 0.1}):
        with pytest.raises(Refused, match="rule of its own"):
            simulate(Own(), **SMALL, **setting)


def test_buffers_travel_as_they_are() -> None:
    packer, vector = Packer(BF16(), layout()), torch.arange(9.0) / 7.0
    part, rest = packer.split(vector)
    assert rest is not None
    assert rest.tolist() == vector[3:5].tolist()
    coded, _ = BF16().encode(part, {}, 0, packer.part)
    back = packer.unpack(decode(encode(Packed(coded, rest))))
    assert back[3:5].tolist() == vector[3:5].tolist()
    assert back.tolist() == [*vector[:3].bfloat16().tolist(), *vector[3:5].tolist(), *vector[5:].bfloat16().tolist()]


@pytest.mark.parametrize(
    "wrong",
    [None, torch.zeros(8), torch.zeros(9, dtype=torch.float64), torch.zeros(9, dtype=torch.int64), "x", [1.0] * 9],
    ids=str,
)
@pytest.mark.parametrize("codec", [None, BF16(), Identity()])
def test_what_is_no_vector_of_the_model_is_malformed(wrong: Any, codec: Any) -> None:
    packer = Packer(codec, layout())
    for payload in (wrong, Packed(wrong, torch.zeros(2))):
        with pytest.raises(MalformedPayload):
            packer.unpack(payload)


def test_of_several_payloads_the_good_ones_stay() -> None:
    packer = Packer(None, layout())
    good, bad = packer.unpack_all({4: torch.ones(9), 7: torch.ones(8), 2: torch.zeros(9)})
    assert list(good) == [4, 2]
    assert list(bad) == [7]


def test_a_liar_who_sends_nonsense_is_left_out_and_logged() -> None:
    """Everybody else ends as if it had not been there, with its weight on themselves."""
    ends = {}

    async def protocol(me: Learner) -> None:
        async for r in me.rounds():
            await me.train(steps=1)
            sent: Any = "nonsense" if me.id == 0 else await me.pack(me.model)
            me.model = me.mix(me.unpack_all(await me.exchange(sent, r)))
        ends[me.id] = me.model

    run = simulate(protocol, topology="complete", **SMALL)
    dropped = [event for event in run.events if event["event"] == "malformed payload dropped"]
    assert {(event["peer"], event["sender"]) for event in dropped} == {(i, 0) for i in range(1, 5)}
    assert all(bool(torch.isfinite(model).all()) for model in ends.values())


def test_what_a_codec_remembers_survives_a_crash() -> None:
    """A peer that crashes between two rounds and comes back sends what it would have sent."""
    sent: dict[str, list[bytes]] = {}

    def protocol(name: str) -> Any:
        async def packs(me: Learner) -> None:
            async for r in me.rounds():
                payload = await me.pack(torch.full_like(me.model, 0.1234567 * (r + 1)))
                if me.id == 0:
                    sent.setdefault(name, []).append(encode(payload))
                await me.sleep(1.0)

        packs.needs = Needs(packs="update")  # type: ignore[attr-defined]
        return packs

    settings = {**SMALL, "codec": ErrorFeedback(FP16()), "rounds": 4}
    simulate(protocol("whole"), **settings)
    simulate(protocol("crashed"), faults=[Crash(1.5, 0), Restart(1.7, 0)], **settings)
    assert len(set(sent["whole"])) == 4
    assert list(dict.fromkeys(sent["crashed"])) == sent["whole"]


def test_each_channel_has_a_memory_of_its_own() -> None:
    kept: dict[str, Tensor] = {}

    async def protocol(me: Learner) -> None:
        for name, value in (("a", 1.001), ("b", 2.003), ("a", 1.001)):
            await me.pack(torch.full_like(me.model, value), name)
        kept.update({name: me.state["codec"][name]["error"] for name in ("a", "b")})

    protocol.needs = Needs(packs="update")  # type: ignore[attr-defined]
    simulate(protocol, codec=ErrorFeedback(FP16()), **{**SMALL, "peers": 1})
    given, half = torch.tensor(1.001), torch.tensor(2.003)
    first = given - given.half().float()
    second = given + first - (given + first).half().float()
    assert torch.equal(kept["a"], torch.full_like(kept["a"], float(second)))
    assert torch.equal(kept["b"], torch.full_like(kept["b"], float(half - half.half().float())))
