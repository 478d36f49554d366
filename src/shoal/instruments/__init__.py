"""Instruments: what can be measured of a model and its loss while it is trained."""
