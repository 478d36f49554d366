"""What the arguments of `simulate` stand for: names with arguments, and objects."""

from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from shoal.engine import Crash
from shoal.engine.devices import Device
from shoal.engine.links import Link
from shoal.learning.data import digits
from shoal.optim import SGD
from shoal.protocols import Gossip
from shoal.simulation.given import build, check_arguments, check_object
from shoal.topology import ring


def build_error(kind, text, *given, **more):
    with pytest.raises(ValueError) as caught:
        build(kind, text, *given, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_a_name_with_arguments_is_built_with_them():
    assert build("protocol", "gossip:3") == Gossip(steps=3)
    assert build("optimizer", "sgd:0.5,momentum=0.9") == SGD.rule(0.5, momentum=0.9)
    assert build("topology", "ring", 5, seed=1).n == 5


@pytest.mark.parametrize(
    ("kind", "text", "given", "message"),
    [
        ("partition", "dirichlet:x", (None, 3), "partition: dirichlet: alpha: got 'x'; a number is allowed"),
        ("protocol", "gossip:steps=x", (), "protocol: gossip: steps: got 'x'; a whole number is allowed"),
        ("protocol", "gossip:steps=2.5", (), "protocol: gossip: steps: got 2.5; a whole number is allowed"),
        ("protocol", "gossip:steps=true", (), "protocol: gossip: steps: got True; a whole number is allowed"),
        ("protocol", "gossip:timeout=x", (), "protocol: gossip: timeout: got 'x'; a number or none is allowed"),
        ("optimizer", "sgd:nesterov=1", (), "optimizer: sgd:nesterov=1: nesterov: got 1; True or False is allowed"),
        ("attack", "zero:foo", (), "attack: zero: share: got 'foo'; a number is allowed"),
        ("topology", "file", (), "topology: file: needs path"),
        ("topology", "torus:rows=2", (6,), "topology: torus: has no argument 'rows'"),
        ("topology", "erdos-renyi:conected=1", (6,), "topology: erdos-renyi: has no argument 'conected'; did you mean"),
        ("topology", "torus", (7,), "topology: torus: n must not be prime"),
        ("optimizer", "sgd:lr=-1", (), "optimizer: sgd:lr=-1: lr: got -1; a finite number >= 0 is allowed"),
        ("attack", "zero:2", (), "attack: got a share of 2; a number in [0, 1) is allowed"),
    ],
)
def test_what_cannot_be_built_is_named_with_what_is_allowed(kind, text, given, message):
    assert build_error(kind, text, *given).startswith(message)


@dataclass
class Example:
    whole: int = 1
    number: float | None = None
    text: str = ""
    path: str | Path | None = None
    other: dict[str, int] | None = None


@pytest.mark.parametrize(
    "arguments", [{"whole": 3}, {"number": 3}, {"number": 3.5}, {"number": None}, {"text": "a"}, {"path": "b"}]
)
def test_values_of_the_declared_types_pass(arguments):
    check_arguments("x", Example, arguments)


@pytest.mark.parametrize("arguments", [{"whole": None}, {"number": "a"}, {"text": 1}, {"path": 1}, {"other": 3}])
def test_values_of_other_types_do_not(arguments):
    with pytest.raises(ValueError, match=rf"^x: {next(iter(arguments))}: got "):
        check_arguments("x", Example, arguments)


def test_a_function_without_parameters_takes_no_arguments():
    with pytest.raises(ValueError, match="has no argument 'a'; it takes no arguments"):
        check_arguments("x", lambda: None, {"a": 1})


async def protocol(me):
    """Nothing."""


GOOD = {
    "protocol": [protocol, Gossip(), lambda me: protocol(me)],
    "topology": [ring(3)],
    "optimizer": [SGD.rule(), torch.optim.SGD, lambda parameters: torch.optim.Adam(parameters)],
    "faults": [[], [Crash(1.0, 2)], (Crash(1.0, 2),)],
    "devices": [[Device()], (Device(),)],
    "network": [[Link()]],
    "partition": [(digits().train, [torch.arange(3)])],
}
BAD = {
    "protocol": [5, None, Gossip],
    "task": [5, None, digits()],
    "topology": [3, [(0, 1)]],
    "optimizer": [3, None, torch.optim.SGD([torch.zeros(1, requires_grad=True)])],
    "faults": [3, [1], None],
    "devices": [3, [0.1]],
    "network": [5, ["lan"]],
    "partition": [digits().train, [[0], [1]], (digits().train, 3)],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD.items() for value in values])
def test_objects_that_fit_pass(name, value):
    check_object(name, value)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD.items() for value in values])
def test_objects_that_do_not_fit_are_refused_in_one_line(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: got .*; a name or .* is allowed$"):
        check_object(name, value)
