"""What travels: values made of tensors, numbers, text and containers of these, as bytes and back.

    payload = Tensor | None | bool | int | float | str | bytes | tuple | list | dict[str, payload] | Payload

A struct is a frozen dataclass below `Payload`; its fields are payloads:

    @dataclass(frozen=True)
    class Quantized(Payload):
        scale: float
        levels: Tensor

The bytes are

    magic, version (4 bytes) | length of the header (4, little endian) | header | body

The header is a tree in MessagePack, where numbers and text stand for themselves and a list [kind, ...] for
the rest; the body holds the elements of the tensors (little endian, row by row) and the strings of bytes, in
the order in which the tree names them, without gaps. There is no pickle: decoding makes only the types above.
It trusts nothing, and raises nothing but `MalformedPayload`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeAlias, TypeVar

import msgspec
import numpy as np
import torch
from torch import Tensor

from shoal.tensors.finite import all_finite
from shoal.tensors.structs import Payload, struct_of
from shoal.text import shown

__all__ = [
    "LIMIT",
    "Content",
    "MalformedPayload",
    "Payload",
    "decode",
    "encode",
    "encoded_size",
    "expect",
    "expect_whole",
    "is_finite",
    "tensors",
]

LIMIT = 1 << 30  # bytes that `decode` accepts by default
HEADER_LIMIT = 1 << 22  # decoded structure takes up to 64 times its bytes: long lists belong in a tensor
MAX_DEPTH = 32
MAX_RANK = 16

_MAGIC = b"sho\x01"
_PREAMBLE = struct.Struct("<4sI")
_TENSOR, _TUPLE, _LIST, _DICT, _STRUCT, _BYTES = range(6)

# Codes are positions: append only.
_DTYPES = (
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.complex128,
)  # fmt: skip
_CODES = {dtype: code for code, dtype in enumerate(_DTYPES)}


class MalformedPayload(ValueError):
    """Bytes that are not a payload, or not one that is allowed here; the text says what is wrong."""


# Sequence and Mapping rather than list and dict, so that a list[Tensor] is a Content; what is encoded are
# lists, tuples and dicts only.
Content: TypeAlias = (
    Tensor | bool | int | float | str | bytes | Sequence["Content"] | Mapping[str, "Content"] | Payload | None
)


def encode(payload: Content) -> bytes:
    """A payload as bytes. Tensors travel as dense, contiguous and detached, whatever device they lie on.

    Raises:
        ValueError: a type that is not a payload, an int outside of [-2**63, 2**64), a key that is not a str,
            a tensor of more than 16 dimensions or of another kind (sparse, quantized), more than 32
            containers in each other, or more than 4 MiB of anything but tensors and bytes.
    """
    body: list[Any] = []
    header = msgspec.msgpack.encode(_tree(payload, body, 0))
    _check_header(len(header))
    return b"".join((_PREAMBLE.pack(_MAGIC, len(header)), header, *body))


def encoded_size(payload: Content, found: list[Tensor] | None = None) -> int:
    """`len(encode(payload))` without encoding: some 0.5 us a tensor, whatever its size.

    Args:
        payload: what would be encoded.
        found: gets the payload's tensors appended, as of `tensors`.

    Raises:
        ValueError: as `encode`.
    """
    seen: list[Tensor] = [] if found is None else found
    size = _size(payload, 0, seen)
    if size > HEADER_LIMIT:
        _check_header(size - _body_size(payload))
    return size + _PREAMBLE.size


def _tree(x: Any, body: list[Any], depth: int) -> Any:
    """The header's node for x; its tensors and bytes are appended to the body."""
    if isinstance(x, Tensor):
        body.append(_elements(x))
        return [_TENSOR, _CODES[x.dtype], *x.shape]
    if x is None or isinstance(x, bool | str):
        return str.__str__(x) if isinstance(x, str) else x  # of an enumeration, the text, not the member's name
    if isinstance(x, int):
        _int_size(x)
        return int(x)
    if isinstance(x, float):
        return float(x)
    if isinstance(x, bytes):
        body.append(x)
        return [_BYTES, len(x)]
    _check_depth(depth)
    if isinstance(x, tuple | list):
        return [_TUPLE if isinstance(x, tuple) else _LIST, *(_tree(y, body, depth + 1) for y in x)]
    if isinstance(x, dict):
        node: list[Any] = [_DICT]
        for name, y in x.items():
            node += [_key(name), _tree(y, body, depth + 1)]
        return node
    if isinstance(x, Payload):
        shape = struct_of(type(x))
        return [_STRUCT, shape.name, *(_tree(getattr(x, name), body, depth + 1) for name in shape.fields)]
    raise _not_a_payload(x)


