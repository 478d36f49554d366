"""Differential privacy: what randomised messages give away, computed from their exact probabilities."""

from shoal.privacy.pbm import PBM
from shoal.privacy.renyi import epsilon_of, log_sum, renyi, renyi_of_sum
from shoal.privacy.rqm import RQMLaw

__all__ = ["PBM", "RQMLaw", "epsilon_of", "log_sum", "renyi", "renyi_of_sum"]
