"""The definition of Infini-attention (docs/attention.md) in NumPy, over the oracle of tests/golden/logits. Shares no code with Tandem."""
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "logits"))
from numpy_oracle import Model  # noqa: E402


def s(x):
    return np.where(x > 0, x + 1, np.exp(np.minimum(x, 0)))


def remembered(features, memory, normalizer):
    """[tokens, head_dim]"""
    divisor = features @ normalizer
    return np.where(divisor[:, None] == 0, 0, features @ memory / np.where(divisor == 0, 1, divisor)[:, None])


def updated(memory, normalizer, k, v, update):
    features = s(k)
    if update == "delta":
        v = v - remembered(features, memory, normalizer)
    return memory + features.T @ v, normalizer + features.sum(axis=0)


class InfiniModel(Model):
    """gates: [layers][heads] before the sigmoid, or one number for all."""

    def __init__(self, path, segment, gate=None, update="delta"):
        super().__init__(path)
        self.segment, self.gate, self.update = segment, gate, update

    def gate_of(self, layer, head):
        name = f"blk.{layer}.attn_infini_gate"
        b = self.gate if self.gate is not None else self.tensor(name)[head] if name in self.raw else 0.0
        return 1 / (1 + np.exp(-np.float64(b)))

    def attend(self, q, k, v, layer, window, base):
        if window > 0:
            return super().attend(q, k, v, layer, window, base)
        out = np.empty_like(q)
        d = self.head_dim
        state = [(np.zeros((d, d)), np.zeros(d)) for _ in range(self.kv_heads)]
        for start in range(0, q.shape[0], self.segment):
            part = slice(start, min(start + self.segment, q.shape[0]))
            n = part.stop - part.start
            # Positions within the segment: rotation counts from 0.
            local = self.softmax_attention(self.rotate(q[part], base), self.rotate(k[part], base), v[part], self.visible(n, layer, 0))
            for head in range(self.heads):
                kv = head * self.kv_heads // self.heads
                g = self.gate_of(layer, head)
                old = remembered(s(q[part, head].astype(np.float64)), *state[kv])
                out[part, head] = g * old + (1 - g) * local[:, head] if start > 0 else local[:, head]
            if n == self.segment:
                for kv in range(self.kv_heads):
                    state[kv] = updated(*state[kv], k[part, kv].astype(np.float64), v[part, kv].astype(np.float64), self.update)
        return out
