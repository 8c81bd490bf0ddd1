"""The first hour of somebody new: models whose files say what is not built, or that are cut oddly."""
import json
import struct
import sys

import numpy
import pytest

from conftest import ROOT, TANDEM, run
from test_first_hour import wrong_use

sys.path.insert(0, str(ROOT / "tests/bench"))
import random_model  # noqa: E402 (a script beside this folder)


def tiny_model(path, keys=(), ffn=96, part=0, parts=1, drop=()):
    """A llama of two layers and four heads with random float32 weights; of several parts every tensor is in one of them.
    keys: more (key, type, bytes)."""
    random = numpy.random.default_rng(1)
    dim, vocab = 128, 50
    shapes = {"token_embd.weight": (vocab, dim), "output_norm.weight": (dim,)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in {
            "attn_norm": (dim,), "attn_q": (dim, dim), "attn_k": (dim // 2, dim), "attn_v": (dim // 2, dim), "attn_output": (dim, dim),
            "ffn_norm": (dim,), "ffn_gate": (ffn, dim), "ffn_up": (ffn, dim), "ffn_down": (dim, ffn)}.items()}
    tensors = {name: random.standard_normal(shape).astype(numpy.float32) / 8 for name, shape in shapes.items()}
    tensors = {name: values for i, (name, values) in enumerate(tensors.items()) if i % parts == part and name not in drop}
    numbers = {"block_count": 2, "context_length": 256, "embedding_length": dim, "feed_forward_length": ffn, "attention.head_count": 4,
               "attention.head_count_kv": 2}
    entries = [random_model.entry("general.architecture", random_model.STRING, random_model.text("llama")),
               random_model.entry("llama.attention.layer_norm_rms_epsilon", random_model.FLOAT, struct.pack("<f", 1e-5)),
               *(random_model.entry(f"llama.{key}", random_model.U32, struct.pack("<I", value)) for key, value in numbers.items()),
               *(random_model.entry(*key) for key in keys)]
    if parts > 1:
        entries += [random_model.entry(f"split.{key}", random_model.U32, struct.pack("<I", value))
                    for key, value in {"no": part, "count": parts, "tensors.count": len(shapes)}.items()]
    table, offset = b"", 0
    for name, values in tensors.items():
        table += random_model.text(name) + struct.pack("<I", values.ndim) + struct.pack(f"<{values.ndim}Q", *values.shape[::-1])
        table += struct.pack("<IQ", random_model.F32, offset)
        offset += values.nbytes + len(random_model.padding(values.nbytes))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + table
    data = b"".join(values.tobytes() + random_model.padding(values.nbytes) for values in tensors.values())
    path.write_bytes(header + random_model.padding(len(header)) + data)
    return path


def tokens_of(model, *arguments):
    result = run([TANDEM, "generate", model, "--tokens", "1,2,3", "--max-tokens", 5, "--json", *arguments])
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["tokens"]


def test_04_metadata(tmp_path):
    whole = tokens_of(tiny_model(tmp_path / "whole.gguf"))
    number, real = random_model.U32, random_model.FLOAT
    for key, kind, value, seen in (("llama.pooling_type", number, struct.pack("<I", 1), "embeddings"),
                                   ("llama.attention.sliding_window", number, struct.pack("<I", 100), "sliding windows"),
                                   ("llama.logit_scale", real, struct.pack("<f", 0.5), "0.5"),
                                   ("llama.use_parallel_residual", random_model.BOOL, b"\1", "true")):
        model = tiny_model(tmp_path / "key.gguf", [(key, kind, value)])
        result = run([TANDEM, "inspect", model])
        assert result.returncode == 1 and f"key '{key}' is" in result.stderr and seen in result.stderr, result
    assert tokens_of(tiny_model(tmp_path / "key.gguf", [("llama.pooling_type", number, struct.pack("<I", 0))])) == whole
    # Of several files the first is given.
    parts = [tiny_model(tmp_path / f"m-{part + 1:05}-of-00003.gguf", part=part, parts=3) for part in range(3)]
    assert tokens_of(parts[0]) == tokens_of(parts[0], "-n", 2) == whole
    assert f"this is part 2 of 3; give the first part, {parts[0]}" in wrong_use(TANDEM, "inspect", parts[1])
    parts[2].unlink()
    result = run([TANDEM, "inspect", parts[0]])
    assert result.returncode == 2 and "(part 3 of 3)" in result.stderr and f"{parts[2]}: no such file" in result.stderr


@pytest.mark.parametrize("ffn", [33, 65, 100])
def test_05_a_rank_with_nothing_to_own(tmp_path, ffn):
    model = tiny_model(tmp_path / "tiny.gguf", ffn=ffn)
    alone = tokens_of(model)
    for ranks in 2, 3, 4:
        assert tokens_of(model, "-n", ranks) == alone
