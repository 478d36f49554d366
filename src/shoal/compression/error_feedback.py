"""Error feedback: what a codec leaves out of one message is added to the next.

    u = x + decay e        send C(u)        e <- u - C(u)

F. Seide et al., "1-Bit Stochastic Gradient Descent", 2014; S. P. Karimireddy, Q. Rebjock, S. U. Stich, M. Jaggi,
"Error Feedback Fixes SignSGD and other Gradient Compression Schemes", 2019 (arXiv 1901.09847). With decay 1 the sum of
what was sent is the sum of what was given minus the last error.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.codec import Codec, Memory, Use
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content

ERROR = "error"


@dataclass(frozen=True)
class ErrorFeedback(Codec):
    """A codec with a memory of what it has left out; for updates and gradients, which add up.

    Attributes:
        codec: what encodes.
        decay: in (0, 1]: what is kept of an old error.
    """

    codec: Codec
    decay: float = 1.0
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")

    def __post_init__(self) -> None:
        if not 0.0 < self.decay <= 1.0:
            raise ValueError(f"decay: got {self.decay}; a number in (0, 1] is allowed")
        if not set(self.codec.suits) & set(self.suits):
            raise ValueError(f"codec: {type(self.codec).__name__} is for models, whose errors do not add up")
        if self.codec.no_feedback:
            raise ValueError(f"codec: {type(self.codec).__name__} takes no error feedback: {self.codec.no_feedback}")
        if isinstance(self.codec, ErrorFeedback):
            raise ValueError("codec: it has error feedback already")

    @property
    def draws(self) -> bool:  # type: ignore[override]
        """As the codec."""
        return self.codec.draws

    def start(self, layout: Layout, device: torch.device | None = None) -> Memory:
        """No error yet."""
        inner = self.codec.start(layout, device)
        if ERROR in inner:
            raise ValueError(f"codec: {type(self.codec).__name__} has a memory called {ERROR!r} of its own")
        return {ERROR: torch.zeros(layout.size, dtype=layout.dtype, device=device), **inner}

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Add the error, encode, and keep what is missing."""
        u = torch.add(rows, memory[ERROR], alpha=self.decay)
        inner = {name: value for name, value in memory.items() if name != ERROR}
        payloads, after = self.codec.encode_rows(u, inner, keys, layout)
        return payloads, {ERROR: self.codec.left_out(u, payloads, layout), **after}

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """As the codec."""
        return self.codec.decode_rows(payloads, layout)

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """As the codec."""
        return self.codec.streams(payload, layout)
