"""What users might point `shoal diagnose` at."""

import torch
from torch import nn

from shoal.simulation.tasks import digits


def fine():
    inputs = torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
    return (
        nn.Linear(3, 1),
        (inputs, inputs.sum(1, keepdim=True)),
        lambda output, target: (output - target).square().mean(1),
    )


def a_task():
    return digits()


def scalar_loss():
    model, data, _ = fine()
    return model, data, nn.functional.mse_loss


def wrong_shapes():
    _, data, loss = fine()
    return nn.Linear(4, 1), data, loss


def frozen():
    model, data, loss = fine()
    return model.requires_grad_(False), data, loss


def broken():
    raise RuntimeError("no luck\ntoday")


def nothing():
    return 3


class Named(nn.Linear):
    def forward(self, x):
        return {"logits": super().forward(x)}


def dictionary():
    _, data, loss = fine()
    return Named(3, 1), data, lambda output, target: loss(output["logits"], target)
