"""The same batched kernel in a bare chunked loop: no peers, no messages, no clock.

`python -m benchmarks.ours.kernel [one]`: every round from the mean of all (FedAvg), or with `each` every peer from
where it was (what a decentralised protocol computes).
"""

import sys

import torch

from benchmarks.ours.shared import begin, settings_of, task_of
from benchmarks.rivals.common import finish, tick
from shoal.engine.compute import Job
from shoal.learning import Shard, Trainer
from shoal.learning.batches import epochs, stream
from shoal.learning.requests import TrainInputs
from shoal.tensors.layout import load_into
from shoal.tensors.random import key

work = begin()
together = sys.argv[1:] != ["each"]
task = task_of(work)
settings = settings_of(work, task)
rule = settings["optimizer"]
trainer = Trainer(task, rule, batch=work.batch)
data, rows = settings["partition"]
shards = [Shard(data, own) for own in rows]
keys = [key(work.seed, "peer", i) for i in range(work.peers)]
total = sum(map(len, shards))
shares = [len(shard) / total for shard in shards]
model = trainer.initial(key(work.seed, "init"))
models = [model.clone() for _ in shards]


def job(i: int, r: int) -> Job:
    """Peer i's local steps of round r, as `Learner.train` asks for them."""
    size = len(shards[i])
    if work.epochs:
        schedule = epochs(keys[i], size, work.batch, work.epochs, r * work.epochs * size)
    else:
        schedule = stream(keys[i], size, work.batch, work.steps, r * work.steps * work.batch)
    start = model if together else models[i]
    memory = trainer.memory(start, keys[i])
    kernel = trainer.training(shards[i], schedule.batch, None, ())
    return Job(kernel, TrainInputs(start, shards[i], schedule, rule.lr, keys[i], 0, memory))


tick("start")
with torch.no_grad():
    for r in range(work.rounds):
        groups: dict[object, list[tuple[int, Job]]] = {}
        for i in range(work.peers):
            one = job(i, r)
            groups.setdefault(one.kernel, []).append((i, one))
        mean = torch.zeros_like(model)
        for kernel, members in groups.items():
            owner = {id(one): i for i, one in members}
            for chunk in kernel.chunks([one for _, one in members]):
                kernel.run(chunk)
                for one in chunk:
                    if together:
                        mean.add_(one.result.vector, alpha=shares[owner[id(one)]])
                        one.result = None
                    else:
                        models[owner[id(one)]] = one.result.vector
        if together:
            model = mean
        tick("round")
module = task.initial(0)
load_into(module, model if together else models[0], trainer.layout)
finish(work, module)
