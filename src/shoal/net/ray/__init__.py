"""Peers on a Ray cluster: blocks of them in actors, and the computing of a simulation spread over workers.

Ray pickles what it carries: all machines of a cluster trust each other. What peers say still travels as frames, and is
checked as anywhere else. Ray itself is imported when a cluster is used.
"""

from shoal.net.ray.cluster import RayLine, cluster, cpus_of_each, first_answers, need_ray
from shoal.net.ray.hub import Hub, RayTransport
from shoal.net.ray.queues import Batch, HostLost, Line
from shoal.net.ray.workers import ray_workers

__all__ = [
    "Batch",
    "HostLost",
    "Hub",
    "Line",
    "RayLine",
    "RayTransport",
    "cluster",
    "cpus_of_each",
    "first_answers",
    "need_ray",
    "ray_workers",
]
