"""Writes infini.npz: logits of tiny models in Infini-attention, by the NumPy oracle; and gated.gguf, one of these.

usage: make_golden.py   (PyPI: numpy, gguf). `tokens`, the `positions` whose logits are there, and for each of FORMS an array
MODEL/TEXT [positions, vocab], where TEXT is what --attention takes. A MODEL is a file of tests/golden/families, or gated.gguf, which
has a gate for each query head.
"""
import pathlib

import gguf
import numpy as np
from reference import InfiniModel

HERE = pathlib.Path(__file__).parent
FORMS = [
    ("llama", dict(segment=64)),
    ("llama", dict(segment=64, gate=2.5, update="linear")),
    ("llama", dict(segment=192, gate=-1)),
    ("gemma3", dict(segment=64, gate=1)),
    ("gemma3", dict(segment=128, update="linear")),
    ("gated", dict(segment=64)),
]


def path(name):
    return HERE / "gated.gguf" if name == "gated" else HERE.parent / f"families/{name}.gguf"


def write_gated():
    """A random llama with gates, whose heads can be cut for two ranks."""
    dim, ffn, heads, kv_heads, head_dim, vocab, layers = 32, 64, 4, 2, 16, 96, 2
    random = np.random.default_rng(11)
    writer = gguf.GGUFWriter(path("gated"), "llama")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(dim)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_key_length(head_dim)
    writer.add_value_length(head_dim)
    writer.add_rope_dimension_count(head_dim)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocab)

    def add(name, *shape):
        writer.add_tensor(name, random.normal(0, shape[-1] ** -0.5, shape).astype(np.float32))

    add("token_embd.weight", vocab, dim)
    for layer in range(layers):
        add(f"blk.{layer}.attn_q.weight", heads * head_dim, dim)
        add(f"blk.{layer}.attn_k.weight", kv_heads * head_dim, dim)
        add(f"blk.{layer}.attn_v.weight", kv_heads * head_dim, dim)
        add(f"blk.{layer}.attn_output.weight", dim, heads * head_dim)
        add(f"blk.{layer}.ffn_gate.weight", ffn, dim)
        add(f"blk.{layer}.ffn_up.weight", ffn, dim)
        add(f"blk.{layer}.ffn_down.weight", dim, ffn)
        for norm in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{norm}.weight", random.uniform(0.5, 1.5, dim).astype(np.float32))
        writer.add_tensor(f"blk.{layer}.attn_infini_gate", random.uniform(-4, 4, heads).astype(np.float32))
    writer.add_tensor("output_norm.weight", np.ones(dim, np.float32))
    add("output.weight", vocab, dim)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def text(form):
    return "infini:" + ",".join(f"{key}={value}" for key, value in form.items())


def main():
    write_gated()
    positions = np.unique(np.concatenate([np.arange(0, 510, 37), np.arange(60, 70), np.arange(188, 196), np.arange(250, 262), [447, 448, 509]]))
    arrays = {"tokens": np.random.default_rng(5).integers(3, 96, size=510).astype(np.int32), "positions": positions}
    for name, form in FORMS:
        logits = InfiniModel(path(name), **form).logits(arrays["tokens"])
        arrays[f"{name}/{text(form)}"] = logits[positions].astype(np.float32)
    np.savez_compressed(HERE / "infini.npz", **arrays)


if __name__ == "__main__":
    main()
