"""How small a codec makes a vector, how far that is from the entropy of what it sends, and how wrong it becomes."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from shoal.compression.codec import Codec
from shoal.tensors.layout import Layout
from shoal.tensors.payload import encode, encoded_size


@dataclass(frozen=True)
class Measured:
    """One vector through a codec.

    Attributes:
        plain: bytes of the vector as it is.
        size: bytes of the payload, as it goes over a wire.
        entropy: bytes that a perfect coder of independent symbols would need, by the frequencies in this payload.
        error: norm of what is lost over the norm of the vector; 0 for a vector of zeros.
    """

    plain: int
    size: int
    entropy: float
    error: float

    @property
    def ratio(self) -> float:
        """How many times smaller the payload is."""
        return self.plain / self.size


def measure(codec: Codec, x: Tensor, key: int, layout: Layout) -> Measured:
    """Send one vector [d] through a codec with a fresh memory."""
    payload, _ = codec.encode(x, codec.start(layout, x.device), key, layout)
    if len(encode(payload)) != encoded_size(payload):
        raise AssertionError(f"{type(codec).__name__}: the size of the payload is not that of its bytes")
    lost = float((codec.decode(payload, layout) - x).double().norm())
    norm = float(x.double().norm())
    bits = sum(entropy_bits(stream) for stream in codec.streams(payload, layout))
    return Measured(encoded_size(x), encoded_size(payload), bits / 8.0, lost / norm if norm else lost)


def entropy_bits(symbols: Tensor) -> float:
    """n H: n symbols times the entropy of their frequencies, in bits.

    >>> entropy_bits(torch.tensor([0, 1, 0, 1]))
    4.0
    """
    counts = symbols.reshape(-1).unique(return_counts=True)[1].double()
    return float((counts * (counts.sum() / counts).log2()).sum())
