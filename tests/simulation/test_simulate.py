"""`simulate`: names and objects mean the same, what it gives back is what was measured, what is wrong is refused."""

import json
import math
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import nn

import shoal
import shoal.report
import shoal.simulation.parts
from shoal.engine import Crash, Join, Leave, NonFinite, PeerFailed, Refused, Restart
from shoal.engine.devices import Device
from shoal.engine.links import PROFILES, Link
from shoal.learning.data import Data, Dataset, digits, iid
from shoal.optim import SGD
from shoal.protocols import Gossip, Needs
from shoal.tensors.random import key
from shoal.topology import from_edges, ring

SMALL = {"task": "digits", "peers": 4, "rounds": 2, "eval_samples": 50}


def run_of(protocol="gossip:steps=1", **more):
    return shoal.simulate(protocol, **{**SMALL, **more})


def refused(*args, **more):
    with pytest.raises(ValueError) as caught:
        run_of(*args, **more)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# -- names and objects ---------------------------------------------------------------------------------------


def linear():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))


DIGITS = digits()
PAIRS = [
    ({"protocol": "gossip:steps=3"}, {"protocol": Gossip(steps=3)}),
    ({"topology": "ring"}, {"topology": ring(4)}),
    ({"optimizer": "sgd:0.3,momentum=0.5"}, {"optimizer": SGD.rule(0.3, momentum=0.5)}),
    ({"optimizer": "sgd", "lr": 0.3}, {"optimizer": SGD.rule(0.3)}),
    ({"network": "wan"}, {"network": [PROFILES["wan"]] * 4}),
    ({"devices": "uniform:0.5"}, {"devices": [Device(0.5, 0.0, key(0, "device", i)) for i in range(4)]}),
    ({"faults": "none"}, {"faults": []}),
    ({"partition": "iid"}, {"partition": iid(DIGITS.train, 4, seed=key(0, "data"))}),
    ({"task": "digits", "model": "logistic"}, {"task": shoal.Task("own", linear, DIGITS)}),
]


@pytest.mark.parametrize(("named", "given"), PAIRS, ids=[" ".join(named) for named, _ in PAIRS])
def test_a_name_and_the_object_that_it_stands_for_give_the_same_run(named, given):
    one, other = run_of(**named), run_of(**given)
    assert one.metrics == other.metrics
    assert all(torch.equal(one.models[i], other.models[i]) for i in range(4))


def test_a_torch_optimizer_takes_the_steps_of_the_rule_of_its_name():
    rule = run_of(optimizer="sgd:0.1,momentum=0.9")
    torchs = run_of(optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9))
    for i in range(4):
        torch.testing.assert_close(rule.models[i], torchs.models[i], rtol=1e-4, atol=1e-5)


def test_an_own_protocol_on_own_data_model_topology_and_faults():
    # The example: two blobs, a linear model, a chain of peers of which one comes late and one leaves.
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 2
    points = torch.randn(400, 2, generator=generator) + 4.0 * labels[:, None]
    blobs = Dataset("blobs", Data(points[:300], labels[:300]), Data(points[300:], labels[300:]), classes=2)

    async def shy_gossip(me):
        async for r in me.rounds():
            await me.train(steps=4)
            me.record("norm", float(me.model.norm()))
            me.model = me.mix(await me.exchange(me.model, r, timeout=5.0))

    run = shoal.simulate(
        shy_gossip,
        task=shoal.Task("blobs", lambda: nn.Linear(2, 2), blobs),
        topology=from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        faults=[Join(0.1, 4), Leave(0.3, 0), Crash(0.15, 2), Restart(0.2, 2)],
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=0.1),
        peers=5,
        rounds=10,
    )
    assert run.info["name"] == "shy_gossip"
    assert [event["event"] for event in run.events] == ["join", "crash", "restart", "leave"]
    assert set(run.models) == {1, 2, 3, 4}
    assert run.final("accuracy") > 0.95
    norms = [row for row in run.metrics if row[4] == "norm"]
    assert len({(row[1], row[3]) for row in norms if row[3] == 1}) == 10


def test_the_name_of_a_lambda_can_be_a_folder_s(tmp_path):
    run = run_of(lambda me: Gossip(steps=1)(me), out=tmp_path)
    assert run.folder == tmp_path / "lambda-001"


# -- what it gives -------------------------------------------------------------------------------------------


