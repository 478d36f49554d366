"""Learning: tasks, data, and the peer that trains."""

from shoal.learning.batches import Shard
from shoal.learning.comparison import compare
from shoal.learning.contenders import Contender, Span, around
from shoal.learning.learner import Learner
from shoal.learning.objective import Net
from shoal.learning.packing import Packer
from shoal.learning.results import Comparison
from shoal.learning.task import Task, accuracy, cross_entropy, squared_error
from shoal.learning.trainer import Trainer

__all__ = [
    "Comparison",
    "Contender",
    "Learner",
    "Net",
    "Packer",
    "Shard",
    "Span",
    "Task",
    "Trainer",
    "accuracy",
    "around",
    "compare",
    "cross_entropy",
    "squared_error",
]
