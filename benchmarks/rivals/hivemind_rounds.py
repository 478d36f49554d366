"""hivemind's averaging in D-SGD's place: `hivemind_rounds.py <rounds>`.

8 processes on loopback, 1 M parameters; in each round every peer takes an SGD step on a batch of 32, and all average
their models by all-reduce in one group. The group is matched as soon as all are there.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from typing import Any

import hivemind
import torch
from common import tick
from torch import nn

PEERS, HIDDEN = 8, 13_333


def main(rounds: int) -> None:
    context = multiprocessing.get_context("spawn")
    barrier, addresses, results = context.Barrier(PEERS, timeout=240), context.Queue(), context.Queue()
    shared = rounds, context.Lock(), barrier, addresses, results
    processes = [context.Process(target=live, args=(i, *shared)) for i in range(PEERS)]
    for process in processes:
        process.start()
    found = [results.get(timeout=500) for _ in processes]
    for process in processes:
        process.join(60)
        if process.is_alive():
            process.kill()
    for moment, tag in sorted(max(moments) for moments in zip(*found, strict=True)):
        print(f"{moment:.3f} {tag}")


def live(id: int, rounds: int, lock: Any, barrier: Any, addresses: Any, results: Any) -> None:
    multiprocessing.set_start_method("fork", force=True)  # what hivemind starts does not survive being pickled
    torch.set_num_threads(1)
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(64, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    here = {"host_maddrs": ["/ip4/127.0.0.1/tcp/0"], "use_ipfs": False}
    if id == 0:
        dht = hivemind.DHT(start=True, **here)
        for _ in range(PEERS - 1):
            addresses.put([str(address) for address in dht.get_visible_maddrs()])
    else:
        known = addresses.get()
        with lock:
            dht = joined(known, here)
    averager = hivemind.averaging.DecentralizedAverager(
        [p.detach().clone() for p in model.parameters()],
        dht,
        prefix="rounds",
        target_group_size=PEERS,
        min_group_size=PEERS,
        min_matchmaking_time=1.0,
        start=True,
    )
    moments: list[tuple[float, str]] = []
    barrier.wait()
    if id == 0:
        tick("start")
    for r in range(rounds):
        began = time.time()
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
        with averager.get_tensors() as tensors, torch.no_grad():
            for mine, tensor in zip(model.parameters(), tensors, strict=True):
                tensor.copy_(mine)
        group = averager.step(timeout=60, allow_retries=True)
        assert group is not None
        assert len(group) == PEERS
        with averager.get_tensors() as tensors, torch.no_grad():
            for mine, tensor in zip(model.parameters(), tensors, strict=True):
                mine.copy_(tensor)
        moments.append((time.time() - began, str(r)))
        if id == 0:
            tick("round")
    results.put(moments)
    barrier.wait()
    averager.shutdown()
    dht.shutdown()


def joined(known: list[str], here: dict[str, Any], tries: int = 6) -> Any:
    """A DHT that has found the first one; on a busy machine its daemon gives up early."""
    for left in range(tries - 1, -1, -1):
        try:
            return hivemind.DHT(initial_peers=known, start=True, **here)
        except Exception:
            if not left:
                raise
            time.sleep(2.0)
    raise AssertionError


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(int(sys.argv[1]))
    tick("done")
