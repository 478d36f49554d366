"""Protocols: what one peer does, each a coroutine that runs in any world."""

from shoal.protocols.centralised import Centralised
from shoal.protocols.compressed import (
    MASHA1,
    MASHA2,
    DeMo,
    DistributedLion,
    Extragradient,
    OneBitAdam,
    OneByte,
    TernGrad,
)
from shoal.protocols.federated import FedAvg, FedVote, ParallelSGD
from shoal.protocols.gossip import DSGD, DecAvg, Gossip, MoDeST, Pairwise, VarianceCorrected
from shoal.protocols.isolated import Isolated
from shoal.protocols.local import SAVIC, AsyncLocalSGD, LocalSGD, ProxSkipVIP
from shoal.protocols.needs import Needs, check_needs
from shoal.protocols.synchronous import SynchronousSGD

__all__ = [
    "DSGD",
    "MASHA1",
    "MASHA2",
    "SAVIC",
    "AsyncLocalSGD",
    "Centralised",
    "DeMo",
    "DecAvg",
    "DistributedLion",
    "Extragradient",
    "FedAvg",
    "FedVote",
    "Gossip",
    "Isolated",
    "LocalSGD",
    "MoDeST",
    "Needs",
    "OneBitAdam",
    "OneByte",
    "Pairwise",
    "ParallelSGD",
    "ProxSkipVIP",
    "SynchronousSGD",
    "TernGrad",
    "VarianceCorrected",
    "check_needs",
]
