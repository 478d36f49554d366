"""Small models, and permutations of their hidden neurons that leave what they compute as it is."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

State = dict[str, Tensor]


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))


class Residual(nn.Module):
    """Convolutions with a connection around one, batch norms, and a flattened image into a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm1 = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.second, self.norm2 = nn.Conv2d(4, 4, 5, padding=2, bias=False), nn.BatchNorm2d(4)
        self.out = nn.Linear(4 * 9, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.norm1(self.first(x)))
        x = F.max_pool2d(F.relu(x + self.norm2(self.second(x))), 2)
        return self.out(x.flatten(1))  # type: ignore[no-any-return]


class Transformer(nn.Module):
    """Tokens, positions, one pre-norm block with two heads."""

    def __init__(self, width: int = 6, heads: int = 2) -> None:
        super().__init__()
        self.heads = heads
        self.embed, self.position = nn.Embedding(7, width), nn.Embedding(3, width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 8), nn.Linear(8, width)
        self.out = nn.Linear(width, 7, bias=False)

    def forward(self, tokens: Tensor) -> Tensor:
        b, t = tokens.shape
        x = self.embed(tokens) + self.position(torch.arange(t, device=tokens.device))
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.proj(mixed.transpose(1, 2).reshape(b, t, -1))
        return self.out(x + self.down(F.gelu(self.up(self.norm2(x)))))  # type: ignore[no-any-return]


def permuted_perceptron(state: State) -> State:
    p, q = torch.tensor([3, 1, 5, 0, 2, 4]), torch.tensor([4, 2, 0, 1, 3])
    return state | {
        "1.weight": state["1.weight"][p],
        "1.bias": state["1.bias"][p],
        "3.weight": state["3.weight"][q][:, p],
        "3.bias": state["3.bias"][q],
        "5.weight": state["5.weight"][:, q],
    }


def permuted_residual(state: State) -> State:
    """Channels on both sides of the connection move together."""
    p = torch.tensor([2, 0, 3, 1])
    moved = {name: value[p] for name, value in state.items() if value.shape[:1] == (4,)}
    moved["second.weight"] = moved["second.weight"][:, p]
    moved["out.weight"] = state["out.weight"].view(3, 4, 9)[:, p].reshape(3, 36)
    return state | moved


def permuted_transformer(state: State) -> State:
    """The stream, the hidden layer, the heads, and values within them."""
    stream, hidden = torch.tensor([5, 2, 0, 1, 4, 3]), torch.tensor([7, 0, 5, 2, 3, 1, 6, 4])
    keys, values = torch.tensor([4, 5, 3, 1, 0, 2]), torch.tensor([3, 5, 4, 2, 0, 1])  # heads change places
    rows = torch.cat([keys, keys + 6, values + 12])
    moved = {name: state[name][..., stream] for name in state if name.startswith(("embed", "position", "norm"))}
    moved["qkv.weight"], moved["qkv.bias"] = state["qkv.weight"][rows][:, stream], state["qkv.bias"][rows]
    moved["proj.weight"], moved["proj.bias"] = state["proj.weight"][stream][:, values], state["proj.bias"][stream]
    moved["up.weight"], moved["up.bias"] = state["up.weight"][hidden][:, stream], state["up.bias"][hidden]
    moved["down.weight"], moved["down.bias"] = state["down.weight"][stream][:, hidden], state["down.bias"][stream]
    moved["out.weight"] = state["out.weight"][:, stream]
    return state | moved


MODELS = {
    "perceptron": (perceptron, torch.zeros(1, 4), permuted_perceptron),
    "residual": (Residual, torch.zeros(1, 2, 6, 6), permuted_residual),
    "transformer": (Transformer, torch.zeros(1, 3, dtype=torch.int64), permuted_transformer),
}
