"""What layers make of neurons: new ones, with an edge for each weight, as a forward pass is followed (tracing.py).

- Linear and convolution: an edge from each neuron in to each neuron out, kernels as slots. Where a flattened image
  enters a linear layer, a channel has one edge with all its positions as slots (several side by side, if they are more
  than an edge has).
- Bias, scale of a norm: edges from a node of their own. Positions, class tokens: from a node for each.
- Attention: `scaled_dot_product_attention` and `nn.MultiheadAttention`; see `Builder.attention`.
- Embeddings: edges from a node for each token or, if the numbers do not come from the input, position.

Each function stands for one of torch's: it gets the tracer, that function and its arguments, and returns its result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from shoal.optim.nino.graph import Kind

if TYPE_CHECKING:
    from shoal.optim.nino.tracing import Tracer


def _layer(tracer: Tracer, source: Tensor, weights: Tensor, bias: Any, kind: Kind) -> Tensor:
    """New neurons [O], which weights [O, I, S] lead to."""
    target = tracer.builder.group(len(weights))
    tracer.builder.dense(source, target, weights, kind)
    if bias is not None:
        tracer.attach(target, tracer.entries(bias), Kind.BIAS)
    return target


def linear(tracer: Tracer, func: Any, input: Tensor, weight: Tensor, bias: Any = None) -> Tensor:
    """`F.linear`."""
    entries = tracer.entries(weight)
    neurons = _layer(tracer, tracer.neurons(input, -1), entries[:, :, None], bias, Kind.LINEAR)
    result: Tensor = func(input, weight, bias)
    tracer.last(result, neurons)
    return result


def product(tracer: Tracer, func: Any, input: Tensor, other: Tensor) -> Tensor:
    """`activation @ matrix`."""
    if (shadow := tracer.shadow(other)) is None or shadow.neurons or other.dim() != 2:
        raise tracer.refused("a matrix product of activations (attention is known as scaled_dot_product_attention)")
    entries = shadow.ids.T
    neurons = _layer(tracer, tracer.neurons(input, -1), entries[:, :, None], None, Kind.LINEAR)
    result: Tensor = func(input, other)
    tracer.last(result, neurons)
    return result


def addmm(tracer: Tracer, func: Any, input: Tensor, mat1: Tensor, mat2: Tensor, **scales: Any) -> Tensor:
    """`bias + activation @ matrix`."""
    neurons = _layer(tracer, tracer.neurons(mat1, -1), tracer.entries(mat2).T[:, :, None], input, Kind.LINEAR)
    result: Tensor = func(input, mat1, mat2, **scales)
    tracer.last(result, neurons)
    return result


def convolution(
    tracer: Tracer, func: Any, input: Tensor, weight: Tensor, bias: Any = None, *args: Any, **kwargs: Any
) -> Any:
    """`F.conv1d` to `F.conv3d`, with groups."""
    result = func(input, weight, bias, *args, **kwargs)
    source, entries = tracer.neurons(input, 1), tracer.entries(weight).flatten(2)
    groups = len(source) // entries.shape[1]
    target = tracer.builder.group(len(entries))
    for inputs, outputs, part in zip(source.chunk(groups), target.chunk(groups), entries.chunk(groups), strict=True):
        tracer.builder.dense(inputs, outputs, part, Kind.CONVOLUTION)
    if bias is not None:
        tracer.attach(target, tracer.entries(bias), Kind.BIAS)
    tracer.channels(result, target)
    return result


def embedding(tracer: Tracer, func: Any, input: Tensor, weight: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`F.embedding`."""
    entries = tracer.entries(weight)
    tokens, neurons = tracer.builder.group(len(entries)), tracer.builder.group(entries.shape[1])
    of_input = tracer.shadow(input) is not None
    tracer.builder.dense(tokens, neurons, entries.T[:, :, None], Kind.TOKEN if of_input else Kind.POSITION)
    if of_input:
        tracer.builder.token |= {node: number for number, node in enumerate(tokens.tolist(), 1)}
    else:
        tracer.positions |= set(neurons.tolist())
    result = func(input, weight, *args, **kwargs)
    tracer.last(result, neurons)
    return result


def _normalised(tracer: Tracer, input: Tensor, dim: int, weight: Any, bias: Any) -> Tensor:
    neurons = tracer.neurons(input, dim)
    for p, kind in ((weight, Kind.SCALE), (bias, Kind.BIAS)):
        if p is not None:
            tracer.attach(neurons, tracer.entries(p).flatten(), kind)
    result = torch.empty_like(input)
    shadow = tracer.shadow(input)
    assert shadow is not None
    tracer.note(result, shadow.ids.clone())
    return result


