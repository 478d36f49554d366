"""Campaigns: long trials of real peers, with faults, bad links and hostile members."""
