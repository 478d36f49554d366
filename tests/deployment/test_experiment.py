"""Experiments: one file for simulations and real machines, whole on the way, and refused where machines differ."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from shoal import __version__
from shoal.deployment.experiment import TEXT_LIMIT, Experiment, Net, OtherVersion, agreement, read_experiment
from shoal.deployment.network import check_deployable
from shoal.simulation.settings import Settings

SETTINGS = 'protocol = "gossip:steps=2"\ntask = "digits"\npeers = 4\nrounds = 2\nname = "mine"\nout = "there"\n'
NET = '[net]\nbind = "127.0.0.1:0"\nbeat = 0.5\ncompany = 1\nrelays = ["https://relay.example.org"]\n'


def write(folder: Path, text: str) -> Path:
    path = folder / "experiment.toml"
    path.write_text(text)
    return path


def made(folder: Path, text: str = SETTINGS + NET) -> Experiment:
    read = read_experiment(write(folder, text))
    return Experiment.of(read.parts, read.net)


def changed(experiment: Experiment, **changes: Any) -> bytes:
    return json.dumps({**json.loads(experiment.encode()), **changes}).encode()


def test_one_file_is_for_both_kinds_of_world(tmp_path: Path) -> None:
    path = write(tmp_path, SETTINGS + 'network = "wan"\nfaults = "random:0.5"\n' + NET)
    simulated = Settings.of(**{k: v for k, v in Settings.read(path).items() if k not in ("name", "out")})
    read = read_experiment(path)
    assert read.left_out == ["network", "faults"]
    assert read.out == "there"
    assert read.parts.name == "mine"
    assert read.net == Net.of(beat=0.5, company=1, relays=["https://relay.example.org"])
    shared = {"protocol", "task", "peers", "rounds", "seed", "partition", "topology"}
    assert read.parts.settings.model_dump(include=shared) == simulated.model_dump(include=shared)
    assert read_experiment(path, rounds=7, name="other").parts.settings.rounds == 7


def test_an_experiment_arrives_as_it_was_sent(tmp_path: Path) -> None:
    sent = made(tmp_path)
    data = sent.encode()
    got = Experiment.decode(data)
    assert got.encode() == data
    assert got.digest == sent.digest == hashlib.sha256(data).digest()
    assert got.parts("cpu").settings == sent.settings
    assert (got.net.beat, got.net.company, got.net.relays) == (0.5, 1, ("https://relay.example.org",))
    assert got.parts("cpu").trainer.layout.size == got.agreed["parameters"]


def test_what_a_machine_has_for_itself_does_not_travel(tmp_path: Path) -> None:
    text = SETTINGS + 'device = "cpu"\n[net]\nbind = "127.0.0.1:4999"\nallow = ["' + "a" * 64 + '"]\n'
    data = made(tmp_path, text).encode()
    assert b"4999" not in data
    assert b"a" * 64 not in data
    assert b"device" not in data


def test_deployments_of_one_experiment_differ_and_are_known_as_such(tmp_path: Path) -> None:
    one, two = made(tmp_path), made(tmp_path)
    assert one.digest != two.digest
    assert one.same_as(two)
    assert not one.same_as(made(tmp_path, SETTINGS.replace("steps=2", "steps=3") + NET))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"settings": 3}, "damaged: settings is 3"),
        ({"nonce": None}, "damaged: nonce is None"),
        ({"name": "a/b"}, "name: got 'a/b'"),
        ({"settings": {"peers": -1}}, "peers: got -1"),
        ({"settings": {"protocol": "os:system"}}, "os"),
        ({"settings": {"nothing": 1}}, "'nothing' is not a setting"),
        ({"net": {"beat": 0}}, "net: beat: got 0"),
        ({"net": {"beta": 1}}, "net: 'beta' is unknown; did you mean 'beat'"),
        ({"net": {"dead": 0.1}}, "net: dead: got 0.1"),
    ],
)
def test_what_is_impossible_is_refused(tmp_path: Path, changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        Experiment.decode(changed(made(tmp_path), **changes))


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"\xff\xfe", b"1", b"[" * 100_000, b"x" * (TEXT_LIMIT + 1)])
def test_nonsense_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"^experiment: "):
        Experiment.decode(data)


@pytest.mark.parametrize("changes", [{"shoal": "0.0.1"}, {"shoal": None}, {"format": 2}])
def test_other_versions_are_refused_with_both_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(OtherVersion, match=f"this is shoal {__version__}"):
        Experiment.decode(changed(made(tmp_path), **changes))


@pytest.mark.parametrize("what", ["data", "parameters", "peers", "topology"])
def test_machines_that_differ_do_not_fit(tmp_path: Path, what: str) -> None:
    experiment = made(tmp_path)
    agreed = {**experiment.agreed, what: "something else"}
    with pytest.raises(ValueError, match=f"^{what}: the experiment has something else, this machine"):
        Experiment.decode(changed(experiment, agreed=agreed)).parts("cpu")


def test_what_must_agree_tells_data_and_graphs_apart() -> None:
    def of(**more: Any) -> dict[str, Any]:
        from shoal.deployment.node import real_parts

        return agreement(real_parts(Settings.of(**{"task": "digits", "peers": 8, "topology": "ring", **more}))[0])

    assert of() == of()
    assert of(model="mlp:hidden=9")["parameters"] != of()["parameters"]
    assert of(topology="complete")["topology"] != of()["topology"]
    random = [of(topology="erdos-renyi:p=0.6", seed=seed)["topology"] for seed in (0, 1)]
    assert random[0] != random[1]
    assert of(task="quadratic")["data"] != of()["data"]


@pytest.mark.parametrize("protocol", ["centralised", "isolated"])
def test_protocols_that_need_no_network_are_refused(tmp_path: Path, protocol: str) -> None:
    read = read_experiment(write(tmp_path, f'protocol = "{protocol}"\ntask = "digits"\npeers = 3\n'))
    with pytest.raises(ValueError, match="needs no network"):
        check_deployable(read.parts)


def test_errors_of_the_table_name_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, SETTINGS + '[net]\nallow = ["abc"]\n')
    with pytest.raises(ValueError, match=r"experiment\.toml: net: allow: got 'abc'"):
        read_experiment(path)
