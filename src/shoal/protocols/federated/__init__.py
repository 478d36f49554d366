"""Learning with a server."""

from shoal.protocols.federated.fedavg import FedAvg
from shoal.protocols.federated.fedvote import FedVote
from shoal.protocols.federated.parallel_sgd import ParallelSGD

__all__ = ["FedAvg", "FedVote", "ParallelSGD"]
