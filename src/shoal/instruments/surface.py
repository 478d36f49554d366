"""The mean loss of a model on a batch, as a function of one flat vector of its trainable parameters.

Products with the Hessian are exact: the gradient's component along v is differentiated once more (B. A. Pearlmutter,
"Fast Exact Multiplication by the Hessian", 1994).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from shoal.learning.task import Loss, Task
from shoal.optim import second_derivatives
from shoal.tensors.random import key, permutation


class Surface:
    """f(w), the mean loss of `model` on fixed samples; w [d] are its trainable parameters in order of their names.

    The model is looked at in evaluation mode (no dropout, batch statistics as stored) and left as it was: its modes,
    values, buffers and gradients stay. Wherever `at` is None, w is what the model holds at the time of the call.

    Args:
        model: at least one of its parameters must require a gradient; of any device and dtype. What does not require
            one keeps its value.
        loss: `loss(output, target) -> [N]`, one loss a sample.
        inputs: [N, ...], on the model's device.
        targets: [N, ...].
        chunk: how many samples are computed at once, >= 1; None: all N. Results differ by rounding alone.

    Attributes:
        model: as given.
        shapes: of the trainable parameters by name, in the order of w.
        size: d.

    Raises:
        ValueError: nothing is trainable, there are no samples, N differs, or `chunk` is not positive.
    """

    def __init__(
        self, model: nn.Module, loss: Loss, inputs: Tensor, targets: Tensor, *, chunk: int | None = None
    ) -> None:
        if len(inputs) != len(targets) or len(inputs) == 0:
            raise ValueError(f"inputs, targets: got {len(inputs)} and {len(targets)}; equal lengths >= 1 are allowed")
        if chunk is not None and chunk < 1:
            raise ValueError(f"chunk: got {chunk}; None or a number of samples >= 1 is allowed")
        self.model, self._loss, self._inputs, self._targets = model, loss, inputs, targets
        self._chunk = len(inputs) if chunk is None else chunk
        self.shapes = {name: p.shape for name, p in model.named_parameters() if p.requires_grad}
        if not self.shapes:
            raise ValueError("model: got no trainable parameter; at least one that requires a gradient is needed")
        self.size = sum(shape.numel() for shape in self.shapes.values())

    @classmethod
    def of(
        cls,
        task: Task,
        model: nn.Module,
        *,
        split: str = "train",
        size: int | None = None,
        seed: int = 0,
        chunk: int | None = 256,
    ) -> Surface:
        """The surface of a task's loss on its data, which are brought to the model's device.

        Args:
            task: gives loss and data.
            model: a module of the task, such as `task.initial(seed)`.
            split: "train" or "test".
            size: how many samples, drawn without repetition under `seed`; None: all, in their order.
            seed: >= 0.
            chunk: as above.
        """
        if split not in ("train", "test"):
            raise ValueError(f"split: got {split!r}; 'train' or 'test' is allowed")
        data = task.dataset.train if split == "train" else task.dataset.test
        if size is not None:
            if not 1 <= size <= len(data):
                raise ValueError(f"size: got {size}; None or a number in [1, {len(data)}] is allowed")
            data = data[permutation(key(seed, "surface"), len(data))[:size]]
        device = next(model.parameters()).device
        return cls(model, task.loss, data.inputs.to(device), data.targets.to(device), chunk=chunk)

    def __len__(self) -> int:
        """The number of samples N."""
        return len(self._inputs)

    def vector(self) -> Tensor:
        """What the model's trainable parameters are, [d]: a copy."""
        return torch.cat([p.detach().flatten() for p in self._trainable().values()])

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of a vector [d] by the parameters' names."""
        self._check("vector", vector, (self.size,))
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}

    def value(self, at: Tensor | None = None) -> float:
        """f(at)."""
        return float(self.losses(at).double().mean())

    def losses(self, at: Tensor | None = None) -> Tensor:
        """The loss of each sample, [N]."""
        with torch.no_grad():
            leaves = self._leaves(at)
            return torch.cat(list(self._chunks(leaves)))

    def gradient(self, at: Tensor | None = None) -> Tensor:
        """The gradient of f, [d]."""
        leaves = self._leaves(at)
        vector = self.vector()
        total = torch.zeros_like(vector, dtype=_wide(vector))
        with torch.enable_grad():
            for losses in self._chunks(leaves):
                total += _flat(_gradients(losses.sum(), leaves))
        return (total / len(self)).to(vector.dtype)

    def hvp(self, v: Tensor, at: Tensor | None = None) -> Tensor:
        """The Hessian of f times v: [d], or [k, d] for k vectors, which share one forward and backward pass."""
        rows = v if v.dim() == 2 else v[None]
        self._check("v", v, (self.size,) if v.dim() == 1 else (len(rows), self.size))
        leaves = self._leaves(at)
        vector = self.vector()
        total = torch.zeros(len(rows), self.size, dtype=_wide(vector), device=vector.device)
        directions = [list(self.split(row.detach()).values()) for row in rows]
        with torch.enable_grad():
            for losses in self._chunks(leaves):
                first = _gradients(losses.sum(), leaves, again=True)
                for row, direction in zip(total, directions, strict=True):
                    slopes = [(g * part.to(g)).sum() for g, part in zip(first, direction, strict=True)]
                    row += _flat(_gradients(sum(slopes, torch.zeros_like(slopes[0])), leaves, keep=True))
        return (total / len(self)).view(v.shape).to(vector.dtype)

    def _trainable(self) -> dict[str, Tensor]:
        return {name: p for name, p in self.model.named_parameters() if name in self.shapes}

    def _leaves(self, at: Tensor | None) -> dict[str, Tensor]:
        """The parameters' values at a point, as tensors of their own that a gradient can be taken for."""
        held = self._trainable()
        values = held if at is None else self.split(at)
        return {name: value.detach().to(held[name]).clone().requires_grad_() for name, value in values.items()}

    def _chunks(self, leaves: dict[str, Tensor]) -> Iterator[Tensor]:
        """The losses of one chunk of samples after another."""
        for inputs, targets in zip(self._inputs.split(self._chunk), self._targets.split(self._chunk), strict=True):
            with _as_it_is_used(self.model), second_derivatives():
                buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
                output = torch.func.functional_call(self.model, {**buffers, **leaves}, (inputs,))
                losses = self._loss(output, targets)
            if losses.shape != (len(inputs),):
                raise ValueError(
                    f"loss: got a result of shape {tuple(losses.shape)} for {len(inputs)} samples; one loss a sample "
                    '(reduction="none") is needed'
                )
            yield losses

    def _check(self, name: str, got: Tensor, shape: tuple[int, ...]) -> None:
        if got.shape != shape:
            raise ValueError(f"{name}: got the shape {tuple(got.shape)}; {shape} is allowed")


def _gradients(of: Tensor, leaves: dict[str, Tensor], *, again: bool = False, keep: bool = False) -> list[Tensor]:
    """Gradients for `leaves`, zero for those that `of` does not depend on; `again`: to be differentiated once more."""
    points = list(leaves.values())
    if not of.requires_grad:
        return [torch.zeros_like(p) for p in points]
    found = torch.autograd.grad(of, points, create_graph=again, retain_graph=again or keep, allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for p, g in zip(points, found, strict=True)]


def _wide(vector: Tensor) -> torch.dtype:
    """What chunks are added up in: float32 or wider."""
    return torch.promote_types(vector.dtype, torch.float32)


def _flat(parts: list[Tensor]) -> Tensor:
    return torch.cat([part.detach().flatten() for part in parts])


@contextmanager
def _as_it_is_used(model: nn.Module) -> Iterator[None]:
    """Evaluation mode; each part's own mode comes back."""
    modes = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
