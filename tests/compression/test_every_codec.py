"""What every codec must do; `catalogue.py` lists them."""

from __future__ import annotations

from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from shoal.codecs import CODECS as NAMED
from shoal.compression import RQM, Codec, ErrorFeedback, Memory, RandK, Sign, measure
from shoal.compression.codec import stack_memory
from shoal.names import find
from shoal.tensors import Layout, Payload, derive, key, normal, uniform
from shoal.tensors.payload import decode, encode, encoded_size

from .catalogue import CODECS, LAYOUTS, NOISY

codecs = pytest.mark.parametrize("codec", CODECS.values(), ids=CODECS)
layouts = pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)


def rows_of(layout: Layout, n: int, seed: int = 0) -> Tensor:
    """Updates [n, d] as training makes them: entries of very different sizes, some of them 0."""
    keys = derive(key(seed, "rows"), torch.arange(n))
    sizes = 10.0 ** (-4.0 * uniform(keys, layout.size, purpose="size"))
    kept = uniform(keys, layout.size, purpose="kept") > 0.1
    return (normal(keys, layout.size) * sizes * kept).to(layout.dtype)


def fresh(codec: Codec, layout: Layout, n: int) -> Memory:
    return stack_memory([codec.start(layout)] * n)


def keys_of(n: int, seed: int = 5) -> Tensor:
    return derive(key(seed, "draws"), torch.arange(n))


def double(layout: Layout) -> Layout:
    return Layout.from_shapes({segment.name: segment.shape for segment in layout}, dtype=torch.float64)


