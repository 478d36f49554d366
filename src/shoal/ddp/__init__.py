"""Optimizers for `torchrun` that communicate themselves: small messages instead of averaged gradients."""

from shoal.ddp.demo import DeMo
from shoal.ddp.distributed_lion import DistributedLion
from shoal.ddp.onebit_adam import OneBitAdam

__all__ = ["DeMo", "DistributedLion", "OneBitAdam"]
