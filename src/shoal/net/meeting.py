"""A session of a group in a store that may hold what an earlier session has left: torchrun restarts with the same one.

Every process says hello with a word of its own. Rank 0 answers with the words that it has read and the name of a
session, again and again until every process has said that it found its own word there.
"""

from __future__ import annotations

import json
import time
import uuid
from typing import Any

EVERY = 0.05  # seconds between two looks


def agree_on_session(store: Any, rank: int, size: int, timeout: float) -> str:
    """The name of a session of those who are here now.

    Args:
        store: of `torch.distributed`.
        rank, size: of this process, and of the group.
        timeout: seconds to wait for the others.

    Raises:
        TimeoutError: somebody has not come.
    """
    own, until = uuid.uuid4().hex, time.monotonic() + timeout
    store.set(f"hello/{rank}", own)
    session, others = own, range(1, size)
    while time.monotonic() < until:
        if rank == 0:
            words = [_read(store, f"hello/{other}", until) for other in others]
            store.set("welcome", json.dumps([session, words]))
            came = [f"here/{other}" for other in others]
            if all(store.check([name]) and store.get(name).decode() == session for name in came):
                return session
        else:
            session, heard = json.loads(_read(store, "welcome", until))
            if len(heard) == size - 1 and heard[rank - 1] == own:
                store.set(f"here/{rank}", session)
                return str(session)
        time.sleep(EVERY)
    raise TimeoutError(f"rank {rank} waits for others of {size} processes to come, for {timeout:g} s now")


def _read(store: Any, name: str, until: float) -> str:
    """A value that somebody is going to set."""
    while not store.check([name]):
        if time.monotonic() > until:
            raise TimeoutError(f"nobody has set {name!r} in the group's store: a process has not come")
        time.sleep(EVERY)
    value: str = store.get(name).decode()
    return value
