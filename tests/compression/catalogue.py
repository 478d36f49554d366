"""Codecs with settings under which every one of them must keep the contract."""

from __future__ import annotations

from shoal.compression import (
    BF16,
    DCT,
    FP16,
    QSGD,
    RQM,
    Codec,
    ErrorFeedback,
    FedZip,
    Identity,
    Int8,
    LGreCo,
    PlainRandK,
    PowerSGD,
    RandK,
    Sign,
    StochasticInt8,
    Ternary,
    TopK,
    l_greco,
)
from shoal.tensors import Layout

CODECS: dict[str, Codec] = {
    "identity": Identity(),
    "fp16": FP16(),
    "bf16": BF16(),
    "ef+bf16": ErrorFeedback(BF16()),
    "ternary": Ternary(),
    "ternary, not clipped": Ternary(clip=None),
    "ef+ternary": ErrorFeedback(Ternary()),
    "dct": DCT(),
    "dct, 3 of 4 x 4 in float16": DCT(3, 4, "float16"),
    "ef+dct": ErrorFeedback(DCT(2, 8)),
    "ef+fp16, decay": ErrorFeedback(FP16(), decay=0.5),
    "int8": Int8(),
    "int8, small blocks": Int8(block=7),
    "int8-stochastic": StochasticInt8(block=32),
    "sign": Sign(),
    "ef+sign": ErrorFeedback(Sign()),
    "qsgd": QSGD(),
    "qsgd, layers": QSGD(levels=3, bucket=0),
    "qsgd, wide": QSGD(levels=200, bucket=16),
    "topk": TopK(0.05),
    "topk, layers": TopK(0.3, "layer", "bf16"),
    "ef+topk": ErrorFeedback(TopK(0.07)),
    "randk": RandK(0.1),
    "ef+randk-plain": ErrorFeedback(PlainRandK(0.05)),
    "powersgd": PowerSGD(),
    "ef+powersgd": ErrorFeedback(PowerSGD(1)),
    "fedzip": FedZip(),
    "fedzip, few and with zero": FedZip(0.02, iterations=2, zero=True),
    "ef+fedzip": ErrorFeedback(FedZip(0.05)),
    "l-greco": l_greco("fedzip", every=1),
    "l-greco, half precision": LGreCo((BF16(), FP16(), Identity()), 1, every=1, buckets=50),
    "ef+l-greco": ErrorFeedback(l_greco("fedzip", every=2, window=1)),
    "rqm": RQM(6.0),
    "rqm, five levels": RQM(6.0, 2.0, levels=5, q=0.7),
}

NOISY = {"rqm", "rqm, five levels"}
"""Codecs whose noise is what they are for: zeros are not sent as zeros."""

LAYOUTS: dict[str, Layout] = {
    "network": Layout.from_shapes({"0.weight": (17, 13), "0.bias": (17,), "2.weight": (5, 17), "2.bias": (5,)}),
    "tensors of many dimensions": Layout.from_shapes({"conv": (4, 3, 3, 2), "scale": (), "one": (1,), "empty": (0, 3)}),
    "one vector": Layout.from_shapes({"x": (257,)}),
}
