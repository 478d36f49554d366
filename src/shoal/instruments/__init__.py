"""Instruments: what a loss looks like where an optimizer is, and what its samples and classes do meanwhile."""
