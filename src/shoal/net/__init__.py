"""The same peers on real machines: frames, transports, and the world behind a single peer."""

from shoal.net.frames import Frame, MalformedFrame, Reader, frame_limit, read_frame
from shoal.net.members import Members
from shoal.net.store import Store
from shoal.net.transport import Ears, Transport
from shoal.net.world import RealWorld

__all__ = [
    "Ears",
    "Frame",
    "MalformedFrame",
    "Members",
    "Reader",
    "RealWorld",
    "Store",
    "Transport",
    "frame_limit",
    "read_frame",
]
