"""What Byzantine peers send."""

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import shoal
from shoal import attacks
from shoal.tensors.payload import Payload, decode, encode


@dataclass
class Occasion:
    key: int = 7


@dataclass(frozen=True)
class Letter(Payload):
    model: Tensor
    labels: Tensor
    samples: int


BUILDERS = [attacks.sign_flip, attacks.noise, attacks.zero, attacks.nan]
vectors = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=20).map(torch.tensor)


def floats(payload):
    """All floating-point tensors in a payload, in order."""
    found = []
    attacks.on_tensors(lambda x: found.append(x) or x, payload)
    return found


@given(vectors, st.floats(-8, 8, width=16))
def test_sign_flip_sends_the_scaled_negative(x, scale):
    _, attack = attacks.sign_flip(scale=scale)
    assert torch.equal(attack(x, Occasion()), x * -scale)


@given(vectors)
def test_sign_flip_twice_is_honest(x):
    _, attack = attacks.sign_flip()
    assert torch.equal(attack(attack(x, Occasion()), Occasion()), x)


def test_zero_sends_zeros_and_nan_nothing_finite():
    x = torch.ones(5, dtype=torch.float64)
    assert torch.equal(attacks.zero()[1](x, Occasion()), torch.zeros(5, dtype=torch.float64))
    assert attacks.nan()[1](x, Occasion()).isnan().all()


def test_noise_is_gaussian_of_the_given_scale_and_knows_nothing_of_the_payload():
    _, attack = attacks.noise(scale=3.0)
    drawn = attack(torch.zeros(20_000), Occasion())
    assert abs(float(drawn.mean())) < 5 * 3.0 / 20_000**0.5
    assert float(drawn.std()) == pytest.approx(3.0, rel=0.03)
    assert torch.equal(drawn, attack(torch.ones(20_000), Occasion()))


def test_noise_is_drawn_from_the_occasion():
    _, attack = attacks.noise()
    x = torch.zeros(8)
    assert torch.equal(attack(x, Occasion(1)), attack(x, Occasion(1)))
    assert not torch.equal(attack(x, Occasion(1)), attack(x, Occasion(2)))


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_shape_and_dtype_stay_and_the_payload_is_not_changed(build, dtype):
    x = torch.arange(6, dtype=dtype).reshape(2, 3)
    sent = build()[1](x, Occasion())
    assert (sent.shape, sent.dtype) == (x.shape, x.dtype)
    assert torch.equal(x, torch.arange(6, dtype=dtype).reshape(2, 3))


@pytest.mark.parametrize("build", BUILDERS)
def test_everything_but_floating_point_tensors_is_as_the_protocol_gives_it(build):
    labels = torch.tensor([1, 2])
    letter = Letter(torch.ones(3), labels, samples=5)
    sent = build()[1]({"a": [letter, None, "text"], "b": (torch.ones(2), True)}, Occasion())
    inner = sent["a"][0]
    assert type(inner) is Letter
    assert inner.samples == 5
    assert torch.equal(inner.labels, labels)
    assert sent["a"][1:] == [None, "text"]
    assert type(sent["b"]) is tuple
    assert sent["b"][1] is True
    assert len(floats(sent)) == 2


@pytest.mark.parametrize("build", [*BUILDERS, attacks.garbage])
@pytest.mark.parametrize("share", [-0.1, 1.0, 2.0, float("nan")])
def test_an_impossible_share_is_refused(build, share):
    with pytest.raises(ValueError, match=r"attack: got a share of .*\[0, 1\)"):
        build(share)


def test_none_is_nobody():
    assert attacks.none() == (0.0, None)


# -- in a world ----------------------------------------------------------------------------------------------


def poisoned(attack, **more):
    settings = {"task": "digits", "peers": 10, "topology": "complete", "rounds": 2, "eval_samples": 50, "seed": 2}
    return shoal.simulate("gossip:steps=1", attack=attack, **{**settings, **more})


def test_the_share_is_of_the_peers_and_only_honest_ones_are_evaluated():
    run = poisoned("zero:0.3")
    byzantine = set(run.info["byzantine"])
    assert len(byzantine) == 3
    assert set(run.models) == set(range(10)) - byzantine
    assert {row[3] for row in run.metrics if row[3] >= 0}.isdisjoint(byzantine)


def test_who_is_byzantine_follows_from_the_seed():
    assert poisoned("zero:0.3").info["byzantine"] == poisoned("sign-flip:0.3").info["byzantine"]
    assert len({tuple(poisoned("zero:0.3", rounds=0, seed=seed).info["byzantine"]) for seed in range(5)}) > 1


def test_nan_is_dropped_and_logged_and_honest_models_stay_finite():
    run = poisoned("nan:0.2")
    assert all(bool(model.isfinite().all()) for model in run.models.values())
    dropped = [event for event in run.events if event["event"].startswith("dropped")]
    # 2 Byzantine peers, to 9 others each, in 2 rounds
    assert len(dropped) == 2 * 9 * 2


def test_a_share_that_rounds_to_nobody_or_everybody_is_refused():
    with pytest.raises(ValueError, match=r"attack: zero:0\.04: .* nobody"):
        poisoned("zero:0.04")
    with pytest.raises(ValueError, match=r"attack: zero:0\.96: .* everybody"):
        poisoned("zero:0.96")
    assert poisoned("zero:0", rounds=0).info["byzantine"] == []


@given(st.integers(0, 2**63), vectors)
def test_garbage_travels_and_is_never_a_vector_of_the_same_form(key, x):
    made = attacks.garbage()[1](x, Occasion(key))
    assert payload_equal(decode(encode(made)), made)
    if isinstance(made, Tensor) and made.shape == x.shape and made.dtype == x.dtype:
        assert not made.isfinite().all()


@given(st.integers(0, 2**63))
def test_garbage_is_not_what_was_to_be_sent(key):
    letter = Letter(torch.ones(3), torch.tensor([1, 2]), 5)
    assert not payload_equal(attacks.garbage()[1](letter, Occasion(key)), letter)


def test_garbage_is_of_many_kinds():
    _, attack = attacks.garbage()
    kinds = {type(attack(Letter(torch.ones(3), torch.tensor([1, 2]), 5), Occasion(key))) for key in range(300)}
    assert {Letter, Tensor, dict, list, tuple, int, float, str, bytes, bool, type(None)} <= kinds


def payload_equal(a, b):
    return encode(a) == encode(b)
