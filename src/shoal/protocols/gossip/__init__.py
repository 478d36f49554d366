"""Learning without a server: every peer averages with its neighbours."""

from shoal.protocols.gossip.decavg import DecAvg
from shoal.protocols.gossip.dsgd import DSGD
from shoal.protocols.gossip.gossip import Gossip
from shoal.protocols.gossip.modest import MoDeST
from shoal.protocols.gossip.pairwise import Pairwise
from shoal.protocols.gossip.variance_corrected import VarianceCorrected

__all__ = ["DSGD", "DecAvg", "Gossip", "MoDeST", "Pairwise", "VarianceCorrected"]
