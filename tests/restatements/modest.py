"""MoDeST, federated averaging over samples that every node works out for itself, restated in plain Python.

A. Dhasade, A.-M. Kermarrec, E. Lavoie, J. Pouwelse, R. Sharma, M. de Vos, "MoDeST: Bridging the Gap between Federated
and Decentralized Learning with Decentralized Sampling", arXiv:2302.13837 (2023).

    view:       node -> (last round it was active, membership counter, whether it is in)
    merge:      activity = max;  of two memberships the one with the larger counter
    sample(k):  nodes that are in and were active in round k - Dk or later, sorted by MD5(id || k); asked in that
                order, the first s that answer
    round k:    a participant trains the model it got, and sends it to the first a that answer of sample k + 1;
                an aggregator of sample k + 1 averages, unweighted, floor(s sf) models or more, and sends the average
                to the s that answer of sample k + 1

So the aggregators of round k are participants of round k + 1, or would be. Models travel with the sender's view.

Where readings differ (the authors' code, devos50/decentralized-learning and sacs-epfl/plexus, was consulted):

* What is hashed: their public key, a hyphen and the round in decimal digits. Here an id is a number, and its decimal
  digits stand for the key. Digests compare as bytes; of equal ones (there are none) the smaller id would come first.
* Whether a node counts itself: always, whatever its view says of its own membership and activity.
* Equal counters with different memberships: the entry one has stays.
* A node that starts: all know all from the beginning, with activity 0 and counter 0, and round 1 goes to sample(1)
  without being asked, each starting from the common model. A node that comes later is put aside by whoever hears of
  it, and counts from that node's next merge on (in the authors' code, from after its next sending).
* Who is active when: whoever sends a model of index k is so in round k, for the receiver; and for itself.
* The models at a timeout: "enough" is a share of s as well (0.4 in the later code), and at least one.
* Order of sums: over participants by id.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import md5
from math import floor, fsum

Vector = tuple[float, ...]
Entry = tuple[int, int, bool]
"""(last active round, membership counter, whether the node is in)."""
View = Mapping[int, Entry]
Train = Callable[[int, int, Vector], Vector]
"""(node, round, model) -> trained model."""


def initial_view(nodes: int) -> dict[int, Entry]:
    """Return the view that all nodes 0 to `nodes` - 1 begin with."""
    return dict.fromkeys(range(nodes), (0, 0, True))


def merge(mine: View, other: View) -> dict[int, Entry]:
    """Return my view with what the other one knows better."""
    result = dict(mine)
    for node, (active, counter, joined) in other.items():
        if node not in result:
            result[node] = (active, counter, joined)
            continue
        own_active, own_counter, own_joined = result[node]
        membership = (counter, joined) if counter > own_counter else (own_counter, own_joined)
        result[node] = (max(active, own_active), *membership)
    return result


def touch(view: View, node: int, round: int) -> dict[int, Entry]:
    """Return the view after the node was seen active in a round."""
    active, counter, joined = view[node]
    return {**view, node: (max(active, round), counter, joined)}


def ordered(nodes: Iterable[int], round: int) -> list[int]:
    """Return the nodes sorted by MD5("<node>-<round>")."""
    return sorted(sorted(nodes), key=lambda node: md5(f"{node}-{round}".encode()).digest())


def candidates(view: View, round: int, window: int, own: int | None = None) -> list[int]:
    """Return whom to ask for the sample of a round, in this order; `own` is always among them."""
    active = [node for node, (last, _, joined) in view.items() if node == own or (joined and last >= round - window)]
    return ordered(active, round)


def sample(asked: Sequence[int], count: int, answers: Callable[[int], bool] = lambda node: True) -> list[int]:
    """Return the first `count` of those asked that answer."""
    return [node for node in asked if answers(node)][:count]


def enough(size: int, fraction: float) -> int:
    """Return floor(s sf), at least one; a billionth is added, lest a whole product loses a model in floats."""
    return max(1, floor(size * fraction + 1e-9))


def average(models: Mapping[int, Vector]) -> Vector:
    """Return the unweighted mean of node -> model, each coordinate summed exactly."""
    return tuple(fsum(column) / len(models) for column in zip(*models.values(), strict=True))


@dataclass(frozen=True)
class Round:
    """What happened in one round, without failures.

    Attributes:
        number: k, from 1 on.
        participants: sample k, in hash order.
        aggregators: the first of sample k + 1, in hash order.
        start: the model that the participants trained from.
        trained: participant -> model.
        average: what the aggregators sent on.
        transfers: models sent from one node to another, those to oneself not counted.
    """

    number: int
    participants: tuple[int, ...]
    aggregators: tuple[int, ...]
    start: Vector
    trained: Mapping[int, Vector]
    average: Vector
    transfers: int


def trace(
    start: Vector, nodes: int, train: Train, rounds: int, *, size: int, aggregators: int, window: int
) -> tuple[list[Round], list[dict[int, Entry]]]:
    """Run synchronous rounds without failures and with sf = 1; every node keeps a view of its own.

    Returns the rounds and the nodes' views in the end. The window must not be shorter than the number of rounds: a
    node not sampled for so long drops out of the views, and the samples of different nodes drift apart.
    """
    if window < rounds:
        raise ValueError(f"window: got {window}; at least the {rounds} rounds is allowed")
    views = [initial_view(nodes) for _ in range(nodes)]
    model, log = start, []
    for k in range(1, rounds + 1):
        participants = agreed([sample(candidates(views[0], k, window), size)])
        if k > 1:
            senders = log[-1].aggregators
            participants = agreed([sample(candidates(views[j], k, window, j), size) for j in senders])
            for j in senders:
                for i in participants:
                    views[i] = touch(merge(views[i], touch(views[j], j, k)), j, k)
        trained = {i: train(i, k, model) for i in participants}
        for i in participants:
            views[i] = touch(views[i], i, k)
        chosen = agreed([sample(candidates(views[i], k + 1, window, i), aggregators) for i in participants])
        for j in chosen:
            for i in participants:
                views[j] = touch(merge(views[j], views[i]), i, k + 1)
            views[j] = touch(views[j], j, k + 1)
        after = sample(candidates(views[chosen[0]], k + 1, window, chosen[0]), size)
        transfers = sum(i != j for i in participants for j in chosen) + sum(i != j for j in chosen for i in after)
        mean = average({i: trained[i] for i in sorted(trained)})
        log.append(Round(k, tuple(participants), tuple(chosen), model, trained, mean, transfers))
        model = mean
    return log, views


def agreed(lists: Sequence[list[int]]) -> list[int]:
    """Return what all the lists say; they must be equal."""
    if any(found != lists[0] for found in lists):
        raise AssertionError(f"nodes disagree about a sample: {lists}")
    return lists[0]
