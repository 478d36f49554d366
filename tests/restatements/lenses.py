"""Lenses for gradient-based learning as plain functions, restated in float64 NumPy.

G. S. H. Cruttwell, B. Gavranovic, N. Ghani, P. Wilson, F. Zanasi, "Categorical Foundations of Gradient-Based Learning",
ESOP 2022, arXiv:2103.01931 (2021).

    lens A -> B:  fwd: A -> B,  rev: (A, B') -> A'
    f ; g         fwd(a) = g.fwd(f.fwd(a));            rev(a, c') = f.rev(a, g.rev(f.fwd(a), c'))
    f (x) g       fwd((a, c)) = (f.fwd(a), g.fwd(c));  rev((a, c), (b', d')) = (f.rev(a, b'), g.rev(c, d'))
    parametric map A -> B of parameters P: a lens P x A -> B;   composite: parameters (Q, P), Q of the second map
    update        a lens S x P -> P; its rev takes ((s, p), p') to (new s, new p)
    learner       update ; model ; loss ; cap:  p' reaches the update already multiplied by -eta

    loss, input (y^, y):  MSE |y^ - y|^2 / 2, rev l' (y^ - y);   CE: rev l' (softmax(y^) - y);   cap: rev = -eta
    descent    fwd p;               p + p'
    momentum   fwd p;               v = gamma v + p';  p + v
    Nesterov   fwd p + gamma v;     v = gamma v + p';  p + v
    Adagrad    fwd p;               G = G + p'^2;      p + p' / sqrt(G + delta)
    Adam       fwd p;               m = b1 m + (1 - b1) p',  v = b2 v + (1 - b2) p'^2;   p + m^ / (sqrt(v^) + delta)
    Boolean    p xor p';            rev of f is the transposed Jacobian over Z2;  cap: the loss itself

Choices where the source leaves or contradicts itself:

* The target is an input of the loss too; what comes back to it is the derivative, -l' (y^ - y) and -l' log softmax(y^).
* Adagrad and Adam divide p' by its own size, so that eta cancels but for delta: `rate` multiplies what they add;
  torch's have eta = 1 and `rate`. Adam's delta is beside the root, Adagrad's within it.
* Adam's state is (m, v, t). fwd of an update with state does not change it.
* Sums over samples: the cap's l' = -eta is per loss; a mean over a batch is a part of the loss (`mse`, `cross_entropy`
  here sum over all entries).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Lens:
    fwd: Callable[[Any], Any]
    rev: Callable[[Any, Any], Any]


identity = Lens(lambda a: a, lambda a, b: b)


def compose(f: Lens, g: Lens) -> Lens:
    """First f, then g."""
    return Lens(lambda a: g.fwd(f.fwd(a)), lambda a, c: f.rev(a, g.rev(f.fwd(a), c)))


def tensor(f: Lens, g: Lens) -> Lens:
    return Lens(lambda x: (f.fwd(x[0]), g.fwd(x[1])), lambda x, y: (f.rev(x[0], y[0]), g.rev(x[1], y[1])))


def compose_parametric(f: Lens, g: Lens) -> Lens:
    """f: P x A -> B, then g: Q x B -> C; the composite is (Q, P) x A -> C."""

    def fwd(x: Any) -> Any:
        (q, p), a = x
        return g.fwd((q, f.fwd((p, a))))

    def rev(x: Any, c: Any) -> Any:
        (q, p), a = x
        dq, db = g.rev((q, f.fwd((p, a))), c)
        dp, da = f.rev((p, a), db)
        return (dq, dp), da

    return Lens(fwd, rev)


def reparametrise(f: Lens, r: Lens) -> Lens:
    """r: P' -> P in front of the parameters of f: P x A -> B."""
    return compose(tensor(r, identity), f)


# maps; a batch is [n, ...]

linear = Lens(lambda x: x[1] @ x[0].T, lambda x, y: (y.T @ x[1], y @ x[0]))  # (W [b, a], x [n, a]) -> [n, b]
bias = Lens(lambda x: x[1] + x[0], lambda x, y: (y.sum(axis=0), y))  # (b [k], x [n, k]) -> [n, k]
tanh = Lens(np.tanh, lambda a, y: y * (1 - np.tanh(a) ** 2))
relu = Lens(lambda a: np.maximum(a, 0), lambda a, y: y * (a > 0))


def unparametrised(f: Lens) -> Lens:
    """A -> B as a parametric map whose parameters are ()."""
    return Lens(lambda x: f.fwd(x[1]), lambda x, y: ((), f.rev(x[1], y)))


