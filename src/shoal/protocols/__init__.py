"""Protocols: what one peer does, each a coroutine that runs in any world."""

from shoal.protocols.centralised import Centralised
from shoal.protocols.federated import FedAvg, ParallelSGD
from shoal.protocols.gossip import DSGD, DecAvg, Gossip, Pairwise, VarianceCorrected
from shoal.protocols.isolated import Isolated
from shoal.protocols.local import AsyncLocalSGD, LocalSGD
from shoal.protocols.needs import Needs
from shoal.protocols.synchronous import SynchronousSGD

__all__ = [
    "DSGD",
    "AsyncLocalSGD",
    "Centralised",
    "DecAvg",
    "FedAvg",
    "Gossip",
    "Isolated",
    "LocalSGD",
    "Needs",
    "Pairwise",
    "ParallelSGD",
    "SynchronousSGD",
    "VarianceCorrected",
]
