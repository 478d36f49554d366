"""The codecs that can be named, and what is known about them before they are imported."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.entry import Entry, Table

CODECS: Table = {
    "identity": Entry("shoal.compression:Identity", "the numbers as they are"),
    "fp16": Entry("shoal.compression:FP16", "16 bits a number, 11 of them precision"),
    "bf16": Entry("shoal.compression:BF16", "16 bits a number, with the range of float32"),
}

CODEC_WRAPPERS: Mapping[str, Entry] = {
    "ef": Entry("shoal.compression:ErrorFeedback", "error feedback: what one message leaves out is added to the next"),
}
