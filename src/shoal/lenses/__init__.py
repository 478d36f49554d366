"""Learning by composition: models, losses, rates and optimizers as lenses, over the reals and over bits.

    learner = step(mlp(4, 16, 3), cross_entropy, Adam.rule(lr=0.01))
    here = learner.start
    for x, y in batches:
        here = learner(here, x, y)

G. S. H. Cruttwell, B. Gavranović, N. Ghani, P. Wilson, F. Zanasi, "Categorical Foundations of Gradient-Based Learning",
ESOP 2022, arXiv:2103.01931.
"""

from shoal.lenses.layers import bias, conv2d, dense, flatten, linear, max_pool2d, mlp, relu, sigmoid, softmax, tanh
from shoal.lenses.learning import Learner, dream, dreaming, step, supervised
from shoal.lenses.lens import Lens, identity, lens, lens_of
from shoal.lenses.losses import ascent_rate, cross_entropy, dot, learning_rate, mse, whole_loss
from shoal.lenses.para import Para, load_into, para_of, para_of_module, plain, sequence
from shoal.lenses.updates import Update, adagrad, adam, descent, momentum, nesterov, rule, xor

__all__ = [
    "Learner",
    "Lens",
    "Para",
    "Update",
    "adagrad",
    "adam",
    "ascent_rate",
    "bias",
    "conv2d",
    "cross_entropy",
    "dense",
    "descent",
    "dot",
    "dream",
    "dreaming",
    "flatten",
    "identity",
    "learning_rate",
    "lens",
    "lens_of",
    "linear",
    "load_into",
    "max_pool2d",
    "mlp",
    "momentum",
    "mse",
    "nesterov",
    "para_of",
    "para_of_module",
    "plain",
    "relu",
    "rule",
    "sequence",
    "sigmoid",
    "softmax",
    "step",
    "supervised",
    "tanh",
    "whole_loss",
    "xor",
]
