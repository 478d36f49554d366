"""Boolean circuits: polynomials over Z2, their reverse derivative, and lookup tables that learn.

    R[f](x, y') = J(x)^T y' over Z2

Values are bool tensors [..., n]. A polynomial is formal: x^2 is not x, although they agree on all bits, since the
derivative of the one is 2x = 0 and that of the other 1, and only so does the chain rule hold.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.lenses.lens import Back, Lens
from shoal.lenses.para import Para
from shoal.lenses.trees import Value

Monomial = tuple[int, ...]
"""Exponents of the variables."""


@dataclass(frozen=True)
class Polynomials:
    """A map of n bits to m bits.

    Attributes:
        inputs: n.
        outputs: for each of the m outputs the monomials that it is the sum of.
    """

    inputs: int
    outputs: tuple[frozenset[Monomial], ...]

    def __post_init__(self) -> None:
        for monomial in itertools.chain.from_iterable(self.outputs):
            if len(monomial) != self.inputs or any(e < 0 for e in monomial):
                raise ValueError(f"outputs: got exponents {monomial}; {self.inputs} numbers >= 0 are allowed")

    def __call__(self, x: Tensor) -> Tensor:
        """[..., n] -> [..., m]."""
        return torch.stack([_evaluate(output, x) for output in self.outputs], -1)

    def then(self, after: Polynomials) -> Polynomials:
        """The composite, by substitution: this one first.

        Raises:
            ValueError: numbers of bits differ.
        """
        if after.inputs != len(self.outputs):
            raise ValueError(f"after: got {after.inputs} inputs; {len(self.outputs)} are allowed")
        one: frozenset[Monomial] = frozenset({(0,) * self.inputs})
        outputs = []
        for output in after.outputs:
            total: frozenset[Monomial] = frozenset()
            for monomial in output:
                product = one
                for base, exponent in zip(self.outputs, monomial, strict=True):
                    for _ in range(exponent):
                        product = _product(product, base)
                total = total ^ product
            outputs.append(total)
        return Polynomials(self.inputs, tuple(outputs))

    def derivative(self, i: int) -> Polynomials:
        """By the i-th variable."""
        return Polynomials(
            self.inputs,
            tuple(
                frozenset((*m[:i], m[i] - 1, *m[i + 1 :]) for m in output if m[i] % 2 == 1) for output in self.outputs
            ),
        )

    @property
    def lens(self) -> Lens:
        """With the reverse derivative."""
        columns = [self.derivative(i) for i in range(self.inputs)]

        def run(x: Tensor) -> tuple[Tensor, Back]:
            def back(change: Tensor) -> Tensor:
                parts = [parity(column(x) & change) for column in columns]
                return torch.stack(parts, -1)

            return self(x), back

        return Lens(run)


def polynomials(inputs: int, *outputs: Sequence[Sequence[int]]) -> Polynomials:
    """Square-free ones: each output a list of monomials, each a list of the variables in it; [] is 1.

    >>> polynomials(2, [[0], [1]])(torch.tensor([True, True]))  # x0 + x1
    tensor([False])
    """
    return Polynomials(
        inputs,
        tuple(frozenset(tuple(int(i in monomial) for i in range(inputs)) for monomial in output) for output in outputs),
    )


def _evaluate(output: frozenset[Monomial], x: Tensor) -> Tensor:
    total = torch.zeros(x.shape[:-1], dtype=torch.bool, device=x.device)
    for monomial in output:
        taken = [i for i, e in enumerate(monomial) if e]
        total = total ^ x[..., taken].all(-1)
    return total


def _product(a: frozenset[Monomial], b: frozenset[Monomial]) -> frozenset[Monomial]:
    total: set[Monomial] = set()
    for p, q in itertools.product(a, b):
        total ^= {tuple(e + f for e, f in zip(p, q, strict=True))}
    return frozenset(total)


def parity(bits: Tensor) -> Tensor:
    """The sum over Z2 of the last axis."""
    return bits.sum(-1) % 2 == 1


def bits(count: int) -> Tensor:
    """All words of so many bits, in the order of the numbers that they are: bool [2^count, count]."""
    if count < 0:
        raise ValueError(f"count: got {count}; at least 0 is allowed")
    numbers = torch.arange(2**count)
    return (numbers[:, None] >> torch.arange(count - 1, -1, -1)) & 1 == 1


def lookup(inputs: int, outputs: int = 1) -> Para:
    """The table x -> p_x: parameters [2^inputs, outputs], at first 0; x [..., inputs] -> [..., outputs].

    As polynomials: sum over words s of p_s prod_i (x_i + s_i + 1), which is linear in p. Of a batch the changes add up
    over Z2.

    Raises:
        ValueError: a size outside its range.
    """
    if not 0 <= inputs <= 20 or outputs < 1:
        raise ValueError(f"inputs, outputs: got {inputs}, {outputs}; 0 to 20, and at least 1, are allowed")
    words = bits(inputs)

    def run(pair: Value) -> tuple[Tensor, Back]:
        table, x = pair
        at = words.to(x.device)
        matches = x[..., None, :] == at  # [..., 2^inputs, inputs]
        chosen = matches.all(-1)  # one word each

        def back(change: Tensor) -> Value:
            back_x = []
            flat, d = chosen.reshape(-1, len(at)), change.reshape(-1, outputs)
            own = parity((flat[:, :, None] & d[:, None, :]).permute(1, 2, 0))
            for i in range(inputs):  # the derivative of a word's product by x_i: the product of the other factors
                others = torch.cat([matches[..., :i], matches[..., i + 1 :]], -1).all(-1)
                column = parity((others[..., None] & table).transpose(-1, -2))
                back_x.append(parity(column & change))
            return own, torch.stack(back_x, -1) if back_x else torch.zeros_like(x)

        return parity((chosen[..., None] & table).transpose(-1, -2)), back

    return Para(Lens(run), torch.zeros(2**inputs, outputs, dtype=torch.bool))


difference = Lens(lambda pair: (pair[0] ^ pair[1], lambda change: (change, change)))
"""The loss over Z2: prediction + target, in every bit."""
