"""Names of torch's functions that neural graphs know beside layers: what each does to the neurons of an activation.

KEEPS leaves every entry where it is, MOVES moves entries, POOLS keeps channels, REDUCES drops dimensions that are not
of neurons, ADDS and SCALES combine two, ASKS returns no activation.
"""

KEEPS = frozenset(
    [
        "relu",
        "relu_",
        "gelu",
        "silu",
        "tanh",
        "sigmoid",
        "elu",
        "leaky_relu",
        "hardtanh",
        "hardswish",
        "hardsigmoid",
        "relu6",
        "softplus",
        "mish",
        "selu",
        "celu",
        "abs",
        "softsign",
        "logsigmoid",
        "softmax",
        "log_softmax",
        "dropout",
        "dropout1d",
        "dropout2d",
        "alpha_dropout",
        "feature_alpha_dropout",
        "clone",
        "contiguous",
        "detach",
        "to",
        "float",
        "double",
        "half",
        "bfloat16",
        "type",
        "neg",
        "__neg__",
        "exp",
        "log",
        "sqrt",
        "square",
        "clamp",
        "pow",
        "__pow__",
        "masked_fill",
        "tanh_",
        "sigmoid_",
        "masked_fill_",
        "nan_to_num",
        "requires_grad_",
    ]
)
MOVES = frozenset(
    [
        "view",
        "reshape",
        "flatten",
        "unflatten",
        "permute",
        "transpose",
        "t",
        "squeeze",
        "unsqueeze",
        "unbind",
        "chunk",
        "split",
        "tensor_split",
        "__getitem__",
        "expand",
        "expand_as",
        "movedim",
        "swapaxes",
        "swapdims",
        "narrow",
        "select",
        "view_as",
        "reshape_as",
        "repeat",
        "tile",
        "flip",
        "roll",
        "ravel",
    ]
)
POOLS = frozenset(
    f"{kind}_pool{n}d" for kind in ("max", "avg", "adaptive_avg", "adaptive_max", "lp") for n in (1, 2, 3)
) | {"interpolate"}
REDUCES = frozenset({"mean", "sum", "amax", "amin", "logsumexp"})
ADDS = frozenset({"add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__rsub__", "__isub__"})
SCALES = frozenset(
    [
        "mul",
        "mul_",
        "__mul__",
        "__rmul__",
        "__imul__",
        "div",
        "div_",
        "true_divide",
        "__truediv__",
        "__rtruediv__",
        "__itruediv__",
    ]
)
ASKS = frozenset(
    [
        "size",
        "dim",
        "stride",
        "numel",
        "is_floating_point",
        "is_contiguous",
        "__len__",
        "ndimension",
        "is_complex",
        "get_device",
    ]
)
