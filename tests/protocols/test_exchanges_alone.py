"""Which protocols talk by exchanges alone, and so run in a world where all peers go in step: declared, and done."""

from __future__ import annotations

from typing import Any

import pytest

from shoal import names
from shoal.engine import Offers, Peer, Refused
from shoal.protocols import check_needs
from shoal.simulation import simulate

BESIDE_EXCHANGES = ("send", "receive", "request", "request_all", "serve")
IN_STEP = Offers(asynchrony=False, reliable_links=True, server=False, requests=False)
BY_EXCHANGE_ALONE = ["gossip", "dsgd", "decavg", "variance-corrected", "demo", "isolated", "centralised"]


@pytest.mark.parametrize("name", names.PROTOCOLS)
def test_requests_are_needed_by_those_who_use_anything_but_exchanges(name: str, monkeypatch: Any) -> None:
    used = set()

    def watched(method: str) -> Any:
        original = getattr(Peer, method)

        def call(self: Peer, *arguments: Any, **more: Any) -> Any:
            used.add(method)
            return original(self, *arguments, **more)

        return call

    for method in BESIDE_EXCHANGES:
        monkeypatch.setattr(Peer, method, watched(method))
    task = {"task": "digits", "model": "mlp:4"} if name == "fedvote" else {"task": "quadratic:dimension=4"}
    simulate(name, topology="complete", peers=3, rounds=2, **task)
    assert names.PROTOCOLS[name].load().needs.requests == bool(used)


@pytest.mark.parametrize("name", names.PROTOCOLS)
def test_a_world_in_step_refuses_all_protocols_but_those_that_only_exchange(name: str) -> None:
    needs = names.PROTOCOLS[name].load().needs
    if name in BY_EXCHANGE_ALONE:
        check_needs(name, needs, IN_STEP)
        return
    with pytest.raises(Refused, match=rf"^{name} needs .*this world"):
        check_needs(name, needs, IN_STEP)
