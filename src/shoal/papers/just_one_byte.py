"""E. Zelikman, Q. Huang, P. Liang, N. Haber, N. D. Goodman, "Just One Byte (per gradient): A Note on Low-Bandwidth
Decentralized Language Model Finetuning Using Shared Randomness", 2023 (arXiv 2306.10015).

Claimed: machines that share their random numbers can train together by sending one byte for each gradient estimate,
whatever the size of the model; machines may come and go; nothing but forward passes is needed.

Criteria, fixed before the run:

1. Three peers have models that are equal bit for bit at the end, also if one crashes and comes back, one comes back
   with nothing, and one joins late.
2. float64: the model is that of one machine that takes the mean of the same estimates, to 1e-9 of its size.
3. A message grows by exactly one byte for each further estimate.
4. Every slope within e^(-63/16) ... e^(63/16) is sent to within 1/32 of its logarithm.
5. Fashion-MNIST, three peers, MLP: with 8 estimates a peer and iteration the test loss after the last iteration is
   below that with one, each with its best rate, in the mean over seeds.
6. With bytes the test loss is within 2% of that with the slopes as they are, in the mean over seeds.

"full": MLP 784-16-10 (12,730 parameters), 6,000 samples, 600 iterations, three seeds; rates out of three on another
seed (an eighth as many estimates go with lower ones). "check": 784-8-10, 2,000 samples, 80 iterations, one seed, one
rate for each, not tuned.

Notes. The language model and the data of the publication (fine-tuning on SST-2) are not repeated: what is trained here
begins at random, where zeroth-order steps are slow; losses are compared, not accuracies.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from shoal.engine import Crash, Fault, Join, Restart
from shoal.learning import Shard, Task
from shoal.learning.batches import batches, stream
from shoal.learning.data import Dataset, iid
from shoal.learning.models import mlp
from shoal.papers.measures import in_float64, some_of
from shoal.papers.result import Finding, Result
from shoal.protocols import OneByte
from shoal.protocols.compressed.one_byte import decode_slope, directions, encode_slope
from shoal.simulation import Run, simulate
from shoal.tensors import Layout, key
from shoal.tensors.layout import flatten_module

PEERS = 3
WITHIN = 0.02
EPS = 1e-3
BATCH = 32
FAULTS: tuple[Fault, ...] = (
    Crash(0.3, 1), Restart(0.6, 1), Crash(0.9, 2), Restart(1.1, 2, empty=True), Join(0.2, 0),
)  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """One scale of the comparison; `rates` by estimates a peer, a single one is taken as it is."""

    samples: int
    hidden: int
    iterations: int
    rates: dict[int, Sequence[float]]
    seeds: Sequence[int]
    tuning_seed: int = 60


CHECK = Setting(2_000, 8, 80, {8: (0.01,), 1: (0.003,)}, (61,))
FULL = Setting(6_000, 16, 600, {8: (0.003, 0.01, 0.03), 1: (0.0005, 0.0015, 0.005)}, (61, 62, 63))


def claim(scale: str = "check") -> Result:
    """Check the claim; see the module's docstring for the criteria."""
    setting = FULL if scale == "full" else CHECK
    figures: dict[str, float] = {}
    dataset = some_of("fashion-mnist", setting.samples)
    findings = [equal(figures), one_machine(figures), message(figures), precision(figures)]
    findings += training(setting, dataset, figures)
    published = {"bytes of a gradient": "1", "fine-tuning on SST-2": "proof of concept, no table"}
    return Result(findings, figures, published, setting.seeds)


# -- exact -------------------------------------------------------------------------------------------------------


def equal(figures: dict[str, float]) -> Finding:
    """Criterion 1."""
    protocol = OneByte(2, lr=0.01, check=16)
    differing = 0
    for faults in ((), FAULTS):
        run = simulate(
            protocol,
            task="digits",
            model="mlp:16",
            topology="complete",
            peers=PEERS,
            rounds=100,
            seed=64,
            faults=list(faults),
        )
        models = [run.models[i] for i in range(PEERS)]
        differing += sum(int((model != models[0]).sum()) for model in models)
    figures["entries in which the peers' models differ"] = differing
    return Finding("the peers' models are equal bit for bit", f"{differing} entries differ", differing == 0)


