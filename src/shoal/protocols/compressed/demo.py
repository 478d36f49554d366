"""DeMo: everybody keeps a momentum, sends its strongest frequencies, and steps by the sign of what all sent.

    peer i:     delta <- beta delta + lr g_i        q_i = the k largest DCT coefficients of each chunk of delta
                delta <- delta - q_i                                                                    sent: q_i
    all:        x <- (1 - lr lam) x - lr sign(Q)        Q: each coefficient's mean over those who sent it

B. Peng, J. Quesnelle, D. P. Kingma, "DeMo: Decoupled Momentum Optimization", 2024 (arXiv 2411.19870). Peers exchange
with everybody, merge in the order of ids, and stay equal bit for bit. The published decay of 0.999 is slow in runs of a
few hundred steps; 0.9 suits these. As with `SynchronousSGD`, a peer that is gone for good is left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch

from shoal.compression.dct import DCT
from shoal.compression.demo import check_settings, extracted, stepped
from shoal.learning import Learner
from shoal.protocols.needs import Needs


@dataclass(frozen=True)
class DeMo:
    """Each round one step of all peers. Running statistics in the model stay as they were.

    Attributes:
        lr: by which every entry moves.
        k: coefficients sent of each chunk.
        decay: beta in [0, 1) of the momentum.
        chunk: longest side of a chunk, in 1..256.
        weight_decay: decoupled decay lam, >= 0.
        values: how coefficients are sent: "float32", as published, "float16" or "bfloat16".
    """

    lr: float = 4e-4
    k: int = 32
    decay: float = 0.999
    chunk: int = 64
    weight_decay: float = 0.0
    values: str = "float32"
    needs: ClassVar[Needs] = Needs(reliable_links=True, optimizer=False)

    def __post_init__(self) -> None:
        check_settings(self.lr, self.decay, self.weight_decay)
        DCT(self.k, self.chunk, self.values)

    async def __call__(self, me: Learner) -> None:
        """What one peer does."""
        if len(me.neighbours) != me.peers - 1:
            raise ValueError(f"topology: peer {me.id} does not hear from all others; complete is needed")
        codec, layout = DCT(self.k, self.chunk, self.values), me.packer.part
        async for t in me.rounds():
            g, _ = me.packer.split(await me.gradient())
            delta = me.state.get("momentum", torch.zeros_like(g))
            payload, me.state["momentum"] = extracted(delta, g, self.lr, self.decay, codec, layout)
            sent = {**await me.exchange(payload, t), me.id: payload}
            read = me.read_all({i: sent[i] for i in sorted(sent)}, partial(codec.parts, layout=layout))
            x, _ = me.packer.split(me.model)
            merged = codec.merge_parts(list(read.values()), layout)
            me.model = me.packer.join(stepped(x, merged, self.lr, self.weight_decay), me.model)
