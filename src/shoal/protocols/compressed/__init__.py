"""Methods of which compression is a part, rather than something that any codec adds."""

from shoal.protocols.compressed.demo import DeMo
from shoal.protocols.compressed.distributed_lion import DistributedLion
from shoal.protocols.compressed.extragradient import Extragradient
from shoal.protocols.compressed.masha import MASHA1, MASHA2
from shoal.protocols.compressed.one_byte import OneByte
from shoal.protocols.compressed.onebit_adam import OneBitAdam
from shoal.protocols.compressed.terngrad import TernGrad

__all__ = ["MASHA1", "MASHA2", "DeMo", "DistributedLion", "Extragradient", "OneBitAdam", "OneByte", "TernGrad"]
