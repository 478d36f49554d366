"""FedZip: pruned to the largest entries, rounded to three values a layer, and coded in the shortest of three ways.

    each layer:  x <- the fraction `keep` of largest |x|, else 0        (biases, and what else has one dimension, whole)
                 c = 3 centroids of k-means from min, middle, max;      x_i -> its centroid's label
                 labels in the fewest bits of
                     words      1 bit for the commonest label, 2 for the others (Huffman's code)
                     positions  addresses of the two rarer labels, ceil(log2 n) bits each
                     gaps       entries skipped from one address to the next, all as wide as the largest one

A. Malekijoo, M. J. Fadaeieslam, H. Malekijou, M. Homayounfar, F. Alizadeh-Shabdiz, R. Rawassizadeh, "FEDZIP: A
Compression Framework for Communication-Efficient Federated Learning", 2021 (arXiv 2102.01593).

What a payload holds can be decoded from itself: 2 bits say which way a layer is coded, lists have their lengths and
widths in front. The authors' code counts less for gaps (the sum of each one's own bits, which nobody could cut apart),
gives the commonest word 2 bits and the others 1, which no prefix code can have, and divides by other counts than those
of a cluster's members. First bits of all words come before the second ones; that changes no size.
The centroid next to 0 is seldom 0, so that pruned entries are sent as a small number: `zero` makes it 0.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shoal.compression.codec import Codec, Memory, Use, field_of
from shoal.tensors.layout import Layout, Segment
from shoal.tensors.payload import Content, Payload

Bits = NDArray[np.uint8]  # one binary digit an entry, the least significant of a number first
CENTROIDS = 3
WORDS, POSITIONS, GAPS = range(3)
WIDTH_BITS = 6  # of the width of a list of gaps


@dataclass(frozen=True)
class Zipped(Payload):
    """Centroids [layers with entries, 3], and the labels of all layers as one stream of bits (uint8)."""

    centroids: Tensor
    labels: Tensor


@dataclass(frozen=True)
class FedZip(Codec):
    """Top-z pruning, k-means, lossless coding; for updates, best with error feedback.

    Attributes:
        keep: fraction z of a layer's entries that is not pruned, in (0, 1]; at least one entry.
        iterations: of k-means, at least 1.
        zero: whether the centroid next to 0 becomes 0 (not in the publication).
    """

    keep: float = 0.2
    iterations: int = 4
    zero: bool = False
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")

    def __post_init__(self) -> None:
        if not 0.0 < self.keep <= 1.0:
            raise ValueError(f"keep: got {self.keep}; a fraction in (0, 1] is allowed")
        if self.iterations < 1:
            raise ValueError(f"iterations: got {self.iterations}; at least 1 is allowed")

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Row by row and layer by layer."""
        return [self._zip(row, layout) for row in rows.double()], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Labels from the bits, then their centroids."""
        rows = torch.zeros(len(payloads), layout.size, dtype=layout.dtype)
        for row, payload in zip(rows, payloads, strict=True):
            centroids, labels = _read(payload, layout)
            for segment, values, chosen in zip(_layers(layout), centroids, labels, strict=True):
                row[segment.slice] = values[chosen]
        return rows

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Centroids, and labels layer by layer."""
        centroids, labels = _read(payload, layout)
        return (centroids, *labels)

    def _zip(self, row: Tensor, layout: Layout) -> Zipped:
        centroids, streams = [], []
        for segment in _layers(layout):
            x = row[segment.slice]
            if len(segment.shape) > 1:
                x = top(x, kept(segment.size, self.keep))
            labels, values = k_means(x, self.iterations)
            if self.zero:
                values[values.abs().argmin()] = 0.0
            centroids.append(values)
            streams.append(shortest(labels.numpy()))
        found = torch.stack(centroids) if centroids else torch.zeros(0, CENTROIDS)
        bits = np.concatenate([np.zeros(0, np.uint8), *streams])
        return Zipped(found.to(layout.dtype), torch.from_numpy(np.packbits(bits, bitorder="little")))


