"""An independent float32 forward pass over a dequantized GGUF file, in NumPy: the oracle of the logits tests.

Needs the PyPI packages numpy and gguf. Written from the papers and the `gguf` package alone; shares no code with Tandem.
"""
import numpy as np
from gguf import GGUFReader
from gguf.quants import dequantize


class Model:
    def __init__(self, path):
        reader = GGUFReader(path)
        self.fields = reader.fields
        self.raw = {t.name: t for t in reader.tensors}
        self.arch = self.value("general.architecture")
        self.layers = self.number("block_count")
        self.dim = self.number("embedding_length")
        self.heads = self.number("attention.head_count")
        self.kv_heads = self.number("attention.head_count_kv")
        self.head_dim = self.number("attention.key_length", self.dim // self.heads)
        self.epsilon = np.float32(self.number("attention.layer_norm_rms_epsilon"))
        self.rope_base = self.number("rope.freq_base", 10000.0)
        self.rope_factor = self.number("rope.scaling.factor", 1.0)  # linear
        self.window = self.number("attention.sliding_window", 0)
        self.gemma = self.arch == "gemma3"
        self.cache = {}

    def value(self, key):
        field = self.fields[key]
        part = field.parts[field.data[0]]
        return bytes(part).decode() if field.types[0].name == "STRING" else part[0]

    def number(self, key, default=None):
        full = f"{self.arch}.{key}"
        return self.value(full) if full in self.fields else default

    def tensor(self, name):
        if name not in self.cache:
            t = self.raw[name]
            shape = [int(n) for n in reversed(t.shape)]
            self.cache[name] = dequantize(t.data, t.tensor_type).astype(np.float32).reshape(shape)
        return self.cache[name]

    def rms_norm(self, x, name):
        scale = 1 / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=-1, keepdims=True) + self.epsilon)
        return (x * scale * self.tensor(name)).astype(np.float32)

    def visible(self, tokens, layer, window):
        """[tokens, tokens] bool: whether a query (row) sees a key (column). window: the layer's own, 0 = none."""
        i, j = np.arange(tokens)[:, None], np.arange(tokens)[None, :]
        return (j <= i) & ((window == 0) | (j > i - window))

    def rotate(self, x, base):
        """x: [tokens, heads, head_dim]"""
        half = self.head_dim // 2
        frequency = float(base) ** (-np.arange(half, dtype=np.float64) / half)
        if base == self.rope_base:
            frequency /= self.rope_factor
        angle = np.arange(x.shape[0], dtype=np.float64)[:, None] * frequency
        cos, sin = np.cos(angle)[:, None, :], np.sin(angle)[:, None, :]
        out = np.empty_like(x)
        if self.gemma:
            a, b = x[..., :half], x[..., half:]
            out[..., :half], out[..., half:] = a * cos - b * sin, b * cos + a * sin
        else:
            a, b = x[..., 0::2], x[..., 1::2]
            out[..., 0::2], out[..., 1::2] = a * cos - b * sin, b * cos + a * sin
        return out

    def attention(self, x, layer):
        prefix = f"blk.{layer}."
        n = x.shape[0]
        normed = self.rms_norm(x, prefix + "attn_norm.weight")
        q = (normed @ self.tensor(prefix + "attn_q.weight").T).reshape(n, self.heads, self.head_dim)
        k = (normed @ self.tensor(prefix + "attn_k.weight").T).reshape(n, self.kv_heads, self.head_dim)
        v = (normed @ self.tensor(prefix + "attn_v.weight").T).reshape(n, self.kv_heads, self.head_dim)
        base, window = self.rope_base, 0
        if self.gemma:
            q = self.rms_norm(q, prefix + "attn_q_norm.weight")
            k = self.rms_norm(k, prefix + "attn_k_norm.weight")
            if (layer + 1) % 6 != 0:
                base, window = 10000.0, self.window
        out = self.attend(q, k, v, layer, window, base)
        return out.reshape(n, -1) @ self.tensor(prefix + "attn_output.weight").T

    def attend(self, q, k, v, layer, window, base):
        """[tokens, heads, head_dim] of queries, keys and values before rotation. window: the layer's own, 0 = none."""
        visible = self.visible(q.shape[0], layer, window)
        return self.softmax_attention(self.rotate(q, base), self.rotate(k, base), v, visible)

    def softmax_attention(self, q, k, v, visible):
        out = np.empty_like(q)
        for head in range(self.heads):
            kv = head * self.kv_heads // self.heads
            scores = (q[:, head] @ k[:, kv].T) / np.sqrt(np.float32(self.head_dim))
            scores = np.where(visible, scores, -np.inf)
            p = np.exp(scores - scores.max(axis=-1, keepdims=True))
            out[:, head] = (p / p.sum(axis=-1, keepdims=True)) @ v[:, kv]
        return out

    def feed_forward(self, x, layer):
        prefix = f"blk.{layer}."
        normed = self.rms_norm(x, prefix + "ffn_norm.weight")
        gate = normed @ self.tensor(prefix + "ffn_gate.weight").T
        up = normed @ self.tensor(prefix + "ffn_up.weight").T
        if self.gemma:
            act = 0.5 * gate * (1 + np.tanh(np.sqrt(2 / np.pi) * (gate + 0.044715 * gate ** 3)))
        else:
            act = gate / (1 + np.exp(-gate))
        return (act * up).astype(np.float32) @ self.tensor(prefix + "ffn_down.weight").T

    def logits(self, tokens):
        """[tokens, vocab] float32"""
        x = self.tensor("token_embd.weight")[tokens]
        if self.gemma:
            x = x * np.float32(np.sqrt(self.dim))
        for layer in range(self.layers):
            a = self.attention(x, layer)
            if self.gemma:
                a = self.rms_norm(a, f"blk.{layer}.post_attention_norm.weight")
            x = x + a
            f = self.feed_forward(x, layer)
            if self.gemma:
                f = self.rms_norm(f, f"blk.{layer}.post_ffw_norm.weight")
            x = (x + f).astype(np.float32)
        head = "output.weight" if "output.weight" in self.raw else "token_embd.weight"
        return self.rms_norm(x, "output_norm.weight") @ self.tensor(head).T


def log_probabilities(logits):
    logits = logits.astype(np.float64)
    top = logits.max(axis=-1, keepdims=True)
    return logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
