"""What optimizers are made of: transforms, chains of them, and the torch optimizers that run those."""

from shoal.optim.chain.arguments import Argument
from shoal.optim.chain.optimizer import Optimizer, option
from shoal.optim.chain.rule import Chain, Param, Rule
from shoal.optim.chain.transform import Scalars, Slot, State, Transform

__all__ = ["Argument", "Chain", "Optimizer", "Param", "Rule", "Scalars", "Slot", "State", "Transform", "option"]
