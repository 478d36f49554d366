"""What a protocol needs and a world lacks is refused before anything runs; the floor and the oracle."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch

from shoal.engine import Link, Offers, Refused, SimulatedWorld
from shoal.learning import Learner
from shoal.optim import SGD
from shoal.protocols import Centralised, DecAvg, Isolated, Needs, SynchronousSGD, check_needs
from shoal.topology import Topology, from_edges, is_connected, ring

from . import runs


def two_islands() -> Topology:
    return from_edges(4, [(0, 1), (2, 3)])


@pytest.mark.parametrize("protocol", ["gossip", "dsgd", "pairwise", "decavg", "variance-corrected"])
def test_gossip_on_islands_is_refused_unless_they_are_meant(protocol: str) -> None:
    task = runs.regression()
    pieces = runs.partition(task, [5] * 4)
    assert not is_connected(two_islands())
    with pytest.raises(ValueError, match="not connected"):
        runs.run(protocol, task, pieces, topology=two_islands())
    assert runs.run(protocol, task, pieces, topology=two_islands(), disconnected=True).status == "finished"


@pytest.mark.parametrize("protocol", ["isolated", "fedavg"])
def test_who_needs_no_neighbours_may_be_on_an_island(protocol: str) -> None:
    task = runs.regression()
    assert runs.run(protocol, task, runs.partition(task, [5] * 4), topology=two_islands()).status == "finished"


def test_lossy_links_are_refused_where_no_message_may_be_lost() -> None:
    task = runs.regression()
    pieces = runs.same(task, 2)
    with pytest.raises(Refused, match="lose no message"):
        runs.run(SynchronousSGD(batch=2), task, pieces, network="mobile")
    assert runs.run(SynchronousSGD(batch=2), task, pieces, network="wan").status == "finished"


@pytest.mark.parametrize("protocol", ["gossip", "fedavg", "isolated", "pairwise", "dsgd"])
def test_relays_are_refused_where_everybody_must_hold_data(protocol: str) -> None:
    task = runs.regression()
    data, pieces = runs.partition(task, [5] * 4)
    pieces[2] = pieces[2][:0]
    with pytest.raises(Refused, match="needs data at every peer"):
        runs.run(protocol, task, (data, pieces), relays=(2,))
    assert runs.run(DecAvg(), task, (data, pieces), relays=(2,)).status == "finished"


def test_a_protocol_of_ones_own_may_declare_needs_too() -> None:
    class Picky:
        needs: ClassVar[Needs] = Needs(reliable_links=True)

        async def __call__(self, me: Learner) -> None:
            async for _ in me.rounds():
                pass

    async def easy(me: Learner) -> None:
        async for _ in me.rounds():
            pass

    task = runs.regression()
    pieces = runs.partition(task, [5] * 4)
    with pytest.raises(Refused):
        runs.run(Picky(), task, pieces, network="mobile")
    assert runs.run(easy, task, pieces, network="mobile").status == "finished"


@pytest.mark.parametrize("what", ["asynchrony", "reliable_links", "server", "requests"])
def test_a_world_refuses_who_needs_what_it_lacks_and_nobody_else(what: str) -> None:
    nothing = Offers(asynchrony=False, reliable_links=False, server=False, requests=False)
    with pytest.raises(Refused, match="picky"):
        check_needs("picky", Needs(**{what: True}), nothing)
    check_needs("picky", Needs(**{what: True}), replace(nothing, **{what: True}))
    check_needs("easy", Needs(), nothing)


def test_a_simulated_world_has_what_its_links_and_its_server_give_it() -> None:
    assert SimulatedWorld(2, server=1).offers == Offers()
    lossy = SimulatedWorld(2, links=[Link(loss=0.1), Link()])
    assert lossy.offers == Offers(reliable_links=False, server=False)


def test_only_who_needs_a_server_gets_one() -> None:
    seen: dict[str, list[tuple[int, int, bool, list[int]]]] = {"yes": [], "no": []}

    def protocol(name: str, needs: Needs) -> Callable[[Learner], Any]:
        async def look(me: Learner) -> None:
            seen[name].append((me.id, me.peers, me.is_server, me.clients))

        look.needs = needs  # type: ignore[attr-defined]
        return look

    task = runs.regression()
    pieces = runs.partition(task, [5] * 3)
    runs.run(protocol("yes", Needs(server=True)), task, pieces)
    runs.run(protocol("no", Needs()), task, pieces)
    assert seen["yes"] == [(i, 4, i == 3, [0, 1, 2]) for i in range(4)]
    assert seen["no"] == [(i, 3, False, [0, 1, 2]) for i in range(3)]


def test_the_oracle_is_one_peer_with_all_data() -> None:
    task = runs.regression(24)
    data, pieces = runs.partition(task, [8] * 3)
    run = runs.run(Centralised(steps=2), task, (data, pieces), SGD.rule(0.1), batch=0, rounds=4)
    w = runs.start(task)
    for _ in range(8):
        w = w - 0.1 * runs.gradient(w, data)
    torch.testing.assert_close(runs.stack(run), w[None], rtol=1e-12, atol=1e-13)
    assert run.info["bytes"]["total"] == 0


def test_the_floor_is_everybody_with_their_own_data() -> None:
    task = runs.regression()
    data, pieces = runs.partition(task, [8, 3, 5])
    run = runs.run(Isolated(steps=2), task, (data, pieces), SGD.rule(0.1), batch=0, rounds=4, topology=ring(3))
    for i, rows in enumerate(pieces):
        w = runs.start(task)
        for _ in range(8):
            w = w - 0.1 * runs.gradient(w, data, rows)
        torch.testing.assert_close(run.models[i], w, rtol=1e-12, atol=1e-13)
    assert run.info["bytes"]["total"] == 0
