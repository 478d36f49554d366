"""Randomness as an input: every draw is a pure function of a key.

A key is a whole number in [0, 2**63). `key` and `derive` make new keys out of old ones (seed, peer, purpose,
step, ...); the draws turn a key into numbers with a counter-based generator, Philox4x32-10 (Salmon, Moraes,
Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011). Nothing here has state, so a draw
depends neither on what was drawn before nor on which other rows are drawn in the same call.

Three laws hold for `uniform`, `normal`, `rademacher`, `integers` and `permutation`, bit for bit:

- row i of a draw for stacked keys is the draw for keys[i] alone, also inside `torch.func.vmap`;
- every device gives the same numbers: only whole-number arithmetic and +, -, *, /, sqrt of IEEE 754 are used,
  never a library's log or cos, whose last bit differs between a vector body and its tail;
- the first numbers of a long draw are the short draw (not so for `permutation`).

One key may feed several draws: different functions, and different `purpose`s of one function, are
independent; `rademacher` alone draws what `uniform` draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from shoal.tensors.bits import (
    CHUNK,
    LOW32,
    LOW63,
    LOW64,
    Array,
    array_of,
    check_int64,
    mix,
    mix_int,
    name_number,
    philox_words,
)
from shoal.tensors.shuffle import shuffled

__all__ = [
    "derive",
    "generator",
    "hash01",
    "integers",
    "key",
    "normal",
    "permutation",
    "philox",
    "rademacher",
    "shuffled",
    "uniform",
]

Words: TypeAlias = tuple[Any, Any, Any, Any]  # four times int64 of one shape, all of numpy or all of torch

_UNIFORM, _NORMAL, _INTEGERS, _PERMUTATION = 1, 2, 3, 4  # second counter word: keeps the draws apart


def key(seed: int, *parts: int | str) -> int:
    """A key for `parts` below `seed`: the same on every machine and in every process.

    `key(key(s, a), b) == key(s, a, b)`, and `key(s) == s`, so that a key can be handed on and refined.

    Args:
        seed: a seed or a key, in [0, 2**63).
        *parts: names (str) or numbers (int in [-2**63, 2**63)): peer, purpose, step, ...

    Returns:
        A whole number in [0, 2**63).

    Raises:
        ValueError: `seed` or a part is out of range.

    >>> key(0, "peer", 3) == key(key(0, "peer"), 3)
    True
    """
    state = _checked("seed", seed)
    for part in parts:
        state = mix_int(mix_int(state) + _part_number(part)) >> 1
    return state


def derive(keys: int | Tensor, *parts: int | str | Tensor) -> Tensor:
    """Many keys at once: row i is `key(keys[i], *parts[i])`. Works under `torch.func.vmap`.

    Args:
        keys: one key, or int64 keys of any shape, in [0, 2**63).
        *parts: int, str, or int64 tensors; tensors broadcast against `keys` and each other.

    Returns:
        int64 keys in [0, 2**63), of the broadcast shape (a scalar tensor if nothing has dimensions), on the
        device of the first tensor given.

    Raises:
        ValueError: a tensor is not int64, or a number is out of range.

    >>> int(derive(7, torch.tensor([10, 11]))[1]) == key(7, 11)
    True
    """
    first = keys if isinstance(keys, Tensor) else _checked("keys", keys)
    numbers = [first, *(x if isinstance(x, Tensor) else _part_number(x) for x in parts)]
    tensors = [x for x in numbers if isinstance(x, Tensor)]
    for x in tensors:
        check_int64("keys and parts", x)
    device = tensors[0].device if tensors else torch.device("cpu")
    arrays = [array_of(x) if isinstance(x, Tensor) else np.array([x]) for x in numbers]
    if device.type == "cpu" and not any(x is None for x in arrays):
        chained = torch.from_numpy(_chain([x for x in arrays if x is not None]))
    else:
        chained = _chain([torch.as_tensor(x, device=device).reshape(_at_least_1d(x)) for x in numbers])
    return chained if any(x.ndim for x in tensors) else chained.reshape(())


def generator(key: int, device: torch.device | str = "cpu") -> torch.Generator:
    """A `torch.Generator` on `device`, seeded from `key`, for code that insists on one.

    What such a generator draws is torch's business: it may differ between devices and versions of torch.
    """
    return torch.Generator(device=device).manual_seed(_checked("key", key))


def hash01(*numbers: int) -> float:
    """A uniform float in [0, 1) with 53 bits that depends on the numbers and their order.

    Pure Python, about 1 us: for one scalar draw where a tensor would cost too much, as the loss or jitter of
    one message.

    Args:
        *numbers: any ints (only the low 64 bits of each count); usually a key, then what the draw is about.
    """
    h = 0x9E3779B97F4A7C15 + len(numbers)  # an offset: from 0, the number 0 would lead to 0
    for number in numbers:
        h = ((h ^ number) * 0xD6E8FEB86659FD93) & LOW64
        h ^= h >> 32
    h = (h * 0x9FB21C651E98DF25) & LOW64
    return (((h ^ (h >> 29)) * 0xD6E8FEB86659FD93 & LOW64) >> 11) * 2.0**-53


def philox(keys: Tensor, counters: Tensor) -> Tensor:
    """Philox4x32-10, the bare generator.

    Args:
        keys: int64 [...]; the low and high 32 bits are the two words of the key.
        counters: int64 [..., 4]; four words in [0, 2**32). Leading dimensions broadcast against `keys`.

    Returns:
        int64 [..., 4]: four words in [0, 2**32).

    Raises:
        ValueError: an argument is not int64, or `counters` does not end in a dimension of 4.
    """
    check_int64("keys", keys)
    check_int64("counters", counters)
    if counters.ndim == 0 or counters.shape[-1] != 4:
        raise ValueError(f"counters must have the shape [..., 4], got {list(counters.shape)}")
    return torch.stack(philox_words(keys, *counters.unbind(-1)), -1)


def uniform(
    keys: int | Tensor,
    shape: int | Sequence[int] = (),
    *,
    purpose: int | str = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform floats in [0, 1): multiples of 2**-24 (float32) or 2**-53 (float64).

    Args:
        keys: one key (int, or a scalar int64 tensor), or int64 keys of any shape.
        shape: of the draw for one key.
        purpose: names this draw among several from the same key; int in [0, 2**63) or str.
        dtype: float32 or float64.
        device: where the result lies; default: with `keys`, or the CPU for an int.

    Returns:
        [*keys.shape, *shape].

    Raises:
        ValueError: a key that is not int64 or is out of range, a negative size, another dtype.
    """
    if _is_single(dtype):
        return _draw(keys, shape, 4, _UNIFORM, purpose, device, _single_uniforms)
    return _draw(keys, shape, 2, _UNIFORM, purpose, device, _double_uniforms)