def same_bits(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


@codecs
@layouts
@pytest.mark.parametrize("wide", [False, True], ids=["float32", "float64"])
def test_a_vector_comes_back_in_its_shape_and_type_through_bytes(codec: Codec, layout: Layout, wide: bool) -> None:
    layout = double(layout) if wide else layout
    rows = rows_of(layout, 3)
    payloads, _ = codec.encode_rows(rows, fresh(codec, layout, 3), keys_of(3), layout)
    decoded = codec.decode_rows(payloads, layout)
    assert decoded.shape == rows.shape
    assert decoded.dtype == layout.dtype
    assert bool(torch.isfinite(decoded).all())
    for payload, row in zip(payloads, decoded, strict=True):
        data = encode(payload)
        assert len(data) == encoded_size(payload)
        assert same_bits(codec.decode(decode(data), layout), row)


@codecs
@layouts
def test_a_row_does_not_depend_on_the_others(codec: Codec, layout: Layout) -> None:
    """Bytes and memory are bit-equal alone and in stacks, over two messages so that memories count."""
    n = 7
    alone: list[list[bytes]] = []
    ends: list[Memory] = []
    for i in range(n):
        memory, sent = codec.start(layout), []
        for message in range(2):
            x, k = rows_of(layout, n, message)[i], int(keys_of(n, message)[i])
            payload, memory = codec.encode(x, memory, k, layout)
            sent.append(encode(payload))
        alone.append(sent)
        ends.append(memory)
    for order in (list(range(n)), [4, 2, 6]):
        memory = fresh(codec, layout, len(order))
        for message in range(2):
            rows, keys = rows_of(layout, n, message)[order], keys_of(n, message)[order]
            payloads, memory = codec.encode_rows(rows, memory, keys, layout)
            assert [encode(payload) for payload in payloads] == [alone[i][message] for i in order]
        for place, i in enumerate(order):
            assert all(same_bits(value[place], ends[i][name]) for name, value in memory.items())
        decoded = codec.decode_rows(payloads, layout)
        assert all(same_bits(codec.decode(p, layout), row) for p, row in zip(payloads, decoded, strict=True))


@codecs
@layouts
def test_what_is_left_out_is_the_row_less_what_is_decoded(codec: Codec, layout: Layout) -> None:
    rows = rows_of(layout, 3)
    payloads, _ = codec.encode_rows(rows, fresh(codec, layout, 3), keys_of(3), layout)
    expected = rows - codec.decode_rows(payloads, layout)
    assert same_bits(codec.left_out(rows.clone(), payloads, layout), expected)


@codecs
@layouts
def test_what_is_given_stays_as_it_is(codec: Codec, layout: Layout) -> None:
    rows, memory = rows_of(layout, 4), fresh(codec, layout, 4)
    for _ in range(2):
        kept, remembered = rows.clone(), {name: value.clone() for name, value in memory.items()}
        payloads, after = codec.encode_rows(rows, memory, keys_of(4), layout)
        sent = [encode(payload) for payload in payloads]
        codec.decode_rows(payloads, layout).add_(1.0) if payloads and not isinstance(payloads[0], Tensor) else None
        assert [encode(payload) for payload in payloads] == sent
        assert same_bits(rows, kept)
        assert all(same_bits(value, remembered[name]) for name, value in memory.items())
        memory = after


@pytest.mark.parametrize(
    "codec", [c for name, c in CODECS.items() if name not in NOISY], ids=[name for name in CODECS if name not in NOISY]
)
@layouts
def test_zeros_stay_zeros(codec: Codec, layout: Layout) -> None:
    memory = codec.start(layout)
    for message in range(2):
        payload, memory = codec.encode(torch.zeros(layout.size), memory, key(3, message), layout)
        assert int(codec.decode(payload, layout).count_nonzero()) == 0
        assert all(bool(torch.isfinite(value).all()) for value in memory.values() if value.is_floating_point())


@codecs
@pytest.mark.parametrize("scale", [1e-30, 1e-12, 1e12])
def test_numbers_of_any_size_stay_finite(codec: Codec, scale: float) -> None:
    layout = LAYOUTS["network"]
    memory = codec.start(layout)
    for message in range(3):
        payload, memory = codec.encode(rows_of(layout, 1, message)[0] * scale, memory, key(4, message), layout)
        assert bool(torch.isfinite(codec.decode(payload, layout)).all())
        assert all(bool(torch.isfinite(value).all()) for value in memory.values() if value.is_floating_point())


@codecs
def test_draws_come_from_the_key_alone(codec: Codec) -> None:
    layout = LAYOUTS["network"]
    x, memory = rows_of(layout, 1)[0], codec.start(layout)
    sent = [encode(codec.encode(x, memory, k, layout)[0]) for k in (1, 1, 2, 3)]
    assert sent[0] == sent[1]
    assert (len(set(sent)) > 1) == codec.draws


@pytest.mark.parametrize(
    "codec", [c for c in CODECS.values() if c.unbiased], ids=[n for n in CODECS if CODECS[n].unbiased]
)
def test_unbiased_codecs_are_right_on_average(codec: Codec) -> None:
    """Mean of 4,000 decoded vectors: each entry within 5.5 standard errors, as estimated from the draws themselves."""
    layout, n = LAYOUTS["network"], 4000
    x = rows_of(layout, 1, 8)[0].double()
    wide = double(layout)
    payloads, _ = codec.encode_rows(x.expand(n, -1).contiguous(), fresh(codec, wide, n), keys_of(n, 11), wide)
    decoded = codec.decode_rows(payloads, wide)
    # Of what is rare, a few draws say little of their spread: entries that were not the usual at least 20 times count.
    often = (decoded != decoded.median(0).values).sum(0) >= (20 if codec.draws else 0)
    error = (decoded.mean(0) - x).abs()
    assert bool((error <= 5.5 * decoded.std(0) / n**0.5 + 1e-12)[often].all())
    assert int(often.sum()) > 10
    spread = decoded.var(0).sum() / n
    assert float((decoded.mean(0) - x).square().sum()) <= 2.0 * float(spread) + 1e-20


@codecs
@layouts
def test_the_entropy_of_what_is_sent_is_no_larger_than_its_size(codec: Codec, layout: Layout) -> None:
    found = measure(codec, rows_of(layout, 1, 2)[0], 9, layout)
    assert 0.0 < found.entropy <= found.size
    assert found.error < 1e-3 or isinstance(codec, ErrorFeedback) or found.size < found.plain + 200


@dataclass(frozen=True)
class Stranger(Payload):
    """A struct of no codec."""

    values: Tensor


def broken(payload: Any, seed: int) -> list[Any]:
    """What a liar might send instead."""
    bad: list[Any] = [None, 3, "x", b"y", [], {}, torch.zeros(3), Stranger(torch.zeros(2))]
    if is_dataclass(payload) and not isinstance(payload, type):
        for field in fields(payload):
            value = getattr(payload, field.name)
            if isinstance(value, Tensor):
                noise = (uniform(key(seed, field.name), tuple(value.shape)) * 256).to(torch.uint8)
                others = [value[..., :-1] if value.ndim else value[None], value.flatten(), value[None], value.double()]
                others += [
                    torch.zeros(0, dtype=value.dtype),
                    torch.full_like(value, 255 if value.dtype == torch.uint8 else -1),
                ]
                if value.dtype == torch.uint8:
                    others.append(noise)
                if value.is_floating_point():
                    others.append(torch.full_like(value, torch.finfo(value.dtype).max))
            else:
                others = [None, -1, 1 << 40, b"", torch.zeros(2)]
            bad += [replace_or_none(payload, field.name, other) for other in others]
    return [x for x in bad if x is not None or payload is not None]


def replace_or_none(payload: Any, name: str, value: Any) -> Any:
    try:
        return replace(payload, **{name: value})
    except (ValueError, TypeError):  # a struct that checks itself
        return None


@codecs
@layouts
def test_what_makes_no_sense_is_refused_or_harmless(codec: Codec, layout: Layout) -> None:
    """Decoding raises ValueError, or gives a vector of the right shape; it never fails in another way."""
    payload, _ = codec.encode(rows_of(layout, 1)[0], codec.start(layout), 1, layout)
    refused = 0
    for wrong in broken(payload, 13):
        try:
            decoded = codec.decode(wrong, layout)
        except ValueError:
            refused += 1
        else:
            assert decoded.shape == (layout.size,)
            assert decoded.dtype == layout.dtype
    assert refused >= 8


def test_every_named_codec_is_in_the_catalogue() -> None:
    """As its class, and so checked by all of the above."""
    kinds = {type(getattr(codec, "codec", codec)) for codec in CODECS.values()} | {type(c) for c in CODECS.values()}
    missing = [name for name in NAMED if not _made(find("codec", name)[1].load()) <= kinds]
    assert missing == []


def _made(load: Any) -> set[type]:
    made = load()
    return {type(made)} if isinstance(made, Codec) else set()


@pytest.mark.parametrize("decay", [1.0, 0.7])
def test_with_error_feedback_nothing_is_lost_for_ever(decay: float) -> None:
    """sum of sent = sum of given - last error, where the error is not let go; in float64, closed form."""
    layout = double(LAYOUTS["network"])
    inner = next(codec.codec for codec in CODECS.values() if isinstance(codec, ErrorFeedback))
    codec = ErrorFeedback(inner, decay)
    memory = codec.start(layout)
    given, sent, errors = torch.zeros(layout.size), torch.zeros(layout.size), []
    for message, x in enumerate(rows_of(layout, 6)):
        payload, memory = codec.encode(x, memory, key(1, message), layout)
        given, sent = given + x, sent + codec.decode(payload, layout)
        errors.append(memory["error"])
    let_go: Tensor | int = sum((1.0 - decay) * error for error in errors[:-1])
    torch.testing.assert_close(sent + errors[-1] + let_go, given, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("codec", [RandK(0.1), RQM(1.0), ErrorFeedback(Sign())], ids=repr)
def test_error_feedback_is_refused_where_it_does_harm(codec: Codec) -> None:
    with pytest.raises(ValueError, match="codec: "):
        ErrorFeedback(codec)
