"""What optimizers are made of: transforms, chains of them, and the torch optimizers that run those."""

from shoal.optim.core.arguments import Argument
from shoal.optim.core.declared import option
from shoal.optim.core.optimizer import Optimizer
from shoal.optim.core.plan import Chain, Param
from shoal.optim.core.rule import Rule
from shoal.optim.core.transform import Product, Quotient, Scalars, Slot, State, Transform

__all__ = [
    "Argument",
    "Chain",
    "Optimizer",
    "Param",
    "Product",
    "Quotient",
    "Rule",
    "Scalars",
    "Slot",
    "State",
    "Transform",
    "option",
]
