"""Optimizers: how one learner moves. Each is a `torch.optim.Optimizer`, and a rule that steps many stacked models.

An optimizer is a chain of small transforms (`shoal.optim.core`), one file a method. `chain(...)` makes new ones.
"""

from shoal.optim.adabound import AdaBound, AMSBound
from shoal.optim.adadelta import Adadelta
from shoal.optim.adafactor import AdaFactor
from shoal.optim.adafisher import AdaFisher, AdaFisherW
from shoal.optim.adagrad import Adagrad
from shoal.optim.adahessian import AdaHessian
from shoal.optim.adalomo import LOMO, AdaLomo
from shoal.optim.adam import Adam, AdamScaling
from shoal.optim.adam_atan2 import AdamAtan2
from shoal.optim.adam_cm import AdamCM
from shoal.optim.adam_mini import AdamMini
from shoal.optim.adamax import AdaMax
from shoal.optim.adamod import AdaMod
from shoal.optim.adamp import SGDP, AdamP
from shoal.optim.adamw import SGDW, AdamW
from shoal.optim.adasgd import AdaSGD, ScalarScaling
from shoal.optim.adopt import ADOPT
from shoal.optim.amsgrad import AdamNC, AMSGrad
from shoal.optim.apollo import APOLLO, APOLLOMini
from shoal.optim.badam import BAdam
from shoal.optim.cautious import Cautious, CautiousMask
from shoal.optim.common import DecayAfter, DecoupledDecay, Momentum, WeightDecay
from shoal.optim.coordinate_clip import ClippedAdam, CoordinateClip, CoordinateClipping
from shoal.optim.core import Chain, Optimizer, Param, Rule, Slot, Transform
from shoal.optim.core.curvature import second_derivatives
from shoal.optim.coupled_adam import CoupledAdam, embedding_groups
from shoal.optim.d_adaptation import DAdaptAdam, DAdaptSGD
from shoal.optim.diffgrad import DiffGrad
from shoal.optim.dog import DoG, LDoG, polynomial_average
from shoal.optim.exadam import EXAdam
from shoal.optim.fadam import FAdam
from shoal.optim.freezing import GradualUnfreezing, freeze_embeddings, unfreeze
from shoal.optim.laprop import LaProp
from shoal.optim.large_batch import LAMB, LARS, warmup_polynomial
from shoal.optim.lion import Lion
from shoal.optim.lookahead import Lookahead, SlowWeights
from shoal.optim.mars import MARS, MarsGradient
from shoal.optim.microadam import MicroAdam
from shoal.optim.momo import MoMo, MoMoAdam
from shoal.optim.mup import mup
from shoal.optim.nadam import NAdam
from shoal.optim.nino import NiNo
from shoal.optim.novograd import NovoGrad
from shoal.optim.radam import RAdam
from shoal.optim.ranger21 import Ranger21
from shoal.optim.recombined import chain
from shoal.optim.rmsprop import RMSProp, stationary
from shoal.optim.rotated import Rotated, RotatedFrame, Rotation
from shoal.optim.sania import SANIA
from shoal.optim.schedules import (
    Schedule,
    constant,
    constant_warmup,
    gradual_warmup,
    large_minibatch,
    linear_scaling,
    power_decay,
    step_decay,
    warmup_cosine,
)
from shoal.optim.sgd import SGD
from shoal.optim.shampoo import Shampoo
from shoal.optim.soap import SOAP
from shoal.optim.subset_norm import AdamSNSM, SubsetNorm, SubspaceMomentum
from shoal.optim.swats import SWATS
from shoal.optim.ttur import TTUR, two_time_scales
from shoal.optim.upgd import UPGD
from shoal.optim.velocity import CorrectedVelocity, Velocity
from shoal.optim.xgrad import PredictedWeights, XGrad

__all__ = [
    "ADOPT",
    "APOLLO",
    "LAMB",
    "LARS",
    "LOMO",
    "MARS",
    "SANIA",
    "SGD",
    "SGDP",
    "SGDW",
    "SOAP",
    "SWATS",
    "TTUR",
    "UPGD",
    "AMSBound",
    "AMSGrad",
    "APOLLOMini",
    "AdaBound",
    "AdaFactor",
    "AdaFisher",
    "AdaFisherW",
    "AdaHessian",
    "AdaLomo",
    "AdaMax",
    "AdaMod",
    "AdaSGD",
    "Adadelta",
    "Adagrad",
    "Adam",
    "AdamAtan2",
    "AdamCM",
    "AdamMini",
    "AdamNC",
    "AdamP",
    "AdamSNSM",
    "AdamScaling",
    "AdamW",
    "BAdam",
    "Cautious",
    "CautiousMask",
    "Chain",
    "ClippedAdam",
    "CoordinateClip",
    "CoordinateClipping",
    "CorrectedVelocity",
    "CoupledAdam",
    "DAdaptAdam",
    "DAdaptSGD",
    "DecayAfter",
    "DecoupledDecay",
    "DiffGrad",
    "DoG",
    "EXAdam",
    "FAdam",
    "GradualUnfreezing",
    "LDoG",
    "LaProp",
    "Lion",
    "Lookahead",
    "MarsGradient",
    "MicroAdam",
    "MoMo",
    "MoMoAdam",
    "Momentum",
    "NAdam",
    "NiNo",
    "NovoGrad",
    "Optimizer",
    "Param",
    "PredictedWeights",
    "RAdam",
    "RMSProp",
    "Ranger21",
    "Rotated",
    "RotatedFrame",
    "Rotation",
    "Rule",
    "ScalarScaling",
    "Schedule",
    "Shampoo",
    "Slot",
    "SlowWeights",
    "SubsetNorm",
    "SubspaceMomentum",
    "Transform",
    "Velocity",
    "WeightDecay",
    "XGrad",
    "chain",
    "constant",
    "constant_warmup",
    "embedding_groups",
    "freeze_embeddings",
    "gradual_warmup",
    "large_minibatch",
    "linear_scaling",
    "mup",
    "polynomial_average",
    "power_decay",
    "second_derivatives",
    "stationary",
    "step_decay",
    "two_time_scales",
    "unfreeze",
    "warmup_cosine",
    "warmup_polynomial",
]