def _convolve(x: Any) -> Array:
    kernel, images = x
    h, w = images.shape[2] - kernel.shape[2] + 1, images.shape[3] - kernel.shape[3] + 1
    out = np.zeros((len(images), len(kernel), h, w))
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            out += np.einsum("oc,nchw->nohw", kernel[:, :, i, j], images[:, :, i : i + h, j : j + w])
    return out


def _convolve_back(x: Any, y: Array) -> tuple[Array, Array]:
    kernel, images = x
    h, w = y.shape[2:]
    d_kernel, d_images = np.zeros_like(kernel), np.zeros_like(images)
    for i in range(kernel.shape[2]):
        for j in range(kernel.shape[3]):
            d_kernel[:, :, i, j] = np.einsum("nohw,nchw->oc", y, images[:, :, i : i + h, j : j + w])
            d_images[:, :, i : i + h, j : j + w] += np.einsum("oc,nohw->nchw", kernel[:, :, i, j], y)
    return d_kernel, d_images


correlate = Lens(_convolve, _convolve_back)  # (kernel [o, c, kh, kw], images [n, c, h, w])

# losses (y^, y) -> number, and caps


def _softmax(x: Array) -> Array:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


mse = Lens(lambda x: 0.5 * np.sum((x[0] - x[1]) ** 2), lambda x, l: (l * (x[0] - x[1]), -l * (x[0] - x[1])))
cross_entropy = Lens(
    lambda x: -np.sum(x[1] * np.log(_softmax(x[0]))),
    lambda x, l: (l * (_softmax(x[0]) - x[1]), -l * np.log(_softmax(x[0]))),
)


def cap(eta: float) -> Lens:
    return Lens(lambda loss: (), lambda loss, unit: -eta)


# updates (s, p) -> p

descent = Lens(lambda x: x[1], lambda x, d: (x[0], x[1] + d))


def momentum(gamma: float) -> Lens:
    def rev(x: Any, d: Array) -> Any:
        v, p = x
        v = gamma * v + d
        return v, p + v

    return Lens(lambda x: x[1], rev)


def nesterov(gamma: float) -> Lens:
    return Lens(lambda x: x[1] + gamma * x[0], momentum(gamma).rev)


def adagrad(delta: float = 1e-10, rate: float = 1.0) -> Lens:
    def rev(x: Any, d: Array) -> Any:
        G, p = x
        G = G + d**2
        return G, p + rate * d / np.sqrt(G + delta)

    return Lens(lambda x: x[1], rev)


def adam(beta1: float = 0.9, beta2: float = 0.999, delta: float = 1e-8, rate: float = 1e-3) -> Lens:
    def rev(x: Any, d: Array) -> Any:
        (m, v, t), p = x
        m, v, t = beta1 * m + (1 - beta1) * d, beta2 * v + (1 - beta2) * d**2, t + 1
        step = m / (1 - beta1**t) / (np.sqrt(v / (1 - beta2**t)) + delta)
        return (m, v, t), p + rate * step

    return Lens(lambda x: x[1], rev)


xor = Lens(lambda x: x[1], lambda x, d: (x[0], np.logical_xor(x[1], d)))
boolean_cap = Lens(lambda difference: (), lambda difference, unit: difference)
boolean_difference = Lens(lambda x: np.logical_xor(x[0], x[1]), lambda x, l: (l, l))
lookup = Lens(  # (table [2^n], one-hot address [2^n]) -> bit: the polynomial sum_x p_x [address = x]
    lambda x: np.logical_xor.reduce(np.logical_and(x[0], x[1])),
    lambda x, y: (np.logical_and(x[1], y), np.logical_and(x[0], y)),
)


def learner(update: Lens, model: Lens, loss: Lens, cap: Lens) -> Lens:
    """((s, p), a), b -> (); rev gives ((new s, new p), a'), b'."""
    updated = compose(tensor(update, identity), model)
    return compose(compose(tensor(updated, identity), loss), cap)


def step(learner: Lens, state: Any, p: Any, a: Any, b: Any) -> tuple[Any, Any]:
    """One step of learning: new state, new parameters."""
    ((state, p), _), _ = learner.rev((((state, p), a), b), ())
    return state, p


def dream(update: Lens, model: Lens, loss: Lens, cap: Lens) -> Lens:
    """(p, (s, a)), b -> (): the same with the update at the input; rev gives (p', (new s, new a)), b'."""
    updated = compose(tensor(identity, update), model)
    return compose(compose(tensor(updated, identity), loss), cap)
