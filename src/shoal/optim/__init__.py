"""Optimizers: how one learner moves. Rules are chains of small transforms that step one model or many stacked ones."""

from shoal.optim.adam import Adam, AdamScaling
from shoal.optim.adamw import SGDW, AdamW
from shoal.optim.chain import Chain, Optimizer, Param, Rule, Slot, Transform
from shoal.optim.common import DecayAfter, DecoupledDecay, Momentum, WeightDecay
from shoal.optim.schedules import (
    Schedule,
    constant,
    constant_warmup,
    gradual_warmup,
    large_minibatch,
    linear_scaling,
    step_decay,
)
from shoal.optim.sgd import SGD
from shoal.optim.velocity import CorrectedVelocity, Velocity

__all__ = [
    "SGD",
    "SGDW",
    "Adam",
    "AdamScaling",
    "AdamW",
    "Chain",
    "CorrectedVelocity",
    "DecayAfter",
    "DecoupledDecay",
    "Momentum",
    "Optimizer",
    "Param",
    "Rule",
    "Schedule",
    "Slot",
    "Transform",
    "Velocity",
    "WeightDecay",
    "constant",
    "constant_warmup",
    "gradual_warmup",
    "large_minibatch",
    "linear_scaling",
    "step_decay",
]