def test_the_summary_is_the_evaluation_of_the_models_it_returns():
    run = run_of(eval_samples=1000)
    right = []
    for vector in run.models.values():
        model = shoal.simulation.parts.build("task", "digits").model()
        nn.utils.vector_to_parameters(vector, model.parameters())
        right.append(float((model(DIGITS.test.inputs).argmax(-1) == DIGITS.test.targets).float().mean()))
    summary = run.info["summary"]["accuracy"]
    assert run.final() == summary["mean"] == pytest.approx(sum(right) / 4)
    assert (summary["min"], summary["max"]) == (pytest.approx(min(right)), pytest.approx(max(right)))
    assert run.curve()[-1, 1] == pytest.approx(run.final())


def test_consensus_is_the_mean_square_distance_from_the_mean_model():
    run = run_of(partition="dirichlet:0.2")
    models = torch.stack(list(run.models.values())).double()
    distance = (models - models.mean(0)).square().sum(1).mean()
    assert run.curve("consensus", peer=-1)[-1, 1] == pytest.approx(float(distance), rel=1e-3)


def test_the_clock_is_virtual():
    # Two rounds of three steps of 0.5 s, no delay on an ideal network.
    run = run_of("gossip:steps=3", network="ideal", devices="uniform:0.5")
    assert run.info["virtual_seconds"] == pytest.approx(2 * 3 * 0.5)


def test_bytes_are_those_of_the_messages():
    run = run_of(topology="ring", network="ideal")
    assert run.info["bytes"]["channels"]["exchange"]["messages"] == 2 * 4 * 2
    vector = 4 * run.info["parameters"]
    assert 16 * vector <= run.info["bytes"]["total"] <= 16 * (vector + 200)


def test_until_stops_the_world_and_rounds_tells_how_far_it_came():
    run = run_of("isolated:steps=1", devices="uniform:1.0", rounds=100, until=3.5)
    assert run.status == "finished"
    assert run.info["virtual_seconds"] == 3.5
    assert run.info["rounds"] == 3
    assert run.info["config"]["rounds"] == 100


def test_no_rounds_is_a_run_that_measures_the_initial_models():
    run = run_of(rounds=0)
    assert run.info["rounds"] == 0
    assert len({run.models[i].sum().item() for i in range(4)}) == 1
    assert {row[1] for row in run.metrics} == {0}


@pytest.mark.parametrize(("init", "distinct"), [("common", 1), ("independent", 4)])
def test_peers_start_from_one_model_or_each_from_its_own(init, distinct):
    assert len({run.sum().item() for run in run_of(rounds=0, init=init).models.values()}) == distinct


def test_evaluations_are_every_so_many_rounds_and_at_the_end():
    run = run_of(rounds=7, evaluate=3)
    assert sorted({row[1] for row in run.metrics}) == [0, 3, 6, 7]


def test_of_many_peers_a_sample_is_evaluated():
    run = run_of("isolated:steps=1", peers=12, eval_peers=3)
    assert len({row[3] for row in run.metrics if row[3] >= 0}) == len(run.models) == 3
    assert -1 in {row[3] for row in run.metrics}


def test_progress_begins_at_nothing_and_knows_the_run(monkeypatch):
    states = []
    monkeypatch.setattr("time.monotonic", iter(range(10**6)).__next__)  # a second between any two looks
    run = run_of(progress=states.append)
    assert (states[0].done, states[0].total, states[0].time) == (0, 8, 0.0)
    assert [state.done for state in states] == list(range(9))
    assert all(state.run is run for state in states)
    assert states[-1].bytes == run.info["bytes"]["total"]
    assert states[-1].latest.keys() == {"loss", "accuracy"}


def test_peers_that_skip_rounds_and_keep_their_state_in_between_are_measured_once_a_round(monkeypatch):
    class Skipping:
        needs = Needs(sampled=True)

        async def __call__(self, me):
            await me.commit()
            async for r in (rounds := me.rounds()):
                await me.train(steps=1)
                await me.commit()
                rounds.skip_to(r + 1 + (me.id == 0))

    states = []
    monkeypatch.setattr("time.monotonic", iter(range(10**6)).__next__)
    run = run_of(Skipping(), rounds=6, evaluate=1, progress=states.append)
    measured = {i: [row[1] for row in run.metrics if row[3] == i and row[4] == "loss"] for i in range(-1, 4)}
    assert measured == {-1: [], 0: [0, 2, 4, 6], **{i: list(range(7)) for i in (1, 2, 3)}}
    assert (states[-1].done, states[-1].total) == (24, 24)
    assert run.info["topology"]["name"] == "none"


