"""Small models for experiments. Each builder takes the dataset and returns a function that builds a fresh module."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from shoal.learning.data import Dataset
from shoal.optim.widths import attention_scale

Build = Callable[[], nn.Module]


def logistic(dataset: Dataset) -> Build:
    """Linear classifier: inputs -> classes."""
    inputs, classes = _width(dataset), _classes(dataset)
    return lambda: nn.Sequential(nn.Flatten(), nn.Linear(inputs, classes))


def mlp(dataset: Dataset, hidden: int = 64, depth: int = 1, activation: str = "relu") -> Build:
    """Multi-layer perceptron with `depth` hidden layers of `hidden` units; activation "relu", "tanh" or "gelu"."""
    kinds: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}
    if activation not in kinds:
        raise ValueError(f"activation: got {activation!r}; allowed are {', '.join(kinds)}")
    if hidden < 1 or depth < 1:
        raise ValueError(f"hidden, depth: got {hidden}, {depth}; at least 1 is allowed")
    inputs, classes = _width(dataset), _classes(dataset)

    def build() -> nn.Module:
        layers: list[nn.Module] = [nn.Flatten()]
        width = inputs
        for _ in range(depth):
            layers += [nn.Linear(width, hidden), kinds[activation]()]
            width = hidden
        return nn.Sequential(*layers, nn.Linear(width, classes))

    return build


class SmallCNN(nn.Module):
    """Two 3x3 convolutions with max-pooling, then a linear layer; inputs [B, side * side] or [B, 1, side, side]."""

    def __init__(self, side: int, classes: int, channels: int) -> None:
        super().__init__()
        self.side = side
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, 2 * channels, 3, padding=1)
        self.out = nn.Linear(2 * channels * (side // 4) ** 2, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = x.reshape(-1, 1, self.side, self.side)
        x = F.max_pool2d(F.relu(self.first(x)), 2)
        x = F.max_pool2d(F.relu(self.second(x)), 2)
        return self.out(x.flatten(1))  # type: ignore[no-any-return]


def cnn(dataset: Dataset, channels: int = 8) -> Build:
    """A small convolutional network for square grey images."""
    side, classes = _side(dataset), _classes(dataset)
    return lambda: SmallCNN(side, classes, channels)


class Block(nn.Module):
    """A pre-norm transformer block.

    At width `base_width` attention's logits are divided by the root of a head's dimension d, and at others by d in
    proportion, as muP asks for. None: by the root at every width.
    """

    def __init__(self, width: int, heads: int, causal: bool, base_width: int | None = None) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.scale = None if base_width is None else attention_scale(width // heads, base_width // heads)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[B, T, width] -> [B, T, width]."""
        b, t, w = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, w // self.heads).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=self.causal, scale=self.scale)
        x = x + self.proj(mixed.transpose(1, 2).reshape(b, t, w))
        return x + self.down(F.gelu(self.up(self.norm2(x))))  # type: ignore[no-any-return]


class ImageTransformer(nn.Module):
    """A transformer over the rows of a square image."""

    def __init__(
        self, side: int, classes: int, width: int, layers: int, heads: int, base_width: int | None = None
    ) -> None:
        super().__init__()
        self.side = side
        self.embed = nn.Linear(side, width)
        self.position = nn.Parameter(torch.randn(side, width) / math.sqrt(width))
        self.blocks = nn.ModuleList(Block(width, heads, False, base_width) for _ in range(layers))
        self.out = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """Logits [B, classes]."""
        x = self.embed(x.reshape(-1, self.side, self.side)) + self.position
        for block in self.blocks:
            x = block(x)
        return self.out(x.mean(1))  # type: ignore[no-any-return]


class CharacterTransformer(nn.Module):
    """A causal transformer over characters."""

    def __init__(
        self, symbols: int, context: int, width: int, layers: int, heads: int, base_width: int | None = None
    ) -> None:
        super().__init__()
        self.embed = nn.Embedding(symbols, width)
        self.position = nn.Parameter(torch.randn(context, width) / math.sqrt(width))
        self.blocks = nn.ModuleList(Block(width, heads, True, base_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, symbols)

    def forward(self, x: Tensor) -> Tensor:
        """int64 [B, T] -> logits [B, T, symbols]."""
        h = self.embed(x) + self.position[: x.shape[-1]]
        for block in self.blocks:
            h = block(h)
        return self.out(self.norm(h))  # type: ignore[no-any-return]


class VisionTransformer(nn.Module):
    """A transformer over the patches of a square image, read at a class token."""

    def __init__(
        self, side: int, classes: int, width: int, layers: int, heads: int, patch: int, base_width: int | None = None
    ) -> None:
        super().__init__()
        self.side, self.patch = side, patch
        self.patch_embed = nn.Linear(patch * patch, width)
        self.token = nn.Parameter(0.02 * torch.randn(1, width))
        self.position = nn.Parameter(0.02 * torch.randn((side // patch) ** 2 + 1, width))
        self.blocks = nn.ModuleList(Block(width, heads, False, base_width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        """[B, side * side] or [B, 1, side, side] -> logits [B, classes]."""
        n, p = self.side // self.patch, self.patch
        patches = x.reshape(-1, n, p, n, p).transpose(2, 3).reshape(-1, n * n, p * p)
        h = self.patch_embed(patches)
        h = torch.cat([self.token.expand(len(h), 1, -1), h], 1) + self.position
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h[:, 0]))  # type: ignore[no-any-return]


def vit(
    dataset: Dataset, width: int = 48, layers: int = 2, heads: int = 4, patch: int = 4, base_width: int | None = None
) -> Build:
    """A small vision transformer for square grey images, in square patches; `base_width` as of `Block`."""
    _heads(width, heads, base_width)
    side, classes = _side(dataset), _classes(dataset)
    if patch < 1 or side % patch:
        raise ValueError(f"patch: got {patch}; a divisor of the image's side of {side} is allowed")
    return lambda: VisionTransformer(side, classes, width, layers, heads, patch, base_width)


def transformer(
    dataset: Dataset, width: int = 32, layers: int = 2, heads: int = 4, base_width: int | None = None
) -> Build:
    """A small transformer: over characters for text, over pixel rows for images; `base_width` as of `Block`."""
    _heads(width, heads, base_width)
    if not dataset.train.inputs.is_floating_point():
        symbols, context = _classes(dataset), dataset.train.inputs.shape[1]
        return lambda: CharacterTransformer(symbols, context, width, layers, heads, base_width)
    side, classes = _side(dataset), _classes(dataset)
    return lambda: ImageTransformer(side, classes, width, layers, heads, base_width)


def _heads(width: int, heads: int, base_width: int | None) -> None:
    for name, value in (("width", width), ("base_width", base_width)):
        if value is not None and (value < 1 or value % heads):
            raise ValueError(f"{name}: got {value}; a multiple of heads = {heads} is allowed")


def _width(dataset: Dataset) -> int:
    return math.prod(dataset.train.inputs.shape[1:])


def _classes(dataset: Dataset) -> int:
    if dataset.classes is None:
        raise ValueError(f"task: {dataset.name} has no classes, and this model is a classifier")
    return dataset.classes


def _side(dataset: Dataset) -> int:
    width = _width(dataset)
    side = math.isqrt(width)
    if side * side != width:
        raise ValueError(f"model: needs square images; {dataset.name} has {width} inputs a sample")
    return side