def layer_norm(
    tracer: Tracer,
    func: Any,
    input: Tensor,
    normalized_shape: Any,
    weight: Any = None,
    bias: Any = None,
    eps: Any = None,
) -> Tensor:
    """`F.layer_norm` and `F.rms_norm` over the last dimension; over more of them only without parameters."""
    if math.prod(normalized_shape[:-1]) != 1 and weight is not None:
        raise tracer.refused("a norm with parameters over several dimensions")
    return _normalised(tracer, input, -1, weight, bias)


def rms_norm(
    tracer: Tracer, func: Any, input: Tensor, normalized_shape: Any, weight: Any = None, eps: Any = None
) -> Tensor:
    """`F.rms_norm`."""
    return layer_norm(tracer, func, input, normalized_shape, weight)


def batch_norm(
    tracer: Tracer,
    func: Any,
    input: Tensor,
    mean: Any,
    var: Any,
    weight: Any = None,
    bias: Any = None,
    *args: Any,
    **kw: Any,
) -> Tensor:
    """`F.batch_norm` and `F.instance_norm`."""
    return _normalised(tracer, input, 1, weight, bias)


def group_norm(
    tracer: Tracer, func: Any, input: Tensor, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    """`F.group_norm`."""
    return _normalised(tracer, input, 1, weight, bias)


def cat(tracer: Tracer, func: Any, tensors: Any, dim: int = 0) -> Tensor:
    """`torch.cat`; a parameter among activations is a row of tokens that does not come from the input."""
    result: Tensor = func(tensors, dim)
    shadows = [tracer.shadow(x) for x in tensors]
    found = [s for s in shadows if s is not None and s.neurons]
    if not found:
        raise tracer.refused("a parameter put together from others")
    ids = []
    for x, s in zip(tensors, shadows, strict=True):
        if s is None:
            ids.append(torch.full(x.shape, -1))
        elif s.neurons:
            ids.append(s.ids)
        else:
            neurons = tracer.neurons(found[0].of, -1).expand(x.shape)
            tracer.attach(neurons, s.ids, Kind.TOKEN)
            ids.append(neurons)
    tracer.note(result, torch.cat(ids, dim))
    return result


def attention(
    tracer: Tracer, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """`F.scaled_dot_product_attention`: [..., H, T, n]."""
    heads = [_heads(tracer, x) for x in (query, key, value)]
    if len({h.shape[0] for h in heads}) > 1:
        raise tracer.refused("attention whose heads share keys or values")
    tracer.builder.attention(*heads)
    result: Tensor = func(query, key, value, *args, **kwargs)
    tracer.note(result, heads[2][:, None].expand(result.shape).clone())
    return result


def _heads(tracer: Tracer, x: Tensor) -> Tensor:
    """Neurons [H, n] of queries, keys or values."""
    shadow = tracer.shadow(x)
    if shadow is None or not shadow.neurons or bool((shadow.ids < 0).any()):
        raise tracer.refused("attention over what no layer has made")
    ids = shadow.ids if x.dim() > 3 else shadow.ids.unsqueeze(-3)
    ids = ids.reshape(-1, *ids.shape[-3:])
    if not bool((ids == ids[:1, :, :1]).all()):
        raise tracer.refused("attention along a dimension that holds neurons")
    return ids[0, :, 0]


def multi_head(tracer: Tracer, func: Any, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
    """`nn.MultiheadAttention`."""
    width, number, weight, bias, bias_k, bias_v, _, _, out, out_bias = args[:10]
    if weight is None or bias_k is not None or bias_v is not None:
        raise tracer.refused("attention with keys of another width, or with biases among its keys")
    matrices = tracer.entries(weight).chunk(3)
    biases = [None] * 3 if bias is None else list(tracer.entries(bias).chunk(3))
    made = []
    for x, matrix, own in zip((query, key, value), matrices, biases, strict=True):
        neurons = _layer(tracer, tracer.neurons(x, -1), matrix[:, :, None], None, Kind.LINEAR)
        if own is not None:
            tracer.attach(neurons, own, Kind.BIAS)
        made.append(neurons.view(number, width // number))
    tracer.builder.attention(*made)
    end = _layer(tracer, made[2].flatten(), tracer.entries(out)[:, :, None], out_bias, Kind.LINEAR)
    result = func(query, key, value, *args, **kwargs)
    tracer.last(result[0], end)
    return result


LAYERS: dict[str, Callable[..., Any]] = {
    "linear": linear,
    "matmul": product,
    "__matmul__": product,
    "mm": product,
    "addmm": addmm,
    "conv1d": convolution,
    "conv2d": convolution,
    "conv3d": convolution,
    "embedding": embedding,
    "layer_norm": layer_norm,
    "rms_norm": rms_norm,
    "batch_norm": batch_norm,
    "instance_norm": batch_norm,
    "group_norm": group_norm,
    "cat": cat,
    "concat": cat,
    "scaled_dot_product_attention": attention,
    "multi_head_attention_forward": multi_head,
}