def one_machine(figures: dict[str, float]) -> Finding:
    """Criterion 2."""
    dataset = in_float64(some_of("digits"))
    build = mlp(dataset, hidden=8, activation="tanh")
    task, worst = Task("digits in float64", lambda: build().double(), dataset), 0.0
    data, pieces = dataset.train, list(torch.arange(len(dataset.train)).split(len(dataset.train) // PEERS + 1))
    run = partial(simulate, topology="complete", peers=PEERS, seed=65, task=task, partition=(data, pieces), batch=BATCH)
    for samples in (1, 4):
        found = run(OneByte(samples, lr=0.01), rounds=20).models[0]
        expected = descend(task, [Shard(data, piece) for piece in pieces], samples, 0.01, 65, 20)
        worst = max(worst, float((found - expected).norm() / expected.norm()))
    figures["distance from one machine's model, relative"] = worst
    return Finding("the model is one machine's with the mean of all estimates, to 1e-9", f"{worst:.1e}", worst <= 1e-9)


def message(figures: dict[str, float]) -> Finding:
    """Criterion 3."""
    sent = []
    for samples in (1, 2, 9):
        run = simulate(
            OneByte(samples), task="digits", model="mlp:4", topology="complete", peers=PEERS, rounds=2, batch=0
        )
        account = run.info["bytes"]["channels"]["exchange"]
        sent.append(account["sent"] / account["messages"])
    growth = [sent[1] - sent[0], (sent[2] - sent[1]) / 7]
    figures["bytes of a message with one estimate, headers counted"] = sent[0]
    return Finding("a message grows by one byte an estimate", f"{growth[0]}, {growth[1]}", growth == [1.0, 1.0])


def precision(figures: dict[str, float]) -> Finding:
    """Criterion 4."""
    logs = torch.linspace(-63 / 16, 63 / 16, 5001, dtype=torch.float64).tolist()
    errors = [abs(math.log(decode_slope(encode_slope(math.exp(log)))) - log) for log in logs]
    errors += [abs(math.log(-decode_slope(encode_slope(-math.exp(log)))) - log) for log in logs]
    worst = figures["error of a slope's logarithm, worst"] = max(errors)
    return Finding("a slope's logarithm is right to 1/32", f"{worst:.4f}", worst <= 1 / 32 + 1e-12)


# -- training ----------------------------------------------------------------------------------------------------


def training(setting: Setting, dataset: Dataset, figures: dict[str, float]) -> list[Finding]:
    """Criteria 5 and 6."""
    losses: dict[str, float] = {}
    for samples in (8, 1):
        lr = best_rate(setting, dataset, samples)
        runs = [run_with(setting, dataset, samples, lr, seed) for seed in setting.seeds]
        losses[f"{samples}"] = sum(float(run.curve("loss")[-1, 1]) for run in runs) / len(runs)
        figures[f"test loss, {samples} estimates"], figures[f"learning rate, {samples} estimates"] = (
            losses[f"{samples}"],
            lr,
        )
        figures[f"test accuracy, {samples} estimates"] = sum(float(run.curve()[-1, 1]) for run in runs) / len(runs)
    plain = [as_they_are(setting, dataset, figures["learning rate, 8 estimates"], seed) for seed in setting.seeds]
    losses["floats"] = figures["test loss, 8 estimates as floats"] = sum(plain) / len(plain)
    return judge(losses, dataset.name)


def judge(losses: dict[str, float], data: str) -> list[Finding]:
    """The findings of criteria 5 and 6."""
    many, one, floats = losses["8"], losses["1"], losses["floats"]
    return [
        Finding(
            f"{data}: 8 estimates a peer reach a lower test loss than one", f"{many:.3f} against {one:.3f}", many < one
        ),
        Finding(
            f"with bytes the test loss is within {WITHIN:.0%} of that with floats",
            f"{many:.4f} against {floats:.4f}",
            abs(many - floats) <= WITHIN * floats,
        ),
    ]


def best_rate(setting: Setting, dataset: Dataset, samples: int) -> float:
    """The rate with the lowest loss on the tuning seed."""
    rates = setting.rates[samples]
    if len(rates) == 1:
        return rates[0]
    tried = {lr: run_with(setting, dataset, samples, lr, setting.tuning_seed).curve("loss")[-1, 1] for lr in rates}
    return min(tried, key=lambda lr: float(tried[lr]))


def run_with(setting: Setting, dataset: Dataset, samples: int, lr: float, seed: int) -> Run:
    """A run of all iterations."""
    return simulate(
        OneByte(samples, lr=lr, eps=EPS),
        task=Task("images", mlp(dataset, setting.hidden), dataset),
        topology="complete",
        peers=PEERS,
        batch=BATCH,
        seed=seed,
        rounds=setting.iterations,
        evaluate=setting.iterations,
        network="ideal",
        eval_samples=10_000,
    )


def as_they_are(setting: Setting, dataset: Dataset, lr: float, seed: int) -> float:
    """Test loss of one machine that uses the slopes of 8 estimates for each peer's data, not rounded to bytes."""
    task = Task("images", mlp(dataset, setting.hidden), dataset)
    shards = [Shard(dataset.train, rows) for rows in iid(dataset.train, PEERS, seed=key(seed, "data"))[1]]
    model = descend(task, shards, 8, lr, seed, setting.iterations, in_bytes=False)
    module, layout = task.initial(0), Layout.of(task.initial(0))
    with torch.no_grad():
        output = torch.func.functional_call(module, layout.unflatten(model), (dataset.test.inputs,))
    return float(task.loss(output, dataset.test.targets).mean())


def descend(
    task: Task, shards: Sequence[Shard], samples: int, lr: float, seed: int, iterations: int, *, in_bytes: bool = True
) -> Tensor:
    """One machine's model [d] after SPSA steps with the batches and directions that a run under `seed` has."""
    module = task.initial(0)
    x, layout = flatten_module(task.initial(key(seed, "init")))

    def loss(vector: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        output = torch.func.functional_call(module, layout.unflatten(vector), (inputs,))
        return task.loss(output, targets).mean()

    for t in range(iterations):
        step = torch.zeros_like(x)
        for peer, shard in enumerate(shards):
            keys = [key(seed, "peer", peer, "batch", t, j) for j in range(samples)]
            drawn = [next(batches([stream(k, len(shard), BATCH, 1, 0)], [shard], [1])) for k in keys]
            inputs, targets = (torch.cat(part) for part in list(zip(*drawn, strict=True))[:2])
            z = torch.stack(list(directions(0, t, torch.full((samples,), peer), torch.arange(samples), x)))
            with torch.no_grad():
                plus, minus = (torch.func.vmap(loss)(x + sign * EPS * z, inputs, targets) for sign in (1.0, -1.0))
            slopes = ((plus.double() - minus.double()) / (2.0 * EPS)).tolist()
            sent = [decode_slope(encode_slope(rho)) if in_bytes else rho for rho in slopes]
            step += torch.tensor(sent, dtype=x.dtype) @ z
        x = x - lr / (samples * len(shards)) * step
    return x
