"""Peers on a Ray cluster: blocks of them in actors, and the computing of a simulation spread over workers.

Ray pickles what it carries: all machines of a cluster trust each other. What peers say still travels as frames, and is
checked as anywhere else. Ray itself is imported when a cluster is used.
"""

from shoal.net.ray.cluster import RayLine, cluster, need_ray
from shoal.net.ray.hub import Batch, HostLost, Hub, Line, RayTransport

__all__ = ["Batch", "HostLost", "Hub", "Line", "RayLine", "RayTransport", "cluster", "need_ray"]