def test_relays_hold_no_samples():
    run = run_of("decavg", relays=(1, 3))
    shards = run.info["data"]["shards"]
    assert [sum(row) > 0 for row in shards] == [True, False, True, False]
    assert sum(map(sum, shards)) == len(DIGITS.train)


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"ruonds": 3}, "'ruonds' is not a setting; did you mean 'rounds'?"),
        ({"peers": 5000}, "partition: iid: peers must be from 1 to 1442, got 5000"),
        ({"topology": "torus", "peers": 7}, "topology: torus: n must not be prime for a torus (rows x columns), got 7"),
        ({"topology": ring(5)}, "topology: got one of 5 peers for 4"),
        ({"network": [Link()] * 3}, "network: got 3 links; one for each of the 4 peers is needed"),
        ({"network": []}, "network: got 0 links"),
        ({"network": "lan:latency=x"}, "network: lan: latency: got 'x'; a number is allowed"),
        ({"network": "lan:latncy=1"}, "network: lan: unknown setting 'latncy'"),
        ({"devices": [Device()] * 3}, "devices: got 3 for 4 peers"),
        ({"faults": [Crash(1.0, 9)]}, "faults: Crash(at=1.0, peer=9) names peer 9; peers are 0 to 3"),
        ({"optimizer": torch.optim.SGD, "lr": 0.1}, "lr: the optimizer is a function"),
        ({"model": "mlp:0"}, "model: mlp:0: hidden, depth: got 0, 1; at least 1 is allowed"),
        ({"model": "cnn:channels=-4"}, "model: cnn:channels=-4 cannot be built"),
        ({"task": "quadratic", "model": "mlp"}, "model: got 'mlp'; quadratic brings its own"),
        ({"task": shoal.Task("own", linear, DIGITS), "model": "mlp"}, "model: got 'mlp'; a task that is an object"),
        ({"task": "text:nope.txt"}, "task: text:nope.txt: path must be a readable text file"),
        ({"task": "digits:x=1"}, "task: digits: has no argument 'x'; it takes no arguments"),
        ({"device": "cuda:99"}, "device: got 'cuda:99'; cpu, or a device of this machine, is allowed"),
        ({"device": "foo"}, "device: got 'foo'; "),
        ({"device": "meta"}, "device: got 'meta'; "),
        ({"name": "a/b"}, "name: got 'a/b'; "),
        ({"name": ""}, "name: got ''; "),
        ({"topology": "file:nope.txt"}, "topology: cannot read nope.txt: No such file"),
        ({"relays": (1,), "protocol": "isolated"}, "isolated needs data at every peer, and peer 1"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_runs(settings, message, tmp_path):
    assert refused(**settings, out=tmp_path / "runs").startswith(message)
    assert not (tmp_path / "runs").exists()


def test_a_disconnected_topology_is_refused_unless_it_is_declared(tmp_path):
    path = tmp_path / "islands.txt"
    path.write_text("0 1\n2 3\n")
    assert refused(topology=f"file:{path}").startswith("topology: islands is not connected")
    assert run_of(topology=f"file:{path}", disconnected=True).status == "finished"
    assert run_of("isolated", topology=f"file:{path}").status == "finished"  # talks to nobody anyway


def test_a_topology_from_a_file_is_over_the_peers_of_the_run(tmp_path):
    path = tmp_path / "chain.txt"
    path.write_text("0 1\n1 2\n2 3\n")
    assert run_of(topology=f"file:{path}").info["topology"]["edges"] == [[0, 1], [1, 2], [2, 3]]
    assert "0 .. 2" in refused(topology=f"file:{path}", peers=3)


@dataclass(frozen=True)
class Trusting:
    """A protocol that cannot do without any message."""

    needs: ClassVar[Needs] = Needs(reliable_links=True)

    async def __call__(self, me):
        async for _ in me.rounds():
            await me.train(steps=1)


def test_a_world_that_lacks_what_a_protocol_needs_refuses_it():
    with pytest.raises(
        Refused, match=r"^network: trusting needs links that lose no message, and this world's lose some"
    ):
        run_of(Trusting(), network="mobile")
    with pytest.raises(Refused, match="and this world's lose some"):
        run_of(Trusting(), network=[Link(loss=0.1)] * 4)
    assert run_of(Trusting(), network="wan").status == "finished"


def partition(*rows, data=DIGITS.train):
    return data, [torch.tensor(row, dtype=torch.int64) for row in rows]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (partition([0], [1], [2]), "partition: got 3 shards for 4 peers"),
        (partition([0], [1], [2], []), "partition: peer 3 holds no samples; use fewer peers, another partition, or"),
        (partition([0], [1], [5000], [2]), "partition: peer 2 is given samples 5000 to 5000; samples are 0 to 1441"),
        (partition([0], [-1], [2], [3]), "partition: peer 1 is given samples -1 to -1; "),
        ((DIGITS.train, [torch.zeros(2)] * 4), "partition: the samples of peer 0 must be a tensor [m] of int64"),
        ((DIGITS.train, [[1], [2], [3], [4]]), "partition: the samples of peer 0 must be a tensor [m] of int64"),
    ],
)
def test_an_own_partition_is_checked(given, message):
    assert refused(partition=given).startswith(message)


