"""Codecs: updates as small payloads, on vectors and on stacked rows."""

from shoal.compression.cast import BF16, FP16
from shoal.compression.codec import USES, Codec, Memory, Use
from shoal.compression.error_feedback import ErrorFeedback
from shoal.compression.identity import Identity
from shoal.compression.measure import Measured, entropy_bits, measure

__all__ = [
    "BF16",
    "FP16",
    "USES",
    "Codec",
    "ErrorFeedback",
    "Identity",
    "Measured",
    "Memory",
    "Use",
    "entropy_bits",
    "measure",
]