def _size(x: Any, depth: int, found: list[Tensor]) -> int:
    """Bytes of x in header and body, and its tensors into `found`; the branches are in order of use."""
    kind = type(x)
    if kind is Tensor:
        found.append(x)
        return _tensor_sizes.get((x.dtype, x.shape, x.layout, x.is_meta)) or _tensor_size(x)
    if kind is int:
        return 1 if 0 <= x < 128 else _int_size(x)
    if kind is float:
        return 9
    if x is None or kind is bool:
        return 1
    if isinstance(x, Payload):
        _check_depth(depth)
        shape = struct_of(kind)
        size = _list_size(len(shape.fields) + 1) + _str_size(shape.name)
        for name in shape.fields:
            size += _size(getattr(x, name), depth + 1, found)
        return size
    if isinstance(x, Tensor):
        found.append(x)
        return _tensor_size(x)
    if isinstance(x, str):
        return _str_size(x)
    if isinstance(x, bytes):
        return 2 + _int_size(len(x)) + len(x)
    if isinstance(x, int):
        return _int_size(x)
    if isinstance(x, float):
        return 9
    _check_depth(depth)
    if isinstance(x, tuple | list):
        return _list_size(len(x)) + sum([_size(y, depth + 1, found) for y in x])
    if isinstance(x, dict):
        values = sum([_str_size(_key(name)) + _size(y, depth + 1, found) for name, y in x.items()])
        return _list_size(2 * len(x)) + values
    raise _not_a_payload(x)


# By all that decides the size, or that the tensor cannot travel.
_tensor_sizes: dict[tuple[torch.dtype, torch.Size, torch.layout, bool], int] = {}


def _tensor_size(x: Tensor) -> int:
    _check_tensor(x)
    size = _list_size(x.ndim + 1) + 1 + sum(map(_int_size, x.shape)) + x.numel() * x.element_size()
    if len(_tensor_sizes) > 10_000:  # shapes that never come back must not fill the memory
        _tensor_sizes.clear()
    _tensor_sizes[x.dtype, x.shape, x.layout, x.is_meta] = size
    return size


def _list_size(items: int) -> int:
    """Bytes of [kind, items...] without the items: MessagePack's array header, and one byte for the kind."""
    return 2 if items < 15 else 4 if items < 0xFFFF else 6


def _str_size(x: str) -> int:
    n = len(x) if x.isascii() else len(x.encode())
    return n + (1 if n < 32 else 2 if n < 256 else 3 if n < 65536 else 5)


def _int_size(x: int) -> int:
    if -32 <= x < 128:
        return 1
    if x >= 0:
        size = 2 if x < 1 << 8 else 3 if x < 1 << 16 else 5 if x < 1 << 32 else 9
        allowed = x < 1 << 64
    else:
        size = 2 if x >= -(1 << 7) else 3 if x >= -(1 << 15) else 5 if x >= -(1 << 31) else 9
        allowed = x >= -(1 << 63)
    if not allowed:
        raise ValueError(f"an int in a payload must be in [-2**63, 2**64), got {x}")
    return size


def _body_size(x: Any) -> int:
    strings = sum(len(leaf) for leaf in _leaves(x) if isinstance(leaf, bytes))
    return strings + sum(tensor.numel() * tensor.element_size() for tensor in tensors(x))


def _elements(x: Tensor) -> Any:
    """The elements of a tensor as a buffer, row by row."""
    _check_tensor(x)
    return x.detach().cpu().resolve_conj().resolve_neg().contiguous().reshape(-1).view(torch.uint8).numpy()


def _check_tensor(x: Tensor) -> None:
    if x.dtype not in _CODES or x.layout != torch.strided or x.is_quantized or x.is_meta:
        kinds = ", ".join(str(dtype).removeprefix("torch.") for dtype in _DTYPES)
        raise ValueError(f"a tensor in a payload must be dense, of {kinds}; got {x.dtype}, {x.layout}, {x.device}")
    if x.ndim > MAX_RANK or _is_absurd(x.shape):
        raise ValueError(f"a tensor in a payload must have at most {MAX_RANK} dimensions, got {list(x.shape)}")


