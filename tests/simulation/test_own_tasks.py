"""Tasks, metrics and records of one's own: what cannot be meant is refused before anything is computed."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import shoal
from shoal.engine import PeerFailed
from shoal.learning.data import Data, Dataset
from shoal.topology import ring

INPUTS = torch.randn(60, 4, generator=torch.Generator().manual_seed(0))
LABELS = (INPUTS[:, 0] > 0).long()
DATASET = Dataset("own", Data(INPUTS[:40], LABELS[:40]), Data(INPUTS[40:], LABELS[40:]), classes=2)


def linear() -> nn.Module:
    return nn.Linear(4, 2)


def right(output, target):
    return (output.argmax(-1) == target).float()


def run_of(task, protocol="gossip", **settings):
    return shoal.simulate(protocol, task=task, **{"peers": 2, "rounds": 1, **settings})


@pytest.mark.parametrize(
    ("metric", "shape"),
    [
        (lambda output, target: right(output, target).mean(), r"\(\)"),
        (lambda output, target: right(output, target)[:, None], r"\(2, 1\)"),
        (lambda output, target: float(right(output, target).mean()), "float"),
    ],
)
def test_a_metric_that_is_not_one_value_a_sample_is_refused(metric, shape):
    task = shoal.Task("own", linear, DATASET, metrics={"right": metric})
    with pytest.raises(ValueError, match=f"metrics: right: got a result of shape {shape} for 2 samples; one value a"):
        run_of(task)


def test_a_metric_that_is_a_mean_of_larger_batches_only_is_refused_when_it_is_used():
    def mean_of_many(output, target):
        values = right(output, target)
        return values.mean() if len(values) > 2 else values

    with pytest.raises(PeerFailed, match=r"metrics: right: got a result of shape \(\) for 20 samples"):
        run_of(shoal.Task("own", linear, DATASET, metrics={"right": mean_of_many}))


def test_a_metric_of_truth_values_is_their_share():
    task = shoal.Task("own", linear, DATASET, metrics={"right": lambda output, target: output.argmax(-1) == target})
    run = run_of(task)
    vectors = run.models.values()
    shares = [((INPUTS[40:] @ v[:8].view(2, 4).T + v[8:]).argmax(-1) == LABELS[40:]).double().mean() for v in vectors]
    assert run.final("right") == pytest.approx(float(sum(shares)) / 2)


@pytest.mark.parametrize("name", ["loss", "consensus"])
def test_names_that_every_run_uses_are_no_metrics_of_ones_own(name):
    with pytest.raises(ValueError, match=f"metrics: got one called '{name}'"):
        shoal.Task("own", linear, DATASET, metrics={name: right})


def test_a_module_is_no_function_that_makes_one():
    with pytest.raises(ValueError, match=r"model: got Linear\(.*; a function that makes a fresh module"):
        shoal.Task("own", nn.Linear(4, 2), DATASET)


def test_a_torch_dataset_is_told_the_way():
    with pytest.raises(ValueError, match=r"dataset: got <.*TensorDataset.*; .*`from_torch`"):
        shoal.Task("own", linear, TensorDataset(INPUTS, LABELS))


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="model: Identity has no parameters to train"):
        run_of(shoal.Task("own", nn.Identity, DATASET))


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (
            lambda: shoal.Task("own", lambda: nn.Linear(4, 2).double(), DATASET),
            "model, data and loss do not fit.*dtype",
        ),
        (lambda: shoal.Task("own", lambda: nn.Linear(5, 2), DATASET), "model, data and loss do not fit.*shapes"),
        (lambda: shoal.Task("own", linear, DATASET, nn.functional.cross_entropy), "loss: got a result of shape"),
    ],
)
def test_a_task_that_does_not_fit_is_refused_before_its_folder_is_made(task, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run_of(task(), out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_check_of_a_task_draws_nothing_from_the_global_generator():
    class Noisy(nn.Linear):
        def forward(self, x):
            return super().forward(x) + torch.rand(())

    model = Noisy(4, 2)
    before = torch.random.get_rng_state()
    shoal.Task("own", linear, DATASET).check(model)
    assert torch.equal(before, torch.random.get_rng_state())


@pytest.mark.parametrize("name", ["accuracy", "loss", "consensus"])
def test_what_a_protocol_records_is_not_mixed_with_the_evaluation(name):
    async def records(me):
        me.record(name, 0.5)

    with pytest.raises(PeerFailed, match=f"record: '{name}' is taken by the run's own evaluation"):
        run_of(shoal.Task("own", linear, DATASET), records)


@pytest.mark.parametrize(("value", "shown"), [(torch.ones(2), r"a tensor \[2\]"), ("much", "'much"), (None, "None")])
def test_only_numbers_are_recorded(value, shown):
    async def records(me):
        me.record("x", value)

    with pytest.raises(PeerFailed, match=f"record: x: got {shown}.*; one number is allowed"):
        run_of(shoal.Task("own", linear, DATASET), records)


def test_a_curve_of_a_peer_that_was_not_measured_is_refused():
    run = run_of(shoal.Task("own", linear, DATASET))
    assert len(run.curve("accuracy", peer=1))
    with pytest.raises(ValueError, match=r"peer: got 7; the accuracy of -1, 0, 1 was measured"):
        run.curve("accuracy", peer=7)


def test_a_graph_may_fall_apart_where_that_is_declared():
    task = shoal.Task("own", linear, DATASET)
    run = run_of(task, peers=4, topology="erdos-renyi:0", disconnected=True)
    assert run.info["topology"]["edges"] == []
    with pytest.raises(ValueError, match="none of 100 erdos-renyi graphs drawn was connected"):
        run_of(task, peers=4, topology="erdos-renyi:p=0,connected=true", disconnected=True)


def test_a_run_says_the_names_of_the_task_and_topology_it_was_given():
    run = run_of(shoal.Task("of my own", linear, DATASET), topology=ring(2))
    assert (run.info["config"]["task"], run.info["config"]["topology"]) == ("of my own", "ring")


def test_the_codec_none_is_none(tmp_path):
    (tmp_path / "x.toml").write_text('codec = "none"', encoding="utf-8")
    assert shoal.Settings.of(**shoal.Settings.read(tmp_path / "x.toml")).codec is None
    run = run_of(shoal.Task("own", linear, DATASET), codec="none")
    assert run.info["bytes"]["total"] == run_of(shoal.Task("own", linear, DATASET)).info["bytes"]["total"]


def test_whoever_may_read_a_runs_metrics_may_read_its_models(tmp_path):
    folder = run_of(shoal.Task("own", linear, DATASET), out=tmp_path).folder
    modes = {(folder / name).stat().st_mode for name in ("run.json", "metrics.csv", "model.safetensors")}
    assert len(modes) == 1


def test_the_spectral_gap_of_links_that_change_is_that_of_a_period():
    run = run_of(shoal.Task("own", linear, DATASET), peers=8, topology="one-peer-exponential")
    assert run.info["topology"]["period"] == 3
    assert run.info["topology"]["spectral_gap"] == pytest.approx(1.0)  # the exact average after log2(8) rounds
