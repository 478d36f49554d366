"""Datasets with heavy-tailed classes: a synthetic one, and images of which half have a class of their own by a barcode.

F. Kunstner, R. Yadav, A. Milligan, M. Schmidt, A. Bietti, "Heavy-Tailed Class Imbalance and Why Adam Outperforms
Gradient Descent on Language Models", NeurIPS 2024 (arXiv:2402.19449).
"""

from __future__ import annotations

import numpy as np
import torch

from shoal.learning.data.dataset import Data, Dataset


def heavy_tail(size: int = 8, *, dimension: int | None = None, seed: int = 0) -> Dataset:
    """Labels of heavy-tailed classes that do not depend on the inputs.

    For i = 0 .. m-1 there are 2^i classes of 2^(m-i) samples each: 2^m - 1 classes in m groups of 2^m samples. Inputs
    are uniform in [0, 1), float32 [N, d]; targets int64 [N], the most frequent class first. There is nothing to learn
    but by heart, so `test` is `train`.

    Args:
        size: m, in 1..14; N = m 2^m. The publication has 11, which takes 2.2 GB.
        dimension: d; (m+1) 2^m unless given, so that the samples can be told apart.
        seed: of the inputs.

    Raises:
        ValueError: a value outside these ranges.
    """
    if not 1 <= size <= 14:
        raise ValueError(f"size: got {size}; 1 to 14 is allowed")
    dimension = (size + 1) << size if dimension is None else dimension
    if dimension < 1 or seed < 0:
        raise ValueError(f"dimension, seed: got {dimension} and {seed}; at least 1 and 0 are allowed")
    counts = [1 << (size - i) for i in range(size) for _ in range(1 << i)]
    targets = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    inputs = torch.from_numpy(np.random.Generator(np.random.Philox(seed)).random((len(targets), dimension), np.float32))
    train = Data(inputs, targets)
    return Dataset("heavy-tail", train, train, classes=len(counts), source=f"generated from seed {seed}")


def barcoded(images: Dataset, *, bits: int = 6, copies: int = 5) -> Dataset:
    """Images, and as many again of rare classes, which a barcode in the corner tells apart.

    A rare class is a class of the images together with one of 2^bits barcodes, `copies` images each. The barcode is a
    row of `bits` pixels of 0 or 1 at the top left, the most significant first. The images of the rare classes are the
    first of their class, and the same number of the others keep their classes and have no barcode. `test` holds the
    test images without barcodes.

    Args:
        images: with inputs [N, side * side] in 0..1 and labels.
        bits: of the barcode, at least 1 and at most the side.
        copies: images of a rare class.

    Raises:
        ValueError: there are too few images of a class, or they are not of that form.
    """
    data, classes = images.train, images.classes
    side = round(data.inputs[0].numel() ** 0.5)
    if classes is None or data.inputs.dim() != 2 or side * side != data.inputs.shape[1]:
        raise ValueError(f"images: got {images!r}; labelled square images [N, side * side] are allowed")
    if not 1 <= bits <= side or copies < 1:
        raise ValueError(f"bits, copies: got {bits} and {copies}; 1 to {side}, and at least 1, are allowed")
    each = copies << bits
    rows = [torch.nonzero(data.targets == k).flatten() for k in range(classes)]
    few = min(map(len, rows))
    if few < 2 * each:
        raise ValueError(
            f"bits, copies: got {bits} and {copies}, which take {2 * each} images a class; there are {few}"
        )
    marked = data[torch.cat([own[:each] for own in rows])]
    plain = data[torch.cat([own[each : 2 * each] for own in rows])]
    code = torch.arange(each).div(copies, rounding_mode="floor").repeat(classes)
    shifts = torch.arange(bits - 1, -1, -1)
    marked.inputs[:, :bits] = (code[:, None] >> shifts & 1).to(marked.inputs)
    rare = classes + (marked.targets << bits) + code
    train = Data(torch.cat([plain.inputs, marked.inputs]), torch.cat([plain.targets, rare]))
    source = f"{images.source}, half of it with barcodes of {bits} bits"
    return Dataset(f"barcoded-{images.name}", train, images.test, classes=classes * (1 + (1 << bits)), source=source)
