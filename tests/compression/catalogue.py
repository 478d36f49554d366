"""Codecs with settings under which every one of them must keep the contract."""

from __future__ import annotations

from shoal.compression import BF16, FP16, Codec, ErrorFeedback, Identity
from shoal.tensors import Layout

CODECS: dict[str, Codec] = {
    "identity": Identity(),
    "fp16": FP16(),
    "bf16": BF16(),
    "ef+bf16": ErrorFeedback(BF16()),
    "ef+fp16, decay": ErrorFeedback(FP16(), decay=0.5),
}

LAYOUTS: dict[str, Layout] = {
    "network": Layout.from_shapes({"0.weight": (17, 13), "0.bias": (17,), "2.weight": (5, 17), "2.bias": (5,)}),
    "tensors of many dimensions": Layout.from_shapes({"conv": (4, 3, 3, 2), "scale": (), "one": (1,), "empty": (0, 3)}),
    "one vector": Layout.from_shapes({"x": (257,)}),
}
