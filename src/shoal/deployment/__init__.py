"""Experiments on real machines: the parts of an experiment as one peer of it needs them, and its life there."""

from shoal.deployment.node import Node, real_parts

__all__ = ["Node", "real_parts"]
