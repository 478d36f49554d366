"""Experiments in a `torch.distributed` group: `torchrun --nproc-per-node 4 -m shoal run experiment.toml --on torch`."""
