"""Local updates: many steps at home for each message."""

from shoal.protocols.local.async_local_sgd import AsyncLocalSGD
from shoal.protocols.local.local_sgd import LocalSGD

__all__ = ["AsyncLocalSGD", "LocalSGD"]
