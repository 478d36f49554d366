"""The codecs that can be named, and what is known about them before they are imported."""

from __future__ import annotations

from collections.abc import Mapping

from shoal.entry import Entry, Table

CODECS: Table = {
    "identity": Entry("shoal.compression:Identity", "the numbers as they are"),
    "fp16": Entry("shoal.compression:FP16", "16 bits a number, 11 of them precision"),
    "bf16": Entry("shoal.compression:BF16", "16 bits a number, with the range of float32"),
    "int8": Entry("shoal.compression:Int8", "8 bits a number, scaled by the largest of each block", ("block",)),
    "int8-stochastic": Entry(
        "shoal.compression:StochasticInt8", "the same, rounded at random: right on average", ("block",)
    ),
    "sign": Entry("shoal.compression:Sign", "1 bit a number, with a scale a layer; as ef+sign"),
    "qsgd": Entry(
        "shoal.compression:QSGD", "levels of a bucket's norm at random: right on average", ("levels", "bucket")
    ),
    "topk": Entry("shoal.compression:TopK", "the largest numbers and their places; as ef+topk", ("density", "per")),
    "randk": Entry("shoal.compression:RandK", "numbers at random places, enlarged: right on average", ("density",)),
    "randk-plain": Entry("shoal.compression:PlainRandK", "the same, not enlarged; as ef+randk-plain", ("density",)),
    "powersgd": Entry("shoal.compression:PowerSGD", "matrices by two thin ones; as ef+powersgd", ("rank",)),
    "fedzip": Entry(
        "shoal.compression:FedZip", "the largest entries as three values a layer, losslessly coded", ("keep",)
    ),
    "l-greco": Entry(
        "shoal.compression:l_greco", "every layer at the level that costs least for the error", ("family", "alpha")
    ),
    "rqm": Entry(
        "shoal.compression:RQM", "private: rounded to levels of which some are left out at random", ("clip", "delta")
    ),
    "dct": Entry("shoal.compression:DCT", "the strongest frequencies of each chunk of a layer", ("k", "chunk")),
    "ternary": Entry("shoal.compression:Ternary", "three levels and a scale a layer, 1.6 bits a number", ("clip",)),
}

CODEC_WRAPPERS: Mapping[str, Entry] = {
    "ef": Entry("shoal.compression:ErrorFeedback", "error feedback: what one message leaves out is added to the next"),
}
