"""hivemind's compression of a vector, for `benchmarks/ours/compression.py`.

Its blockwise kind needs bitsandbytes and a GPU's library, and is left out. The messages hold the bytes that travel.
"""

from __future__ import annotations

from typing import Any

from hivemind.compression import (
    CompressionInfo,
    Float16Compression,
    Quantile8BitQuantization,
    ScaledFloat16Compression,
    Uniform8BitQuantization,
)
from torch import Tensor

KINDS = (Uniform8BitQuantization, Quantile8BitQuantization, Float16Compression, ScaledFloat16Compression)


class Hivemind:
    """One of them, which encodes and decodes a vector [d]."""

    def __init__(self, kind: Any, x: Tensor) -> None:
        self.codec, self.x, self.info = kind(), x, CompressionInfo.from_tensor(x)

    def encode(self) -> Any:
        return self.codec.compress(self.x, self.info)

    def decode(self, message: Any) -> Tensor:
        return self.codec.extract(message)

    def size(self, message: Any) -> int:
        """Bytes."""
        return message.ByteSize()


def arms(x: Tensor) -> dict[str, Hivemind]:
    return {f"hivemind {kind.__name__}": Hivemind(kind, x) for kind in KINDS}