def _is_absurd(shape: Sequence[int]) -> bool:
    """Whether strides may overflow: beside a zero, sizes are not bounded by the memory."""
    return math.prod(max(size, 1) for size in shape) >= 1 << 48


def _check_header(size: int) -> None:
    if size > HEADER_LIMIT:
        raise ValueError(
            f"a payload without its tensors and bytes must take at most {HEADER_LIMIT} bytes, got {size}: "
            "put long lists of numbers into a tensor, and long text into bytes"
        )


def _check_depth(depth: int) -> None:
    if depth >= MAX_DEPTH:
        raise ValueError(f"a payload must have at most {MAX_DEPTH} containers in each other")


def _key(name: Any) -> str:
    if not isinstance(name, str):
        raise ValueError(f"a key of a dict in a payload must be a str, got {name!r}")
    return str.__str__(name)


def _not_a_payload(x: Any) -> ValueError:
    return ValueError(
        "a payload must be made of Tensor, None, bool, int, float, str, bytes, tuple, list, dict and "
        f"Payload; got {type(x).__module__}.{type(x).__qualname__}"
    )


def decode(data: bytes | bytearray | memoryview, *, limit: int = LIMIT, structure: int = HEADER_LIMIT) -> Any:
    """The payload in `data`: new objects, whose tensors lie on the CPU and share no memory with it.

    Args:
        data: what `encode` returned, or anything that claims to be.
        limit: bytes to accept at most.
        structure: bytes to accept at most of anything but tensors and bytes, which takes many times as much memory.

    Raises:
        MalformedPayload: too long, cut short, trailing bytes, another version, an unknown struct, or any
            other way in which `data` is not what `encode` would write.
    """
    view = memoryview(data).cast("B")
    if len(view) > limit:
        raise MalformedPayload(f"payload of {len(view)} bytes is over the limit of {limit}")
    if len(view) < _PREAMBLE.size:
        raise MalformedPayload(f"payload of {len(view)} bytes is cut short")
    magic, length = _PREAMBLE.unpack_from(view)
    if magic != _MAGIC:
        raise MalformedPayload(f"payload must begin with {_MAGIC!r}, got {magic!r}")
    structure = min(structure, HEADER_LIMIT)
    if length > min(structure, len(view) - _PREAMBLE.size):
        raise MalformedPayload(f"header of {length} bytes is over the limit of {structure}, or cut short")
    end = _PREAMBLE.size + length
    try:
        tree = msgspec.msgpack.decode(view[_PREAMBLE.size : end])
    except (msgspec.MsgspecError, ValueError, OverflowError, RecursionError, TypeError) as error:
        raise MalformedPayload(f"header is not MessagePack: {error}") from None
    body = _Body(view[end:])
    payload = _value(tree, body, 0)
    body.finish()
    return payload


class _Body:
    """The body, read from front to back."""

    __slots__ = ("_position", "_view")

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._position = 0

    def take(self, size: int) -> memoryview:
        start, self._position = self._position, self._position + size
        if self._position > len(self._view):
            raise MalformedPayload(f"body of {len(self._view)} bytes is cut short")
        return self._view[start : self._position]

    def finish(self) -> None:
        if self._position != len(self._view):
            raise MalformedPayload(f"{len(self._view) - self._position} trailing bytes")


def _value(node: Any, body: _Body, depth: int) -> Any:
    if node is None or type(node) in (bool, int, float, str):
        return node
    if type(node) is not list or not node or type(node[0]) is not int:
        raise MalformedPayload(f"header holds a {type(node).__name__} that means nothing")
    kind, items = node[0], node[1:]
    if kind == _TENSOR:
        return _tensor(items, body)
    if kind == _BYTES:
        return bytes(body.take(_length(items[0]) if len(items) == 1 else _length(None)))
    if depth >= MAX_DEPTH:
        raise MalformedPayload(f"more than {MAX_DEPTH} containers in each other")
    if kind == _TUPLE:
        return tuple([_value(item, body, depth + 1) for item in items])
    if kind == _LIST:
        return [_value(item, body, depth + 1) for item in items]
    if kind == _DICT:
        return _dict(items, body, depth)
    if kind == _STRUCT:
        return _struct(items, body, depth)
    raise MalformedPayload(f"unknown kind {kind}")


