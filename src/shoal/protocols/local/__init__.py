"""Local updates: many steps at home for each message."""

from shoal.protocols.local.async_local_sgd import AsyncLocalSGD
from shoal.protocols.local.local_sgd import LocalSGD
from shoal.protocols.local.proxskip import ProxSkipVIP
from shoal.protocols.local.savic import SAVIC

__all__ = ["SAVIC", "AsyncLocalSGD", "LocalSGD", "ProxSkipVIP"]
