"""Buffers hold the bytes of `encode`, and a single tensor is read from them as `decode` reads it, or not at all."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from shoal.tensors import MalformedPayload, Payload, decode, encode
from shoal.tensors.buffers import from_buffer, placed, single_tensor, to_buffer
from shoal.tensors.payload import _DTYPES

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Pair(Payload, name="test_buffers.Pair"):
    left: Tensor
    right: Tensor


def as_buffer(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


@pytest.mark.parametrize("dtype", _DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(), (0,), (5,), (3, 0, 2), (2, 300), (1,) * 16], ids=str)
def test_a_tensor_becomes_the_bytes_of_encode_and_itself_again(dtype: torch.dtype, shape: tuple[int, ...]) -> None:
    x = torch.arange(max(1, 2 * torch.Size(shape).numel())).to(dtype)[: torch.Size(shape).numel()].view(shape)
    buffer = to_buffer(x, CPU)
    assert buffer.numpy().tobytes() == encode(x)
    for read in (from_buffer(buffer), single_tensor(buffer)):
        if read is None:
            assert dtype == torch.bool  # whose bytes have to be looked at
            continue
        assert (read.dtype, read.shape) == (x.dtype, x.shape)
        assert read.view(-1).view(torch.uint8).equal(x.reshape(-1).view(torch.uint8))
        assert read.data_ptr() % dtype.itemsize == 0


def test_a_transposed_and_conjugated_tensor_is_written_as_it_looks() -> None:
    x = torch.arange(6.0).view(2, 3).to(torch.complex64).mul(1j).conj().t()
    assert to_buffer(x, CPU).numpy().tobytes() == encode(x)


def test_other_content_goes_through() -> None:
    content = {"a": [torch.ones(2), None, "x"], "b": (1, Pair(torch.zeros(1), torch.ones(3)))}
    buffer = to_buffer(content, CPU)
    assert buffer.numpy().tobytes() == encode(content)
    assert single_tensor(buffer) is None
    read = from_buffer(buffer)
    assert encode(read) == encode(content)
    moved = placed(read, torch.device("meta"))
    assert {moved["a"][0].device.type, moved["b"][1].left.device.type} == {"meta"}
    assert (moved["a"][1:], moved["b"][0]) == ([None, "x"], 1)


@given(st.binary(max_size=300) | st.binary(max_size=40).map(lambda tail: encode(torch.ones(3))[:16] + tail))
def test_whatever_the_bytes_are_a_single_tensor_is_what_decode_gives(data: bytes) -> None:
    found = single_tensor(as_buffer(data))
    if found is not None:
        assert torch.equal(found.view(-1).view(torch.uint8), decode(data).view(-1).view(torch.uint8))
    try:
        decode(data)
    except MalformedPayload:
        assert found is None
