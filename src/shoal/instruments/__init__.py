"""Instruments: what is measured on models and samples."""
