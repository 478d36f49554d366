"""The engine: peers, time, messages, faults, batched compute. It knows nothing of models."""

from shoal.engine.adversary import Adversary, Occasion
from shoal.engine.devices import Device
from shoal.engine.errors import (
    Deadlock,
    Livelock,
    Mutated,
    NonFinite,
    PeerFailed,
    PeerLost,
    Refused,
    ShoalError,
)
from shoal.engine.faults import Crash, Fault, Join, Leave, Partition, Restart, Slow, random_faults
from shoal.engine.links import Link
from shoal.engine.message import Received
from shoal.engine.peer import Peer
from shoal.engine.simulated import SimulatedWorld
from shoal.engine.state import State
from shoal.engine.world import Offers, World

__all__ = [
    "Adversary",
    "Crash",
    "Deadlock",
    "Device",
    "Fault",
    "Join",
    "Leave",
    "Link",
    "Livelock",
    "Mutated",
    "NonFinite",
    "Occasion",
    "Offers",
    "Partition",
    "Peer",
    "PeerFailed",
    "PeerLost",
    "Received",
    "Refused",
    "Restart",
    "ShoalError",
    "SimulatedWorld",
    "Slow",
    "State",
    "World",
    "random_faults",
]
