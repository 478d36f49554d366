"""Features of grey images of 28 x 28 for `FID`: the last hidden layer [32] of a small classifier of Fashion-MNIST.

`python -m shoal.instruments.features` trains the classifier and writes its weights, with what made them, to the file
that `fashion_features` reads.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from shoal.files import write_tensors

WEIGHTS = Path(__file__).parent / "fashion_features.safetensors"
KEY = "shoal.features"
SIZE = 32


class FashionFeatures(nn.Module):
    """Two convolutions of stride 2 and two linear layers. forward: [B, 784] or [B, 1, 28, 28] in 0..1 -> [B, 32]."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 16, 5, stride=2, padding=2)
        self.second = nn.Conv2d(16, 32, 3, stride=2, padding=1)
        self.hidden = nn.Linear(32 * 7 * 7, SIZE)
        self.out = nn.Linear(SIZE, 10)

    def forward(self, images: Tensor) -> Tensor:
        """The hidden layer after its ReLU."""
        x = F.relu(self.first(images.reshape(-1, 1, 28, 28)))
        x = F.relu(self.second(x))
        return F.relu(self.hidden(x.flatten(1)))

    def logits(self, images: Tensor) -> Tensor:
        """[B, 10]."""
        logits: Tensor = self.out(self(images))
        return logits


def fashion_features(path: str | Path = WEIGHTS, *, device: torch.device | str = "cpu") -> FashionFeatures:
    """The trained features, frozen.

    Args:
        path: safetensors file of `save_features`; default: the one that comes with Shoal.
        device: where they compute.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is damaged, or holds other tensors.
    """
    path, model = Path(path), FashionFeatures()
    if not path.exists():
        raise FileNotFoundError(f"path: there is no file {path}; `python -m shoal.instruments.features` makes it")
    try:
        with safe_open(path, framework="pt") as file:
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dictionary)
    except (SafetensorError, OSError) as error:
        raise ValueError(f"path: {path} is not a whole safetensors file ({error})") from None
    wanted = {name: tuple(p.shape) for name, p in model.state_dict().items()}
    shapes = {name: tuple(x.shape) for name, x in found.items()}
    if shapes != wanted:
        odd = sorted(name for name in wanted.keys() | shapes.keys() if wanted.get(name) != shapes.get(name))[0]
        raise ValueError(f"path: {path} holds {odd} of shape {shapes.get(odd)}; {wanted.get(odd)} is allowed")
    if not all(bool(torch.isfinite(x).all()) for x in found.values()):
        raise ValueError(f"path: {path} holds NaN or infinity; finite numbers are allowed")
    model.load_state_dict(found)
    return model.requires_grad_(False).eval().to(device)


def made_how(path: str | Path = WEIGHTS) -> dict[str, object]:
    """What the file says of how its weights were made."""
    with safe_open(Path(path), framework="pt") as file:
        made: dict[str, object] = json.loads((file.metadata() or {}).get(KEY, "{}"))
    return made


def save_features(model: FashionFeatures, path: str | Path, made: dict[str, object]) -> None:
    """Write weights and what made them; the file is whole or not there."""
    tensors = {name: x.detach().cpu().contiguous() for name, x in model.state_dict().items()}
    write_tensors(Path(path), tensors, {KEY: json.dumps(made, sort_keys=True)})


def train_features(
    images: Tensor, labels: Tensor, *, epochs: int = 4, batch: int = 128, seed: int = 0
) -> FashionFeatures:
    """A classifier of images [N, 784] with labels [N], by AdamW with half a cosine from a rate of 0.002.

    Raises:
        ValueError: shapes do not fit.
    """
    if images.dim() != 2 or images.shape[1] != 784 or labels.shape != images.shape[:1]:
        raise ValueError(
            f"images: got {tuple(images.shape)} with labels {tuple(labels.shape)}; [N, 784], [N] are allowed"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = FashionFeatures()
    random = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    total = epochs * (len(images) // batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, total)
    for _ in range(epochs):
        order = torch.randperm(len(images), generator=random)
        for rows in order.split(batch)[: len(images) // batch]:
            loss = F.cross_entropy(model.logits(images[rows]), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model


def main() -> None:
    """Train on Fashion-MNIST's training images, and write the file that comes with Shoal."""
    from shoal.learning.data import fashion_mnist

    dataset = fashion_mnist()
    settings = {"epochs": 4, "batch": 128, "seed": 0}
    model = train_features(dataset.train.inputs, dataset.train.targets, **settings)
    with torch.no_grad():
        right = (model.logits(dataset.test.inputs).argmax(1) == dataset.test.targets).double().mean()
    made = {
        "data": "Fashion-MNIST, 60,000 training images in 0..1",
        "command": "python -m shoal.instruments.features",
        "optimizer": "AdamW, lr 0.002 with half a cosine, weight decay 0.01",
        "test accuracy": round(float(right), 4),
        "torch": torch.__version__,
        **settings,
    }
    save_features(model, WEIGHTS, made)
    print(f"{WEIGHTS}: {WEIGHTS.stat().st_size} bytes, accuracy {float(right):.4f}")


if __name__ == "__main__":
    main()
