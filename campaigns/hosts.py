"""Hosts with bad links on one machine: network namespaces, between which packets go through this process.

Each host is a process in a namespace of its own, with one interface, a TUN device whose other end is here: whole IP
packets are delayed, dropped, queued and cut off as links would, whatever the kernel has for that. (netem, which does
the same, is a module that many kernels lack.) Linux, and root or the right to make namespaces.
"""

from __future__ import annotations

import ctypes
import fcntl
import heapq
import os
import random
import selectors
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

CLONE_NEWNET = 0x40000000
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x0001, 0x1000
SUBNET = "10.77.0."
MTU = 1500


@dataclass(frozen=True)
class Wire:
    """What each host's way out is like.

    Attributes:
        delay: seconds one way.
        loss: share of packets.
        rate: bytes a second.
        queue: packets that wait at most; others are dropped.
    """

    delay: float = 0.08
    loss: float = 0.02
    rate: float = 20e6 / 8
    queue: int = 1000


def address(host: int) -> str:
    """IP address of a host."""
    return f"{SUBNET}{host + 1}"


def why_not() -> str | None:
    """Why this machine cannot have such hosts; None if it can."""
    if not hasattr(os, "fork") or not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun"
    try:
        done = subprocess.run(
            ["unshare", "-n", "sh", "-c", "ip tuntap add dev shoal0 mode tun && ip link set shoal0 up"],
            capture_output=True,
            text=True,
        )
    except FileNotFoundError as error:
        return f"there is no {error.filename}"
    return None if done.returncode == 0 else f"no namespaces or TUN devices: {done.stderr.strip()[:200]}"


def become(host: int, router: str) -> None:
    """Make this process a host, in a namespace of its own, with its packets going through a router.

    Args:
        host: its number.
        router: path of the router's socket.
    """
    if ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare")
    device = os.open("/dev/net/tun", os.O_RDWR)
    fcntl.ioctl(device, TUNSETIFF, struct.pack("16sH22x", b"shoal0", IFF_TUN | IFF_NO_PI))
    for words in (
        f"addr add {address(host)}/24 dev shoal0",
        f"link set shoal0 mtu {MTU} up",
        "link set lo up",
        "route add default dev shoal0",
    ):
        subprocess.run(["ip", *words.split()], check=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.connect(router)
        socket.send_fds(channel, [bytes([host])], [device])
        channel.recv(1)
    os.close(device)


class Router:
    """Carries packets between hosts, in a thread.

    Args:
        path: of the socket at which hosts come.
        wire: what their ways out are like.
        seed: of the losses.

    Attributes:
        carried, lost, cut: packets that went through, that the wires lost, and that were dropped by a partition.
    """

    def __init__(self, path: Path, wire: Wire, seed: int = 0) -> None:
        self.path, self.wire = str(path), wire
        self.carried = self.lost = self.cut = 0
        self._rng = random.Random(seed)
        self._devices: dict[int, int] = {}
        self._free: dict[int, float] = {}
        self._waiting: list[tuple[float, int, int, bytes]] = []
        self._number = 0
        self._side: frozenset[int] = frozenset()
        self._selector = selectors.DefaultSelector()
        self._door = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._door.bind(self.path)
        self._door.listen(64)
        self._selector.register(self._door, selectors.EVENT_READ, None)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def divide(self, side: Collection[int]) -> None:
        """From now on nothing passes between these hosts and the others; an empty side heals it."""
        self._side = frozenset(side)

    def close(self) -> None:
        """End."""
        self._over.set()
        self._thread.join()
        for device in self._devices.values():
            os.close(device)
        self._door.close()

    def _run(self) -> None:
        while not self._over.is_set():
            wait = 0.05 if not self._waiting else min(0.05, max(0.0, self._waiting[0][0] - time.monotonic()))
            for key, _ in self._selector.select(wait):
                if key.data is None:
                    self._welcome()
                else:
                    self._read(key.data)
            self._deliver()

    def _welcome(self) -> None:
        channel, _ = self._door.accept()
        with channel:
            said, [device], _, _ = socket.recv_fds(channel, 1, 1)
            host = said[0]
            os.set_blocking(device, False)
            if host in self._devices:
                self._selector.unregister(self._devices[host])
                os.close(self._devices[host])
            self._devices[host] = device
            self._selector.register(device, selectors.EVENT_READ, host)
            channel.sendall(b"!")

    def _read(self, host: int) -> None:
        device = self._devices[host]
        for _ in range(64):
            try:
                packet = os.read(device, MTU + 100)
            except BlockingIOError:
                return
            except OSError:  # the host is gone
                self._selector.unregister(device)
                os.close(self._devices.pop(host))
                return
            self._send(host, packet)

    def _send(self, host: int, packet: bytes) -> None:
        if len(packet) < 20 or packet[0] >> 4 != 4 or packet[16:19] != socket.inet_aton(address(0))[:3]:
            return
        to, now, wire = packet[19] - 1, time.monotonic(), self.wire
        if (host in self._side) != (to in self._side):
            self.cut += 1
            return
        free = max(self._free.get(host, 0.0), now)
        if self._rng.random() < wire.loss or (free - now) * wire.rate > wire.queue * len(packet):
            self.lost += 1
            return
        self._free[host] = left = free + len(packet) / wire.rate
        self._number += 1
        heapq.heappush(self._waiting, (left + wire.delay, self._number, to, packet))

    def _deliver(self) -> None:
        now = time.monotonic()
        while self._waiting and self._waiting[0][0] <= now:
            _, _, to, packet = heapq.heappop(self._waiting)
            device = self._devices.get(to)
            if device is not None:
                try:
                    os.write(device, packet)
                    self.carried += 1
                except OSError:
                    self.lost += 1
