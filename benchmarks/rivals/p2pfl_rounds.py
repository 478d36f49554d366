"""p2pfl's rounds in D-SGD's place: `p2pfl_rounds.py <rounds>`.

8 processes on loopback, gRPC with TLS, fully connected, 1 M parameters; in each round every node takes one step on a
batch of 32, and all aggregate. Settings are p2pfl's own but for longer timeouts, since with 2 cores its 8 nodes lose
each other else (with `set_standalone_settings`, whose gossip never pauses, in the first round), and without Ray, whose
actors would only come between. It evaluates every round, here on one sample.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
import types
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from common import tick

PEERS, HIDDEN = 8, 13_333


def main(rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    addresses, go, over = context.Queue(), context.Queue(), context.Queue()
    processes = [context.Process(target=live, args=(i, rounds, addresses, go, over)) for i in range(PEERS)]
    for process in processes:
        process.start()
    known = dict(addresses.get(timeout=300) for _ in processes)
    for _ in processes:
        go.put(known)
    for _ in processes:
        over.get(timeout=500)
    for process in processes:
        process.join(20)
        if process.is_alive():
            process.kill()


def live(id: int, rounds: int, addresses: Any, go: Any, over: Any) -> None:
    import lightning  # noqa: F401  (it and torchmetrics look for torchvision)
    import torchmetrics  # noqa: F401

    for name in ("torchvision", "torchvision.datasets"):  # imported for data sets that are not used here
        sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision"].datasets = sys.modules["torchvision.datasets"]  # type: ignore[attr-defined]
    from p2pfl.settings import Settings

    Settings.general.DISABLE_RAY = True
    from datasets import Dataset, DatasetDict
    from p2pfl.examples.mnist.model.mlp_pytorch import model_build_fn
    from p2pfl.learning.dataset.p2pfl_dataset import P2PFLDataset
    from p2pfl.node import Node

    Settings.general.GRPC_TIMEOUT = 60.0
    Settings.heartbeat.TIMEOUT = 120.0

    def samples(count: int) -> Any:
        images = [[[((i + j * k) % 7) / 7 for k in range(8)] for j in range(8)] for i in range(count)]
        return Dataset.from_dict({"image": images, "label": [i % 10 for i in range(count)]}).with_format("torch")

    data = P2PFLDataset(DatasetDict({"train": samples(32), "test": samples(1)}), batch_size=32)
    node = Node(model_build_fn(input_size=64, hidden_sizes=[HIDDEN]), data, addr="127.0.0.1")
    node.start()
    addresses.put((id, node.addr))
    known = go.get()
    for other, address in known.items():
        if other < id:
            node.connect(address)
    while len(node.get_neighbors()) < PEERS - 1:
        time.sleep(0.1)
    time.sleep(4.0)
    if id == 0:
        node.set_start_learning(rounds=rounds, epochs=1, trainset_size=PEERS)
    while node.state.round is None:
        time.sleep(0.005)
    if id == 0:
        tick("start")
    seen = node.state.round
    while (now := node.state.round) is not None:
        if now != seen:
            seen = now
            if id == 0:
                tick("round")
        time.sleep(0.002)
    if id == 0:
        tick("round")
    over.put(id)
    time.sleep(1.0)
    node.stop()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:  # p2pfl and Lightning write logs where they stand
        os.chdir(folder)
        main(int(sys.argv[1]))
    tick("done")