def test_nan_in_one_s_own_data_is_refused():
    inputs = DIGITS.train.inputs.clone()
    inputs[3, 5] = math.nan
    given = partition([0], [1], [2], [3], data=Data(inputs, DIGITS.train.targets))
    assert refused(partition=given) == "partition: inputs must be finite, got NaN or infinity, first at sample 3"
    with pytest.raises(ValueError, match=r"train\.inputs must be finite, got NaN or infinity, first at index 3"):
        Dataset("own", Data(inputs, DIGITS.train.targets), DIGITS.test, classes=10)


# -- what fails ----------------------------------------------------------------------------------------------


def failed(tmp_path, *args, **more):
    with pytest.raises(PeerFailed) as caught:
        run_of(*args, **more, name="x", out=tmp_path)
    return caught.value, shoal.report.RunFolder(tmp_path / "x-001")


def test_a_diverging_run_is_stored_as_failed(tmp_path):
    error, folder = failed(tmp_path, task="quadratic", lr=1e6, rounds=50)
    assert isinstance(error.__cause__, NonFinite)
    assert folder.facts.status == "failed"
    assert folder.facts.error == str(error)
    assert "a smaller learning rate may help" in str(error)
    assert 0 < folder.facts.rounds < 50
    json.loads((folder.path / "run.json").read_text(), parse_constant=pytest.fail)  # JSON has no NaN


def test_a_model_that_a_protocol_ruins_is_found_even_if_it_is_never_trained(tmp_path):
    async def ruin(me):
        async for _ in me.rounds():
            me.model = me.model * math.nan

    error, folder = failed(tmp_path, ruin)
    assert "NaN or infinity in it after round" in str(error)
    assert folder.facts.status == "failed"


def test_an_initial_model_with_nan_is_found(tmp_path):
    def broken():
        model = nn.Linear(64, 10)
        nn.init.constant_(model.weight, math.nan)
        return model

    error, _ = failed(tmp_path, task=shoal.Task("own", broken, DIGITS))
    assert isinstance(error.__cause__, NonFinite)


def test_what_a_protocol_raises_is_the_cause_and_is_stored(tmp_path):
    async def buggy(me):
        async for r in me.rounds():
            if me.id == 2 and r == 1:
                raise KeyError("lost")

    error, folder = failed(tmp_path, buggy)
    assert isinstance(error.__cause__, KeyError)
    assert (error.peer, folder.facts.status) == (2, "failed")
    assert "peer 2 failed" in folder.facts.error


def test_an_error_in_a_metric_is_not_hidden_by_the_one_it_causes_at_the_end(tmp_path):
    def bad(output, target):
        if len(target) > 2:
            raise RuntimeError("bad metric")
        return torch.zeros(2)

    task = shoal.Task("own", linear, DIGITS, metrics={"bad": bad})
    with pytest.raises((RuntimeError, PeerFailed), match="bad metric"):
        run_of(task=task, out=tmp_path, name="x")
    assert shoal.report.RunFolder(tmp_path / "x-001").facts.status == "failed"


@pytest.mark.parametrize("protocol", [lambda me: 3, lambda me: None])
def test_a_protocol_that_is_no_coroutine_is_told_so(protocol):
    with pytest.raises(PeerFailed, match="a coroutine, as of `async def`, is needed"):
        run_of(protocol)
