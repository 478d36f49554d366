"""Nowcasters: recording training runs of small models, and training networks that forecast weights on them."""

from shoal.learning.nowcasting.recording import Recording, Trajectory, record, trajectories
from shoal.learning.nowcasting.training import Meta, train

__all__ = ["Meta", "Recording", "Trajectory", "record", "train", "trajectories"]