def _tensor(items: list[Any], body: _Body) -> Tensor:
    if not items or type(items[0]) is not int or not 0 <= items[0] < len(_DTYPES):
        raise MalformedPayload("tensor of unknown dtype")
    dtype, shape = _DTYPES[items[0]], [_length(size) for size in items[1:]]
    if len(shape) > MAX_RANK:
        raise MalformedPayload(f"tensor of {len(shape)} dimensions; at most {MAX_RANK} are allowed")
    if math.prod(max(size, 1) for size in shape) >= 1 << 48:  # beside a zero, a size can be absurd: strides overflow
        raise MalformedPayload(f"tensor of absurd shape {shape}")
    source = np.frombuffer(body.take(math.prod(shape) * dtype.itemsize), dtype=np.uint8)
    if dtype == torch.bool and source.size and source.max() > 1:
        raise MalformedPayload("tensor of bool with a value other than 0 and 1")
    tensor = torch.empty(shape, dtype=dtype)
    tensor.view(-1).view(torch.uint8).numpy()[:] = source
    return tensor


def _dict(items: list[Any], body: _Body, depth: int) -> dict[str, Any]:
    names = items[::2]
    if len(items) % 2 or any(type(name) is not str for name in names) or len(set(names)) != len(names):
        raise MalformedPayload("dict whose keys are not different strings, each with a value")
    return {name: _value(item, body, depth + 1) for name, item in zip(names, items[1::2], strict=True)}


def _struct(items: list[Any], body: _Body, depth: int) -> Payload:
    name = items[0] if items else None
    cls = Payload._registry.get(name) if type(name) is str else None
    if cls is None:
        raise MalformedPayload(f"unknown struct {shown(name, 100)}; is the module that defines it imported?")
    try:
        shape = struct_of(cls)
    except TypeError as error:
        raise MalformedPayload(f"{name} cannot travel: {error}") from None
    if len(items) - 1 != len(shape.fields):
        raise MalformedPayload(f"{name} has {len(shape.fields)} fields, got {len(items) - 1}")
    values = {field: _value(item, body, depth + 1) for field, item in zip(shape.fields, items[1:], strict=True)}
    for field, types in shape.types().items():
        if not isinstance(values[field], types):
            raise MalformedPayload(f"{name}.{field} got a {type(values[field]).__name__}")
    try:
        return cls(**values)
    except Exception as error:  # whatever a class objects to in its fields
        raise MalformedPayload(f"{name} refuses its fields: {error}") from error


def _length(x: Any) -> int:
    if type(x) is not int or x < 0:
        raise MalformedPayload(f"a size must be a whole number >= 0, got {shown(x, 100)}")
    return x


T = TypeVar("T")


def expect(payload: Any, kind: type[T]) -> T:
    """A payload from anybody, if it is of a class.

    Raises:
        MalformedPayload: it is something else.
    """
    if not isinstance(payload, kind):
        raise MalformedPayload(f"payload: got {type(payload).__name__}; a {kind.__name__} is needed")
    return payload


def expect_whole(name: str, value: Any, low: int = 0, high: int = 1 << 48) -> int:
    """A number from anybody, if it is whole and within [low, high].

    Raises:
        MalformedPayload: it is something else; the message begins with `name`.
    """
    if type(value) is not int or not low <= value <= high:
        raise MalformedPayload(f"{name}: got {shown(value)}; a whole number from {low} to {high} is needed")
    return value


def tensors(payload: Content) -> list[Tensor]:
    """The tensors in a payload, in the order in which they travel."""
    if type(payload) is Tensor:
        return [payload]
    return [leaf for leaf in _leaves(payload) if isinstance(leaf, Tensor)]


def is_finite(payload: Content) -> bool:
    """Whether no tensor in the payload holds NaN or infinity.

    Only floating-point and complex tensors are looked at; a Python float may be infinite in good faith ("no
    bound yet").
    """
    return all(map(all_finite, tensors(payload)))


def _leaves(x: Any) -> list[Any]:
    if isinstance(x, tuple | list):
        inner: Iterable[Any] = x
    elif isinstance(x, dict):
        inner = x.values()
    elif isinstance(x, Payload):
        inner = [getattr(x, name) for name in struct_of(type(x)).fields]
    else:
        return [x]
    return [leaf for y in inner for leaf in _leaves(y)]
