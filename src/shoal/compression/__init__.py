"""Codecs: updates as small payloads, on vectors and on stacked rows."""

from shoal.compression.cast import BF16, FP16
from shoal.compression.codec import USES, Codec, Memory, Use
from shoal.compression.dct import DCT
from shoal.compression.error_feedback import ErrorFeedback
from shoal.compression.fedzip import FedZip
from shoal.compression.identity import Identity
from shoal.compression.int8 import Int8, StochasticInt8
from shoal.compression.l_greco import LGreCo, l_greco
from shoal.compression.measure import Measured, entropy_bits, measure
from shoal.compression.powersgd import PowerSGD
from shoal.compression.qsgd import QSGD
from shoal.compression.rand_k import PlainRandK, RandK
from shoal.compression.rqm import RQM
from shoal.compression.sign import Sign
from shoal.compression.ternary import Ternary
from shoal.compression.top_k import TopK

__all__ = [
    "BF16",
    "DCT",
    "FP16",
    "QSGD",
    "RQM",
    "USES",
    "Codec",
    "ErrorFeedback",
    "FedZip",
    "Identity",
    "Int8",
    "LGreCo",
    "Measured",
    "Memory",
    "PlainRandK",
    "PowerSGD",
    "RandK",
    "Sign",
    "StochasticInt8",
    "Ternary",
    "TopK",
    "Use",
    "entropy_bits",
    "l_greco",
    "measure",
]
