"""FedZip, restated in float64 NumPy.

A. Malekijoo, M. J. Fadaeieslam, H. Malekijou, M. Homayounfar, F. Alizadeh-Shabdiz, R. Rawassizadeh, "FEDZIP: A
Compression Framework for Communication-Efficient Federated Learning", arXiv:2102.01593 (2021); code:
malekijoo/FedZip, deploy.py and new_fedavg_keras.py.

    client, each layer:  Delta = w_local - w_global
        1. prune:     keep the z fraction of largest |Delta|, the rest to 0 (biases are not pruned)
        2. quantise:  k-means with 3 centroids on all entries, from linspace(min, max, 3);  Delta_i -> its centroid
        3. encode the labels in the smallest of
             Huffman     code lengths 1, 2, 2:  n + (count of the two rarer)
             positions   addresses of the two rarer clusters, ceil(log2 n) bits each
             gaps        differences of successive addresses, at the width of the largest
    server:  w <- w + lr sum_k (n_k / sum n) Delta_k

Choices where the source leaves or contradicts itself:

* How many are kept. The code keeps n - round(n (1 - z)), half to even, and every entry as large as the smallest
  kept. Here the same number, one at least, and of equal magnitudes the lower index.
* k-means. The code divides the sums of the outer clusters by their nonzero entries, which is wrong where an outer
  cluster holds the pruned zeros (all kept entries of one sign), and sets an empty middle one to 0. Here the mean of
  the members, and an empty cluster keeps its centroid. Equal distances: the lower centroid. As in the code the
  labels are those of the last assignment, the centroids those after the last update. 4 iterations, as in the code.
* Huffman. The code multiplies the sorted counts by 2, 1, 1, lengths that no prefix code can have
  (1/4 + 1/2 + 1/2 > 1); it must be 2, 2, 1. Two labels in use take n bits; a single one takes none, the
  receiver seeing that no other has a length.
* Gaps. The code adds the bit lengths of the gaps, which cannot be cut apart again (`undecodable_gap_bits`), and takes
  the first address itself, a 0 as one bit. Here the gap is the number of entries skipped, address - previous - 1 with
  -1 before the first, at one width a cluster, or each with a length in front.
* Side information, counted: 3 x 32 bits of centroids, 2 of method, 2 of the commonest label for positions and gaps,
  for each of their two lists its length in (n).bit_length() bits and for gaps a width in 6 bits; for Huffman 3 code
  lengths of 2 bits. n is known to the receiver. With 27 bits an address and no side information the code counts less.
* The centroid nearest to 0 is seldom 0: with `zero` it is made 0 (an option not in the source), likewise error
  feedback, e <- (Delta + e) - sent. The learning rate of the server is 1, FedAvg's; the code's argument has 0.1.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Labels = NDArray[np.int64]
Method = Literal["huffman", "positions", "gaps"]
METHODS: tuple[Method, ...] = ("huffman", "positions", "gaps")
HEADER_BITS = 3 * 32 + 2


def kept(n: int, z: float) -> int:
    """Return how many of `n` entries the fraction `z` keeps."""
    return max(n - round(n * (1 - z)), 1)


def top_z(x: Array, k: int) -> Array:
    """Return `x` with all but the `k` largest magnitudes set to 0."""
    flat, pruned = x.ravel(), np.zeros(x.size)
    chosen = np.argsort(-np.abs(flat), kind="stable")[:k]
    pruned[chosen] = flat[chosen]
    return pruned.reshape(x.shape)


def k_means(x: Array, clusters: int = 3, iterations: int = 4) -> tuple[Labels, Array]:
    """Return the labels [shape of x] and centroids [clusters], ascending."""
    centroids = np.linspace(x.min(), x.max(), clusters)
    labels = np.zeros(x.shape, np.int64)
    for _ in range(iterations):
        labels = np.argmin(np.abs(x[..., None] - centroids), axis=-1)
        centroids = np.array([x[labels == c].mean() if np.any(labels == c) else centroids[c] for c in range(clusters)])
    return labels, centroids


def to_bits(value: int, width: int) -> str:
    """Return `value` in `width` binary digits, none for width 0."""
    return format(value, f"0{width}b") if width else ""


def code_lengths(counts: Sequence[int]) -> list[int]:
    """Return the Huffman code length of each symbol; 0 for one that does not occur or is alone."""
    heap = [(count, symbol, [symbol]) for symbol, count in enumerate(counts) if count]
    lengths = [0] * len(counts)
    heapify(heap)
    while len(heap) > 1:
        (a, _, left), (b, tie, right) = heappop(heap), heappop(heap)
        for symbol in left + right:
            lengths[symbol] += 1
        heappush(heap, (a + b, tie, left + right))
    return lengths


def canonical_codes(lengths: Sequence[int]) -> dict[int, str]:
    """Return the prefix code with these lengths, shorter and then lower symbols first."""
    codes, value, previous = {}, 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        value <<= length - previous
        codes[symbol] = to_bits(value, length)
        value, previous = value + 1, length
    return codes


def commonest(labels: Labels) -> int:
    """Return the label that occurs most, the lowest of equals."""
    return int(np.argmax(np.bincount(labels.ravel(), minlength=3)))


def skipped(addresses: Sequence[int]) -> list[int]:
    """Return how many entries lie between an address and the one before it."""
    return [b - a - 1 for a, b in zip([-1, *addresses], addresses, strict=False)]


def encode(labels: Labels, method: Method) -> str:
    """Return the labels {0, 1, 2} as a string of binary digits, side information first, without `HEADER_BITS`."""
    flat = [int(label) for label in labels.ravel()]
    n = len(flat)
    if method == "huffman":
        lengths = code_lengths([flat.count(label) for label in range(3)])
        codes = canonical_codes(lengths)
        side = [max(length, int(label in flat)) for label, length in enumerate(lengths)]
        return "".join(to_bits(length, 2) for length in side) + "".join(codes.get(label, "") for label in flat)
    most = commonest(labels)
    bits = to_bits(most, 2)
    for label in range(3):
        if label == most:
            continue
        addresses = [i for i, own in enumerate(flat) if own == label]
        bits += to_bits(len(addresses), n.bit_length())
        if method == "positions":
            bits += "".join(to_bits(i, (n - 1).bit_length()) for i in addresses)
        else:
            gaps = skipped(addresses)
            width = max(gaps, default=0).bit_length()
            bits += to_bits(width, 6) + "".join(to_bits(gap, width) for gap in gaps)
    return bits


def decode(bits: str, n: int, method: Method) -> Labels:
    """Return the labels [n]."""
    place = 0

    def take(width: int) -> int:
        nonlocal place
        place += width
        return int(bits[place - width : place] or "0", 2)

    if method == "huffman":
        lengths = [take(2) for _ in range(3)]
        if sum(length > 0 for length in lengths) == 1:
            return np.full(n, int(np.argmax(lengths)), np.int64)
        symbols = {code: symbol for symbol, code in canonical_codes(lengths).items()}
        labels, code = [], ""
        for digit in bits[place:]:
            code += digit
            if code in symbols:
                labels.append(symbols[code])
                code = ""
        return np.array(labels, np.int64)
    most = take(2)
    result = np.full(n, most, np.int64)
    for label in range(3):
        if label == most:
            continue
        count = take(n.bit_length())
        width = (n - 1).bit_length() if method == "positions" else take(6)
        address = -1
        for _ in range(count):
            address = take(width) if method == "positions" else address + take(width) + 1
            result[address] = label
    return result


def huffman_bits(labels: Labels) -> int:
    """Return the bits of the Huffman codes alone."""
    counts = np.bincount(labels.ravel(), minlength=3)
    return int(counts @ code_lengths([int(c) for c in counts]))


def rarer(labels: Labels) -> list[list[int]]:
    """Return the addresses of the two clusters other than the commonest."""
    flat = labels.ravel()
    return [[int(i) for i in np.flatnonzero(flat == c)] for c in range(3) if c != commonest(labels)]


def position_bits(labels: Labels) -> int:
    """Return the bits of the addresses alone."""
    return sum(len(addresses) for addresses in rarer(labels)) * (labels.size - 1).bit_length()


def gap_bits(labels: Labels) -> int:
    """Return the bits of the gaps alone, each list at the width of its largest."""
    lists = [skipped(addresses) for addresses in rarer(labels)]
    return sum(len(gaps) * max(gaps, default=0).bit_length() for gaps in lists)


def length_coded_gap_bits(labels: Labels) -> int:
    """Return the bits of the gaps alone, each at its own width behind that width at the width of the largest one."""
    lists = [[gap.bit_length() for gap in skipped(addresses)] for addresses in rarer(labels)]
    return sum(len(widths) * max(widths, default=0).bit_length() + sum(widths) for widths in lists)


def undecodable_gap_bits(labels: Labels) -> int:
    """Return the size that the code reports for gaps: the sum of the least widths, without anything between them."""
    differences = [np.diff(addresses, prepend=0) for addresses in rarer(labels)]
    return sum(max(int(d).bit_length(), 1) for list_ in differences for d in list_)


@dataclass(frozen=True)
class Message:
    """What a client sends of one layer."""

    method: Method
    bits: str
    centroids: Array

    def size(self) -> int:
        return HEADER_BITS + len(self.bits)

    def decoded(self, shape: Sequence[int]) -> Array:
        return self.centroids[decode(self.bits, int(np.prod(shape)), self.method)].reshape(shape)


def compress(delta: Array, z: float | None, *, iterations: int = 4, zero: bool = False) -> Message:
    """Return the shortest message of one layer; z = None prunes nothing."""
    pruned = delta if z is None else top_z(delta, kept(delta.size, z))
    labels, centroids = k_means(pruned, 3, iterations)
    if zero:
        centroids[np.argmin(np.abs(centroids))] = 0.0
    coded = {method: encode(labels, method) for method in METHODS}
    best = min(METHODS, key=lambda method: len(coded[method]))
    return Message(best, coded[best], centroids)


def client(
    delta: Sequence[Array], error: Sequence[Array] | None, z: float, *, biases: Collection[int] = (), zero: bool = False
) -> tuple[list[Message], list[Array] | None]:
    """Return the messages of all layers and the errors left; without feedback `error` is None and stays it."""
    wanted = list(delta) if error is None else [d + e for d, e in zip(delta, error, strict=True)]
    messages = [compress(x, None if i in biases else z, zero=zero) for i, x in enumerate(wanted)]
    if error is None:
        return messages, None
    return messages, [x - m.decoded(x.shape) for x, m in zip(wanted, messages, strict=True)]


def server(
    params: Sequence[Array], messages: Sequence[Sequence[Message]], samples: Sequence[float], *, lr: float = 1.0
) -> list[Array]:
    """Return the new global layers from the messages [client][layer] and the clients' numbers of samples."""
    result = []
    for i, p in enumerate(params):
        sum_ = sum(n * m[i].decoded(p.shape) for n, m in zip(samples, messages, strict=True))
        result.append(p + lr * np.asarray(sum_) / sum(samples))
    return result