def _layers(layout: Layout) -> list[Segment]:
    return [segment for segment in layout if segment.size]


def kept(n: int, keep: float) -> int:
    """How many of n entries a fraction keeps: n - round(n (1 - keep)), but at least one."""
    return max(n - round(n * (1.0 - keep)), 1)


def top(x: Tensor, k: int) -> Tensor:
    """The vector [n] with all but its k largest magnitudes at 0; of equal ones the first stay."""
    chosen = x.abs().sort(descending=True, stable=True).indices[:k]
    return torch.zeros_like(x).index_copy_(0, chosen, x[chosen])


def k_means(x: Tensor, iterations: int) -> tuple[Tensor, Tensor]:
    """Labels [n] (the last assignment) and centroids [3] (after the last update), in ascending order.

    Of equally near centroids the lower one is taken; a cluster without members keeps its centroid.
    """
    low, high = x.min(), x.max()
    centroids = torch.stack([low, low + (high - low) / 2, high])
    labels = torch.zeros(len(x), dtype=torch.uint8)
    for _ in range(iterations):
        first, middle, last = ((x - c).abs() for c in centroids)
        labels = (middle < first).to(torch.uint8)
        labels[last < torch.minimum(first, middle)] = 2
        members = [x[labels == c] for c in range(CENTROIDS)]
        centroids = torch.stack([m.mean() if len(m) else c for m, c in zip(members, centroids, strict=True)])
    return labels, centroids


# -- labels as bits ----------------------------------------------------------------------------------------------


def digits(values: NDArray[np.int64] | int, width: int) -> Bits:
    """Whole numbers >= 0 in `width` binary digits each."""
    numbers = np.atleast_1d(np.asarray(values, np.int64))
    return ((numbers[:, None] >> np.arange(width)) & 1).astype(np.uint8).reshape(-1)


def shortest(labels: NDArray[np.uint8]) -> Bits:
    """The labels [n], n >= 1, in the way that takes fewest bits; of equals the first."""
    counts = np.bincount(labels, minlength=CENTROIDS)
    coded = [_as_words(labels, counts), _as_positions(labels, counts), _as_gaps(labels, counts)]
    way = min(range(3), key=lambda i: len(coded[i]))
    return np.concatenate([digits(way, 2), coded[way]])


def _as_words(labels: NDArray[np.uint8], counts: NDArray[np.int64]) -> Bits:
    """Lengths of the three words in 2 bits each (0: does not occur), then the first bits, then the second ones."""
    used = np.flatnonzero(counts)
    most = int(counts.argmax())
    lengths = np.zeros(CENTROIDS, np.int64)
    lengths[used] = 1 if len(used) < CENTROIDS else 2
    lengths[most] = 1
    parts = [digits(lengths, 2)]
    if len(used) == 2:
        parts.append((labels == used[1]).astype(np.uint8))
    elif len(used) == CENTROIDS:
        rare = labels != most
        parts += [rare.astype(np.uint8), (labels[rare] == _others(most)[1]).astype(np.uint8)]
    return np.concatenate(parts)


def _as_positions(labels: NDArray[np.uint8], counts: NDArray[np.int64]) -> Bits:
    """The commonest label in 2 bits; of each other one how often it occurs, and where."""
    n, most = len(labels), int(counts.argmax())
    parts = [digits(most, 2)]
    for label in _others(most):
        parts += [digits(counts[label], n.bit_length()), digits(np.flatnonzero(labels == label), (n - 1).bit_length())]
    return np.concatenate(parts)


def _as_gaps(labels: NDArray[np.uint8], counts: NDArray[np.int64]) -> Bits:
    """As positions, but with the width of a gap after how often a label occurs, and gaps for addresses."""
    n, most = len(labels), int(counts.argmax())
    parts = [digits(most, 2)]
    for label in _others(most):
        gaps = np.diff(np.flatnonzero(labels == label), prepend=-1) - 1
        width = int(gaps.max(initial=0)).bit_length()
        parts += [digits(counts[label], n.bit_length()), digits(width, WIDTH_BITS), digits(gaps, width)]
    return np.concatenate(parts)


