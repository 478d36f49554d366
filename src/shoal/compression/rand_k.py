"""Rand-k: entries at random places, which both sides draw from one key, so that only the key and the entries travel.

    Q(x)_i = (d / k) x_i on a random set of k places, else 0        E Q(x) = x        E |Q(x) - x|^2 = (d / k - 1) |x|^2
    C(x)_i = x_i there, else 0                                      E |C(x) - x|^2 = (1 - k / d) |x|^2

S. U. Stich, J.-B. Cordonnier, M. Jaggi, "Sparsified SGD with Memory", NeurIPS 2018 (arXiv 1809.07599). The first is
right on average and for averages of many senders; the second, `ef+randk-plain`, is for error feedback, under which the
first diverges: its error is larger than the vector. Neither is for models, most of which would be missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from shoal.compression.codec import Codec, Memory, Use, stacked_field
from shoal.compression.top_k import check_density, kept
from shoal.tensors.layout import Layout
from shoal.tensors.payload import Content, Payload
from shoal.tensors.random import derive, shuffled


@dataclass(frozen=True)
class Drawn(Payload):
    """The key of the places, and the entries [k] there, in the order in which the places are drawn."""

    key: int
    values: Tensor


@dataclass(frozen=True)
class RandK(Codec):
    """Random entries, scaled by d / k.

    Attributes:
        density: k / d, in (0, 1]; at least one entry is sent.

    Raises:
        ValueError: `density` is something else.
    """

    density: float = 0.01
    suits: ClassVar[tuple[Use, ...]] = ("update", "gradient")
    unbiased: ClassVar[bool] = True
    draws: ClassVar[bool] = True
    no_feedback: ClassVar[str] = "its errors are larger than what it is given, and would grow; randk-plain's are not"

    def __post_init__(self) -> None:
        check_density(self.density)

    def encode_rows(
        self, rows: Tensor, memory: Memory, keys: Tensor, layout: Layout
    ) -> tuple[Sequence[Content], Memory]:
        """Draw places and take what is there."""
        # The places' own keys: a codec's key may serve others as well, and must not become known.
        own = derive(keys, "rand-k")
        values = rows.gather(1, self._places(own, layout)) * self._factor(layout)
        return [Drawn(key, row) for key, row in zip(own.tolist(), values, strict=True)], memory

    def decode_rows(self, payloads: Sequence[Content], layout: Layout) -> Tensor:
        """Draw the same places."""
        values = stacked_field(payloads, Drawn, "values", layout.dtype, [kept(layout.size, self.density)])
        keys = [payload.key for payload in payloads if isinstance(payload, Drawn)]
        for key in keys:
            if type(key) is not int or not 0 <= key < 1 << 63:
                raise ValueError(f"payload: Drawn.key: got {key!r}; a whole number in [0, 2**63) is needed")
        places = self._places(torch.tensor(keys, device=values.device), layout)
        return values.new_zeros((len(keys), layout.size)).scatter_(1, places, values)

    def streams(self, payload: Content, layout: Layout) -> Iterable[Tensor]:
        """Entries."""
        assert isinstance(payload, Drawn)
        return (payload.values,)

    def _places(self, keys: Tensor, layout: Layout) -> Tensor:
        """The first k of a keyed order of the d entries [n, k], without making the whole order."""
        return shuffled(keys, 0, torch.arange(kept(layout.size, self.density), device=keys.device), layout.size)

    def _factor(self, layout: Layout) -> float:
        return layout.size / kept(layout.size, self.density)


@dataclass(frozen=True)
class PlainRandK(RandK):
    """Random entries as they are, which leaves out what is elsewhere: a contraction, for error feedback."""

    unbiased: ClassVar[bool] = False
    no_feedback: ClassVar[str] = ""

    def _factor(self, layout: Layout) -> float:
        return 1.0
