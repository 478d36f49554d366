"""hivemind's compression of 10 M numbers: `python hivemind_codecs.py <repetitions>` prints JSON on its last line.

CPU seconds of one thread; its blockwise kind needs bitsandbytes and a GPU's library, and is left out.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import torch
from hivemind.compression import (
    CompressionInfo,
    Float16Compression,
    Quantile8BitQuantization,
    ScaledFloat16Compression,
    Uniform8BitQuantization,
)

SIZE = 10_034_176
KINDS = (Uniform8BitQuantization, Quantile8BitQuantization, Float16Compression, ScaledFloat16Compression)


def main(repetitions: int) -> None:
    torch.set_num_threads(1)
    x = torch.randn(SIZE, generator=torch.Generator().manual_seed(0))
    info = CompressionInfo.from_tensor(x)
    found: dict[str, Any] = {}
    for repetition in range(repetitions + 1):  # the first one is not counted
        for kind in KINDS:
            codec = kind()
            start = time.process_time()
            message = codec.compress(x, info)
            between = time.process_time()
            codec.extract(message)
            end = time.process_time()
            arm = found.setdefault(f"hivemind {kind.__name__}", {"bytes": 4 * SIZE, "encode": [], "decode": []})
            arm["ratio"] = 4 * SIZE / message.ByteSize()
            if repetition:
                arm["encode"].append(between - start)
                arm["decode"].append(end - between)
    print(json.dumps({"arms": found}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
