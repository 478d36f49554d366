"""Everything that can be named on the command line or in a settings file, and how names are read.

This module imports nothing heavy: it knows where things are, and looks them up only when they are used.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.codecs import CODEC_WRAPPERS, CODECS
from shoal.entry import Around, Entry, Table, Wrapped, Wrapping
from shoal.optimizers import AROUND_MODELS, OPTIMIZERS
from shoal.optimizers import WRAPPERS as OPTIMIZER_WRAPPERS

__all__ = ["KINDS", "WRAPPERS", "Entry", "Spec", "Table", "call", "find", "literal", "parse", "suggestion"]


PROTOCOLS: Table = {
    "gossip": Entry("shoal.protocols:Gossip", "local steps, then the mean with the neighbours", ("steps",)),
    "dsgd": Entry(
        "shoal.protocols:DSGD",
        "decentralised SGD: mixed models minus gradients at the unmixed ones",
        ("steps",),
    ),
    "pairwise": Entry("shoal.protocols:Pairwise", "asynchronous gossip between pairs of neighbours", ("steps",)),
    "modest": Entry(
        "shoal.protocols:MoDeST",
        "samples that every peer works out for itself train, and a few of the next one average",
        ("sample", "aggregators"),
    ),
    "fedavg": Entry(
        "shoal.protocols:FedAvg", "a server averages the models of sampled clients", ("fraction", "epochs")
    ),
    "fedvote": Entry(
        "shoal.protocols:FedVote", "clients vote on binary or ternary weights", ("fraction", "steps", "kind")
    ),
    "decavg": Entry(
        "shoal.protocols:DecAvg", "averaging by amount of data, then local steps; peers may be relays", ("steps",)
    ),
    "parallel-sgd": Entry("shoal.protocols:ParallelSGD", "one model, the mean of all peers' gradients in each step"),
    "variance-corrected": Entry(
        "shoal.protocols:VarianceCorrected",
        "gossip that restores the layers' variance after each mean; peers may start anywhere",
        ("steps", "c", "target"),
    ),
    "local-sgd": Entry(
        "shoal.protocols:LocalSGD",
        "many local steps, then an outer Nesterov step along their mean (DiLoCo)",
        ("steps", "outer_lr", "outer_momentum"),
    ),
    "async-local-sgd": Entry(
        "shoal.protocols:AsyncLocalSGD",
        "local SGD in which nobody waits: delayed Nesterov, and steps by speed",
        ("steps", "outer_lr", "outer_momentum"),
    ),
    "proxskip-vip": Entry(
        "shoal.protocols:ProxSkipVIP", "local steps with control variates, for games too", ("gamma", "p", "estimator")
    ),
    "masha1": Entry(
        "shoal.protocols:MASHA1", "compressed extragradient for games, with unbiased codecs", ("gamma", "tau")
    ),
    "masha2": Entry(
        "shoal.protocols:MASHA2", "compressed extragradient for games, with error feedback", ("gamma", "tau")
    ),
    "extragradient": Entry("shoal.protocols:Extragradient", "two gradients a step, for games", ("gamma",)),
    "savic": Entry(
        "shoal.protocols:SAVIC", "local SGD scaled by a diagonal that is renewed at averages", ("steps", "scaling")
    ),
    "one-byte": Entry(
        "shoal.protocols:OneByte", "slopes along shared random directions, a byte each", ("samples", "lr", "eps")
    ),
    "terngrad": Entry(
        "shoal.protocols:TernGrad", "gradients in three levels up, their whole-number sum down", ("clip",)
    ),
    "distributed-lion": Entry(
        "shoal.protocols:DistributedLion", "Lion by the workers' signs: their majority, or their average", ("lr",)
    ),
    "onebit-adam": Entry(
        "shoal.protocols:OneBitAdam", "Adam, then a bit an entry of the momentum with error feedback", ("lr", "warmup")
    ),
    "demo": Entry(
        "shoal.protocols:DeMo", "signs of the strongest frequencies of everybody's momentum", ("lr", "k", "decay")
    ),
    "isolated": Entry("shoal.protocols:Isolated", "everybody alone: the floor", ("steps",)),
    "centralised": Entry("shoal.protocols:Centralised", "all data on one machine: the oracle", ("steps",)),
}

TASKS: Table = {
    "fashion-mnist": Entry("shoal.simulation.tasks:fashion_mnist", "grey images of clothes, 10 classes, 28 x 28"),
    "mnist": Entry("shoal.simulation.tasks:mnist", "handwritten digits, 28 x 28"),
    "digits": Entry("shoal.simulation.tasks:digits", "1,797 handwritten digits, 8 x 8, embedded"),
    "text": Entry("shoal.simulation.tasks:text", "next character of a text", ("path",)),
    "quadratic": Entry(
        "shoal.simulation.tasks:quadratic", "quadratic with a known optimum", ("dimension", "condition")
    ),
    "game": Entry(
        "shoal.simulation.tasks:game", "quadratic game of two players with a known saddle point", ("dimension",)
    ),
    "gan": Entry("shoal.simulation.tasks:gan", "a GAN that learns Gaussians on a circle", ("modes",)),
    "logistic-regression": Entry(
        "shoal.simulation.tasks:logistic_regression",
        "logistic regression with a known optimum",
        ("dimension",),
    ),
    "heavy-tail": Entry(
        "shoal.simulation.tasks:heavy_tail", "labels of heavy-tailed classes, to be learned by heart", ("size",)
    ),
    "barcoded": Entry(
        "shoal.simulation.tasks:barcoded", "Fashion-MNIST, half of it in rare classes by a barcode", ("bits", "copies")
    ),
    "opposing": Entry(
        "shoal.simulation.tasks:opposing", "a regression with outliers that oppose each other", ("samples",)
    ),
}

MODELS: Table = {
    "mlp": Entry("shoal.learning.models:mlp", "multi-layer perceptron", ("hidden", "depth")),
    "logistic": Entry("shoal.learning.models:logistic", "linear classifier"),
    "cnn": Entry("shoal.learning.models:cnn", "two convolutions and a linear layer", ("channels",)),
    "transformer": Entry(
        "shoal.learning.models:transformer", "small transformer over rows or characters", ("width", "layers")
    ),
    "vit": Entry("shoal.learning.models:vit", "small vision transformer over patches", ("width", "layers", "patch")),
}

PARTITIONS: Table = {
    "iid": Entry("shoal.learning.data:iid", "equal shares at random"),
    "dirichlet": Entry("shoal.learning.data:dirichlet", "label skew: class shares from a Dirichlet", ("alpha",)),
    "shards": Entry("shoal.learning.data:shards", "label skew: sorted by label, a few shards each", ("per_peer",)),
    "classes": Entry("shoal.learning.data:classes", "label skew: a few classes each", ("per_peer",)),
    "quantity": Entry("shoal.learning.data:quantity", "size skew: sizes from a Dirichlet", ("alpha",)),
    "feature-shift": Entry("shoal.learning.data:feature_shift", "inputs changed peer by peer", ("kind", "strength")),
    "contiguous": Entry("shoal.learning.data:contiguous", "equal blocks in the data's own order"),
}

TOPOLOGIES: Table = {
    "complete": Entry("shoal.topology:complete", "everybody with everybody"),
    "star": Entry("shoal.topology:star", "one hub", ("hub",)),
    "ring": Entry("shoal.topology:ring", "two neighbours each"),
    "torus": Entry("shoal.topology:torus", "a grid that closes on itself, four neighbours each"),
    "exponential": Entry("shoal.topology:exponential", "peers at distances 1, 2, 4, 8, ... (directed)"),
    "one-peer-exponential": Entry("shoal.topology:one_peer_exponential", "one of these distances a round, in turn"),
    "erdos-renyi": Entry("shoal.topology:erdos_renyi", "each edge with probability p", ("p",)),
    "barabasi-albert": Entry("shoal.topology:barabasi_albert", "scale-free, m edges a newcomer", ("m",)),
    "watts-strogatz": Entry("shoal.topology:watts_strogatz", "small world: k neighbours, rewired with p", ("k", "p")),
    "random-regular": Entry("shoal.topology:random_regular", "degree neighbours each, at random", ("degree",)),
    "random-matching": Entry("shoal.topology:random_matching", "random pairs, new ones each round", ("rounds",)),
    "file": Entry("shoal.topology:from_file", "edge list or adjacency matrix", ("path",)),
}

NETWORKS: Table = {
    name: Entry("shoal.engine.links:links", help)
    for name, help in {
        "ideal": "no delay, no limit",
        "lan": "0.3 ms, 1 Gbit/s",
        "wan": "40 ms, 200 Mbit/s",
        "broadband": "20 ms, 20 Mbit/s up, 100 Mbit/s down",
        "mobile": "50 ms, 10 Mbit/s up, 40 Mbit/s down, 1% loss",
        "datacentre": "5 ms, 10 Gbit/s",
    }.items()
}

DEVICES: Table = {
    "uniform": Entry("shoal.engine.devices:uniform", "all equally fast", ("seconds",)),
    "lognormal": Entry("shoal.engine.devices:lognormal", "speeds with a log-normal spread", ("seconds", "spread")),
    "stragglers": Entry("shoal.engine.devices:stragglers", "a share of them is much slower", ("share", "factor")),
}

FAULTS: Table = {
    "none": Entry("shoal.simulation.faults:none", "nothing goes wrong"),
    "random": Entry("shoal.simulation.faults:random", "crashes and restarts from the seed", ("crashes", "downtime")),
    "file": Entry("shoal.simulation.faults:from_file", "a script: TOML with [[fault]] entries", ("path",)),
}

ATTACKS: Table = {
    "none": Entry("shoal.attacks:none", "everybody is honest"),
    "sign-flip": Entry("shoal.attacks:sign_flip", "sends the negative", ("share", "scale")),
    "noise": Entry("shoal.attacks:noise", "sends Gaussian noise", ("share", "scale")),
    "zero": Entry("shoal.attacks:zero", "sends zeros", ("share",)),
    "nan": Entry("shoal.attacks:nan", "sends NaN", ("share",)),
    "garbage": Entry("shoal.attacks:garbage", "sends things of other types, shapes and numbers", ("share",)),
}

KINDS: Mapping[str, Table] = {
    "protocol": PROTOCOLS,
    "task": TASKS,
    "model": MODELS,
    "partition": PARTITIONS,
    "topology": TOPOLOGIES,
    "network": NETWORKS,
    "devices": DEVICES,
    "faults": FAULTS,
    "attack": ATTACKS,
    "optimizer": OPTIMIZERS,
    "codec": CODECS,
}
WRAPPERS: Mapping[str, Table] = {"optimizer": OPTIMIZER_WRAPPERS, "codec": CODEC_WRAPPERS}
"""What goes around others of its kind, as in `ef+topk`."""
EXAMPLES = {"optimizer": "adamw", "codec": "bf16"}
IN_PYTHON: Mapping[str, Mapping[str, Wrapping]] = {"optimizer": AROUND_MODELS}
"""What is no name for a command, since it needs more than words."""


@dataclass(frozen=True)
class Spec:
    """A name with its arguments, as `dirichlet:0.3` or `watts-strogatz:k=4,p=0.1`."""

    kind: str
    name: str
    entry: Entry
    arguments: Mapping[str, Any]


def parse(kind: str, text: str, table: Table | None = None) -> Spec:
    """Read a specification. Names are the same in upper and lower case, with and without hyphens.

    Args:
        kind: a key of `KINDS`, or a word for errors where `table` is given.
        text: `name`, `name:value,value` or `name:key=value,...`.
        table: where to look the name up; default: `KINDS[kind]`.

    Raises:
        ValueError: an unknown name (the closest is suggested), too many values, or a value given twice.
    """
    given, _, rest = text.strip().partition(":")
    name, entry = find(kind, given, table)
    arguments: dict[str, Any] = {}
    values = [part.strip() for part in rest.split(",") if part.strip()]
    for i, part in enumerate(values):
        key, equals, value = part.partition("=")
        if not equals:
            if i >= len(entry.positional):
                expected = ", ".join(entry.positional) or "no value without a name"
                raise ValueError(f"{kind}: {text!r} has an unexpected value {part!r}; {name} takes {expected}")
            key, value = entry.positional[i], part
        key = key.strip().replace("-", "_")
        if key in arguments:
            raise ValueError(f"{kind}: {text!r} gives {key} twice")
        arguments[key] = literal(value.strip())
    return Spec(kind, name, entry, arguments)


def find(kind: str, given: str, table: Table | None = None) -> tuple[str, Entry]:
    """A name as it is in its table (default: that of `KINDS`), and its entry; for optimizers and codecs also
    `wrapper+name`.

    Raises:
        ValueError: the name is unknown; the closest is suggested.
    """
    around = WRAPPERS.get(kind, {})
    if table is None:
        for part in given.split("+"):
            if found := _look_up(part, IN_PYTHON.get(kind, {})):
                needs = IN_PYTHON[kind][found].needs
                raise ValueError(f"{kind}: {part!r} needs {needs}: `shoal optim show {found}` explains it")
    if around and "+" in given:
        return _wrapped(kind, given)
    known = KINDS[kind] if table is None else table
    name = _look_up(given, known)
    if name is not None:
        return name, known[name]
    wrapper = _look_up(given, around)
    if wrapper is not None:
        raise ValueError(f"{kind}: {given!r} goes around another one, as in {wrapper}+{EXAMPLES[kind]}")
    raise ValueError(f"{kind}: {given!r} is unknown{suggestion(given, known)}")


def _wrapped(kind: str, given: str) -> tuple[str, Entry]:
    *outer, inner = given.split("+")
    name, entry = find(kind, inner)
    wrappers = []
    for part in outer:
        wrapper = _look_up(part, WRAPPERS[kind])
        if wrapper is None:
            raise ValueError(f"{kind}: {part!r} is no wrapper{suggestion(part, WRAPPERS[kind])}")
        wrappers.append(wrapper)
    around = tuple(WRAPPERS[kind][wrapper] for wrapper in wrappers)
    whole = "+".join([*wrappers, name])
    if kind == "optimizer":
        return whole, Wrapped(entry.target, entry.help, entry.positional, around, OPTIMIZERS[name])
    return whole, Around(entry.target, entry.help, entry.positional, around)


def _look_up(given: str, table: Mapping[str, Any]) -> str | None:
    return given if given in table else {_fold(name): name for name in table}.get(_fold(given))


def _fold(name: str) -> str:
    return name.strip().lower().replace("-", "").replace("_", "")


def call(spec: Spec, *given: Any, **more: Any) -> Any:
    """Call what a specification names; errors name the specification."""
    function = spec.entry.load()
    try:
        return function(*given, **{**more, **spec.arguments})
    except NotImplementedError as error:
        raise ValueError(f"{spec.kind}: {spec.name}: {error}") from None
    except TypeError as error:
        text = str(error)
        if "unexpected keyword argument" in text or "missing" in text or "multiple values" in text:
            raise ValueError(f"{spec.kind}: {spec.name}: {text.split(') ', 1)[-1].split('() ', 1)[-1]}") from None
        raise


def literal(text: str) -> Any:
    """A word as a number, a truth value, None, or itself."""
    words = {"true": True, "false": False, "none": None}
    if text.lower() in words:
        return words[text.lower()]
    for convert in (int, float):
        try:
            return convert(text)
        except ValueError:
            continue
    return text


def suggestion(name: str, known: Mapping[str, Any]) -> str:
    """`; did you mean 'x'?`, or what is allowed if nothing is close."""
    lower = {word.lower(): word for word in known}
    close = [lower[word] for word in difflib.get_close_matches(name.lower(), lower, n=1)]
    return f"; did you mean {close[0]!r}?" if close else f"; allowed are {', '.join(known)}"