def _others(label: int) -> list[int]:
    return [c for c in range(CENTROIDS) if c != label]


# -- and back ----------------------------------------------------------------------------------------------------


class _Reader:
    """Takes bits from the front of a stream, and refuses to go past its end."""

    def __init__(self, packed: Tensor) -> None:
        self._bits = np.unpackbits(packed.cpu().numpy(), bitorder="little")
        self._at = 0

    def bits(self, count: int) -> Bits:
        """The next digits."""
        if count > self.left:
            raise ValueError(f"payload: labels end after {len(self._bits)} bits, and more are needed")
        self._at += count
        found: Bits = self._bits[self._at - count : self._at]
        return found

    def numbers(self, count: int, width: int) -> NDArray[np.int64]:
        """The next whole numbers."""
        found: NDArray[np.int64] = self.bits(count * width).reshape(count, width).astype(np.int64) @ (
            1 << np.arange(width, dtype=np.int64)
        )
        return found

    def number(self, width: int) -> int:
        """The next whole number."""
        return int(self.numbers(1, width)[0])

    @property
    def left(self) -> int:
        """Bits that were not taken."""
        return len(self._bits) - self._at


def _read(payload: Content, layout: Layout) -> tuple[Tensor, list[Tensor]]:
    """Centroids [layers, 3] and labels [n] of each layer."""
    layers = _layers(layout)
    centroids = field_of(payload, Zipped, "centroids", layout.dtype, [len(layers), CENTROIDS])
    reader = _Reader(field_of(payload, Zipped, "labels", torch.uint8, [None]))
    labels = [torch.from_numpy(_labels(reader, segment.size)) for segment in layers]
    if reader.left >= 8:
        raise ValueError(f"payload: labels have {reader.left} bits more than are needed")
    return centroids.cpu(), labels


def _labels(reader: _Reader, n: int) -> NDArray[np.int64]:
    way = reader.number(2)
    if way == WORDS:
        return _from_words(reader, n)
    if way not in (POSITIONS, GAPS):
        raise ValueError(f"payload: labels are coded in way {way}; 0 to 2 are known")
    most = _label(reader.number(2))
    labels = np.full(n, most, np.int64)
    for label in _others(most):
        count = reader.number(n.bit_length())
        if way == POSITIONS:
            addresses = reader.numbers(count, (n - 1).bit_length())
        else:
            width = reader.number(WIDTH_BITS)
            if width > n.bit_length():
                raise ValueError(f"payload: gaps of {width} bits; at most {n.bit_length()} are allowed")
            addresses = np.cumsum(reader.numbers(count, width) + 1) - 1
        if count and int(addresses.max()) >= n:
            raise ValueError(f"payload: an address of {int(addresses.max())}; below {n} is allowed")
        labels[addresses] = label
    return labels


def _from_words(reader: _Reader, n: int) -> NDArray[np.int64]:
    lengths = reader.numbers(CENTROIDS, 2)
    used = np.flatnonzero(lengths)
    expected = {1: [1], 2: [1, 1], 3: [1, 2, 2]}.get(len(used))
    if sorted(lengths[used].tolist()) != expected:
        raise ValueError(f"payload: words of lengths {lengths.tolist()}, which are no code")
    labels = np.full(n, used[0], np.int64)
    if len(used) == 2:
        labels[reader.bits(n) == 1] = used[1]
    elif len(used) == CENTROIDS:
        most = int(np.flatnonzero(lengths == 1)[0])
        labels[:] = most
        rare = np.flatnonzero(reader.bits(n))
        labels[rare] = np.asarray(_others(most))[reader.bits(len(rare))]
    return labels


def _label(number: int) -> int:
    if number >= CENTROIDS:
        raise ValueError(f"payload: a commonest label of {number}; 0 to 2 are allowed")
    return number
