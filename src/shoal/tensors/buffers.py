"""Payloads as bytes that lie on a device, for networks that send from there. The bytes are those of `payload.encode`.

A payload that is one tensor is written and read where it lies; anything else goes by way of the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import torch
from torch import Tensor

from shoal.tensors import payload
from shoal.tensors.payload import Content, MalformedPayload, Payload, decode, encode
from shoal.tensors.structs import struct_of

HEAD = 256  # bytes in which the header of a single tensor always ends


def to_buffer(content: Content, device: torch.device) -> Tensor:
    """A payload as uint8 [`encoded_size(content)`] on a device.

    Raises:
        ValueError: as `encode`.
    """
    if type(content) is not Tensor or content.device != device:
        return torch.frombuffer(bytearray(encode(content)), dtype=torch.uint8).to(device)
    payload._check_tensor(content)
    header = msgspec.msgpack.encode([payload._TENSOR, payload._CODES[content.dtype], *content.shape])
    head = payload._PREAMBLE.pack(payload._MAGIC, len(header)) + header
    elements = content.detach().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8)
    return torch.cat([torch.frombuffer(bytearray(head), dtype=torch.uint8).to(device), elements])


def from_buffer(buffer: Tensor) -> Any:
    """The payload in uint8 [n]: new objects, whose tensors lie where the buffer does.

    Raises:
        MalformedPayload: as `decode`.
    """
    if buffer.device.type == "cpu":
        return decode(buffer.numpy().data, limit=buffer.numel())
    single = single_tensor(buffer)
    if single is not None:
        return single
    return placed(decode(buffer.cpu().numpy().data, limit=buffer.numel()), buffer.device)


def single_tensor(buffer: Tensor) -> Tensor | None:
    """The tensor in uint8 [n], read where it lies; None if it is anything else, or has to be looked at closely."""
    head = buffer[:HEAD].cpu().numpy().tobytes()
    if len(head) < payload._PREAMBLE.size:
        return None
    magic, length = payload._PREAMBLE.unpack_from(head)
    start = payload._PREAMBLE.size + length
    if magic != payload._MAGIC or start > len(head):
        return None
    try:
        node = msgspec.msgpack.decode(head[payload._PREAMBLE.size : start], type=list[int])
    except msgspec.MsgspecError:
        return None
    if len(node) < 2 or node[0] != payload._TENSOR or not 0 < node[1] < len(payload._DTYPES):  # 0: bool
        return None
    dtype, shape = payload._DTYPES[node[1]], node[2:]
    if not _may_be(shape) or math.prod(shape) * dtype.itemsize != buffer.numel() - start:
        return None
    return buffer[start:].clone().view(dtype).view(shape)


def _may_be(shape: Sequence[int]) -> bool:
    return len(shape) <= payload.MAX_RANK and all(size >= 0 for size in shape) and not payload._is_absurd(shape)


def placed(content: Any, device: torch.device) -> Any:
    """The same content with all its tensors on a device."""
    if isinstance(content, Tensor):
        return content.to(device)
    if isinstance(content, dict):
        return {name: placed(value, device) for name, value in content.items()}
    if isinstance(content, tuple | list):
        return type(content)([placed(value, device) for value in content])
    if isinstance(content, Payload):
        fields = struct_of(type(content)).fields
        try:
            return type(content)(**{name: placed(getattr(content, name), device) for name in fields})
        except Exception as error:  # whatever a class objects to in its fields
            raise MalformedPayload(f"{type(content).__name__} refuses its fields: {error}") from error
    return content