def normal(
    keys: int | Tensor,
    shape: int | Sequence[int] = (),
    *,
    purpose: int | str = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """Normal floats with mean 0 and variance 1 (Box and Muller, 1958).

    The absolute error of the transform is below 1e-6 (float32) or 1e-14 (float64); the largest absolute value
    is 6.8 (float32) or 8.7 (float64). Arguments, result and errors as for `uniform`.
    """
    if _is_single(dtype):
        return _draw(keys, shape, 4, _NORMAL, purpose, device, _single_normals)
    return _draw(keys, shape, 2, _NORMAL, purpose, device, _double_normals)


def rademacher(
    keys: int | Tensor,
    shape: int | Sequence[int] = (),
    *,
    purpose: int | str = 0,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str | None = None,
) -> Tensor:
    """-1 and 1 with equal chance: -1 where `uniform` of the same arguments, in float32, is below 1/2.

    So it is not independent of that draw, and the signs are the same in every dtype.

    Args:
        keys, shape, purpose, device: as for `uniform`.
        dtype: of the result, any floating-point one.

    Returns:
        [*keys.shape, *shape].

    Raises:
        ValueError: as for `uniform`, or a dtype that is not floating-point.

    >>> rademacher(7, 5).tolist()
    [-1.0, -1.0, 1.0, 1.0, -1.0]
    """
    if not dtype.is_floating_point:
        raise ValueError(f"dtype must be a floating-point one, got {dtype}")
    return torch.where(uniform(keys, shape, purpose=purpose, device=device) < 0.5, -1.0, 1.0).to(dtype)


def integers(
    keys: int | Tensor,
    high: int | Tensor,
    shape: int | Sequence[int] = (),
    *,
    purpose: int | str = 0,
    device: torch.device | str | None = None,
) -> Tensor:
    """Uniform whole numbers in [0, high), int64.

    Each is `floor(x * high / 2**64)` of 64 random bits x, computed exactly: no number's probability is off by
    more than 2**-64, so no loop of rejections, which vmap could not take, is needed.

    Args:
        keys: one key (int, or a scalar int64 tensor), or int64 keys of any shape.
        high: in [1, 2**31]; an int, or an int64 tensor that broadcasts to the shape of `keys` (one bound a
        key;
            its values are checked only where they can be read: not under vmap, not on other devices).
        shape: of the draw for one key.
        purpose: names this draw among several from the same key; int in [0, 2**63) or str.
        device: where the result lies; default: with `keys`, or the CPU for an int.

    Returns:
        int64 [*keys.shape, *shape].

    Raises:
        ValueError: `high` out of range, or not of the shape of `keys`; and as for `uniform`.
    """
    bound = _checked_bound(high, keys.shape if isinstance(keys, Tensor) else ())

    def finish(words: Words, rows: slice) -> Tensor:
        upper, lower = _interleaved(words[::2]), _interleaved(words[1::2])
        high = bound[rows, None, None] if isinstance(bound, Tensor) else bound
        return (upper * high + (lower * high >> 32)) >> 32

    return _draw(keys, shape, 2, _INTEGERS, purpose, device, finish)


def permutation(
    keys: int | Tensor, n: int, *, purpose: int | str = 0, device: torch.device | str | None = None
) -> Tensor:
    """A random order of range(n): every order is equally likely (a stable sort of 63-bit numbers).

    For single elements of an order, or an order too long to sort, see `shuffled`.

    Returns:
        int64 [*keys.shape, n]. Other arguments and errors as for `uniform`.
    """

    def finish(words: Words, rows: slice) -> Tensor:
        upper, lower = _interleaved(words[::2]), _interleaved(words[1::2])
        return (upper << 31) | (lower >> 1)

    ranks = _draw(keys, int(n), 2, _PERMUTATION, purpose, device, finish)
    return torch.sort(ranks, dim=-1, stable=True).indices


def _draw(
    keys: int | Tensor,
    shape: int | Sequence[int],
    per_block: int,
    domain: int,
    purpose: int | str,
    device: torch.device | str | None,
    finish: Callable[[Words, slice], Tensor],
) -> Tensor:
    """Draw blocks of four words for each key, and `finish` each into `per_block` numbers, chunk by chunk.

    `finish` gets words [rows, blocks] and which of the flattened keys these are, and gives [rows, blocks, per_block].
    """
    sizes = (int(shape),) if isinstance(shape, (int, np.integer)) else tuple(int(size) for size in shape)
    if any(size < 0 for size in sizes):
        raise ValueError(f"shape must have sizes >= 0, got {sizes}")
    count = math.prod(sizes)
    blocks = -(-count // per_block)
    if blocks > 1 << 32:
        raise ValueError(f"shape must have at most {per_block << 32} elements a key, got {sizes}")
    if isinstance(keys, Tensor):
        check_int64("keys", keys)
        keys = keys if device is None else keys.to(device)
    else:
        keys = torch.tensor(_checked("keys", keys), device=device or "cpu")
    number = name_number(purpose) & LOW63 if isinstance(purpose, str) else _checked("purpose", purpose)
    flat = keys.reshape(-1)
    array = array_of(flat)
    own: Any = flat if array is None else array
    wide = min(max(blocks, 1), CHUNK)
    tall = max(1, CHUNK // wide)
    pieces = []
    # Row after row, since numpy is fast along long rows only: whole rows together, or parts of one row.
    for top in range(0, max(len(flat), 1), tall):
        rows = slice(top, top + tall)
        for start in range(0, max(blocks, 1), wide):
            stop = min(start + wide, blocks)
            block = torch.arange(start, stop, device=keys.device)
            words = _words(own[rows, None], block if array is None else block.numpy(), domain, number)
            pieces.append(finish(words, rows).flatten())
    drawn = pieces[0] if len(pieces) == 1 else torch.cat(pieces)
    return drawn.view(*keys.shape, blocks * per_block)[..., :count].reshape((*keys.shape, *sizes))


def _words(keys: Array, blocks: Array, domain: int, purpose: int) -> tuple[Array, Array, Array, Array]:
    zero = blocks[:1] * 0
    return philox_words(keys, blocks, zero + domain, zero + (purpose & LOW32), zero + (purpose >> 32))


def _interleaved(words: Sequence[Any], dtype: torch.dtype = torch.int64) -> Tensor:
    """Words [...] side by side in a new last dimension."""
    if isinstance(words[0], Tensor):
        return torch.stack(list(words), -1).to(dtype)
    result = torch.empty((*words[0].shape, len(words)), dtype=dtype)
    array = result.numpy()
    for i, word in enumerate(words):
        array[..., i] = word
    return result


def _single_uniforms(words: Words, rows: slice) -> Tensor:
    return _interleaved([word >> 8 for word in words], torch.int32).float().mul_(2.0**-24)


def _double_uniforms(words: Words, rows: slice) -> Tensor:
    w0, w1, w2, w3 = words
    return _interleaved((_53_bits(w0, w1), _53_bits(w2, w3))).double().mul_(2.0**-53)


def _53_bits(upper: Array, lower: Array) -> Array:
    return (upper << 21) | (lower >> 11)


def _single_normals(words: Words, rows: slice) -> Tensor:
    radius, angle = _interleaved(words[::2]), _interleaved(words[1::2])
    turn = ((angle >> 8).float() - 2.0**23) * (math.pi / 4 * 2.0**-23)
    return _box_muller(radius.float() + 0.5, 32, turn, angle).flatten(-2)


def _double_normals(words: Words, rows: slice) -> Tensor:
    w0, w1, w2, w3 = (word if isinstance(word, Tensor) else torch.from_numpy(word) for word in words)
    turn = (_53_bits(w2, w3).double() - 2.0**52) * (math.pi / 4 * 2.0**-52)
    return _box_muller(_53_bits(w0, w1).double() + 0.5, 53, turn, w3)


def _box_muller(u: Tensor, bits: int, turn: Tensor, signs: Tensor) -> Tensor:
    """Two normals [..., 2] from u in (0, 2**bits], an angle in [-pi/4, pi/4), and bits choosing a quadrant.

    The angle is turned on by pi/4, into the first quadrant; sqrt(1/2) from that cancels sqrt(2) of the
    radius.
    """
    r = _sqrt(-_log(u, bits))
    t = turn * turn
    terms = 5 if u.dtype == torch.float32 else 9
    cos = _polynomial(t, [(-1.0) ** i / math.factorial(2 * i) for i in range(terms)])
    sin = turn * _polynomial(t, [(-1.0) ** i / math.factorial(2 * i + 1) for i in range(terms)])
    return torch.stack((_flipped(r * (cos - sin), signs & 1), _flipped(r * (cos + sin), signs >> 1 & 1)), -1)


def _sqrt(x: Tensor) -> Tensor:
    """The square root as IEEE 754 rounds it; `torch.sqrt` is off by a last bit on some processors.

    Numpy takes the processor's own instruction. Elsewhere the residual x - r r, exact by Dekker's product, mends r.
    """
    array = array_of(x)
    if array is not None:
        return torch.from_numpy(np.sqrt(array)).reshape(x.shape)
    r = torch.sqrt(x)
    c = r * (4097.0 if x.dtype == torch.float32 else 134217729.0)
    high = c - (c - r)
    low = r - high
    square = r * r
    residual = (x - square) - (((high * high - square) + 2.0 * (high * low)) + low * low)
    return r + residual / (2.0 * r).clamp_min(torch.finfo(x.dtype).tiny)


def _log(u: Tensor, bits: int) -> Tensor:
    """ln(u / 2**bits) by exact operations: ln(m * 2**e) = e ln 2 + 2 artanh((m - 1) / (m + 1))."""
    single = u.dtype == torch.float32
    whole, fraction, root = (torch.int32, 23, 0x3F3504F3) if single else (torch.int64, 52, 0x3FE6A09E667F3BCD)
    code = u.view(whole)
    e = (code - root) >> fraction  # `root` is the code of sqrt(1/2): m lies in [sqrt(1/2), sqrt(2))
    m = (code - (e << fraction)).view(u.dtype)
    s = (m - 1.0) / (m + 1.0)
    series = _polynomial(s * s, [2.0 / (2 * i + 1) for i in range(5 if single else 12)])
    return (e - bits).to(u.dtype) * math.log(2.0) + s * series


def _polynomial(x: Tensor, coefficients: list[float]) -> Tensor:
    y = x * coefficients[-1] + coefficients[-2]
    for c in coefficients[-3::-1]:
        y = y * x + c
    return y


def _flipped(x: Tensor, bit: Tensor) -> Tensor:
    """-x where the bit is 1: an exclusive or of the sign, much cheaper than a product or a choice."""
    whole, sign = (torch.int32, 31) if x.dtype == torch.float32 else (torch.int64, 63)
    return (x.view(whole) ^ (bit.to(whole) << sign)).view(x.dtype)


def _chain(numbers: list[Array]) -> Array:
    state = numbers[0]
    for number in numbers[1:]:
        state = mix(mix(state) + number) >> 1 & LOW63
    return state


def _at_least_1d(x: int | Tensor) -> tuple[int, ...]:
    return (tuple(x.shape) if isinstance(x, Tensor) else ()) or (1,)


def _part_number(part: int | str) -> int:
    if isinstance(part, str):
        return name_number(part)
    if not -LOW63 - 1 <= part <= LOW63:
        raise ValueError(f"parts must be in [-2**63, 2**63), got {part}")
    return int(part)


def _checked(name: str, value: int) -> int:
    if not 0 <= value <= LOW63:
        raise ValueError(f"{name} must be in [0, 2**63), got {value}")
    return int(value)


def _checked_bound(high: int | Tensor, rows: Sequence[int]) -> int | Tensor:
    """One bound, or one for each of the flattened keys."""
    if not isinstance(high, Tensor):
        if not 1 <= high <= 1 << 31:
            raise ValueError(f"high must be in [1, 2**31], got {high}")
        return int(high)
    check_int64("high", high)
    fits = all(a in (1, b) for a, b in zip(high.shape[::-1], rows[::-1], strict=False))
    if high.ndim > len(rows) or not fits:
        raise ValueError(f"high must broadcast to the shape of keys {list(rows)}, got {list(high.shape)}")
    values = array_of(high)
    if values is not None and values.size and not (values.min() >= 1 and values.max() <= 1 << 31):
        raise ValueError(f"high must be in [1, 2**31], got values in [{values.min()}, {values.max()}]")
    return high.expand(tuple(rows)).reshape(-1)


def _is_single(dtype: torch.dtype) -> bool:
    if dtype not in (torch.float32, torch.float64):
        raise ValueError(f"dtype must be torch.float32 or torch.float64, got {dtype}")
    return dtype == torch.float32
