#!/usr/bin/env python3
"""Writes a GGUF model of a given shape with random Q4_0 weights, for measuring speed.

usage: tests/bench/random_model.py OUT.gguf [--layers 16] [--dim 2048] [--ffn 8192] [--heads 32] [--kv-heads 8]
                                            [--vocab 32000] [--seed 1]

The defaults are the "1B shape". The architecture is llama with a tied head; the tokenizer is a small SentencePiece one in which
every byte and every short word has a token. The same seed gives the same bytes. Needs nothing beyond Python.

Layout: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; a Q4_0 block is a float16 scale and 32 codes of 4 bits.
"""
import argparse
import itertools
import os
import pathlib
import random
import string
import struct
import sys

F32, Q4_0 = 0, 2  # tensor types
U32, FLOAT, BOOL, STRING, ARRAY, I32 = 4, 6, 7, 8, 9, 5  # metadata types
MOSTLY_Q4_0 = 2
ALIGNMENT = 32
BLOCK_VALUES, BLOCK_BYTES = 32, 18
UNKNOWN, CONTROL, NORMAL, BYTE = 2, 3, 1, 6  # token types

# The 16 equally likely values of a code minus 8, near to a Gaussian's; their mean is 0, their standard deviation 3.6.
CODES = [-7, -5, -4, -3, -2, -1, -1, 0, 0, 1, 1, 2, 3, 4, 5, 7]
CODE_PAIRS = bytes(CODES[low] + 8 | CODES[high] + 8 << 4 for high in range(16) for low in range(16))
# High bytes of float16 scales between 2^-8 * 1.25 and 2^-8 * 1.75: weights get a standard deviation of 0.02.
SCALE_HIGH = bytes(0x1D if byte % 2 else 0x1E for byte in range(256))
BLOCKS_AT_ONCE = 1 << 18


def text(value):
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def entry(key, kind, payload):
    return text(key) + struct.pack("<I", kind) + payload


def array(key, kind, payload, count):
    return entry(key, ARRAY, struct.pack("<IQ", kind, count) + payload)


def vocabulary(count):
    """Texts and types of `count` tokens: specials, bytes, then all short words, each with and without a space before it."""
    tokens = [("<unk>", UNKNOWN), ("<s>", CONTROL), ("</s>", CONTROL)] + [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    words = ("".join(letters) for length in itertools.count(1)
             for letters in itertools.product(string.ascii_lowercase, repeat=length))
    tokens.append(("\u2581", NORMAL))
    while len(tokens) < count:
        word = next(words)
        tokens += [("\u2581" + word, NORMAL), (word, NORMAL)]
    return tokens[:count]


def metadata(shape):
    """The key-value section and its number of entries."""
    tokens = vocabulary(shape.vocab)
    head_dim = shape.dim // shape.heads
    entries = [
        entry("general.architecture", STRING, text("llama")),
        entry("general.name", STRING, text(f"random {shape.layers}x{shape.dim}")),
        entry("general.file_type", U32, struct.pack("<I", MOSTLY_Q4_0)),
    ]
    for key, value in {"block_count": shape.layers, "context_length": 8192, "embedding_length": shape.dim,
                       "feed_forward_length": shape.ffn, "attention.head_count": shape.heads,
                       "attention.head_count_kv": shape.kv_heads, "rope.dimension_count": head_dim,
                       "vocab_size": shape.vocab}.items():
        entries.append(entry(f"llama.{key}", U32, struct.pack("<I", value)))
    for key, value in {"attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 500000.0}.items():
        entries.append(entry(f"llama.{key}", FLOAT, struct.pack("<f", value)))
    entries += [
        entry("tokenizer.ggml.model", STRING, text("llama")),
        array("tokenizer.ggml.tokens", STRING, b"".join(text(token) for token, _ in tokens), len(tokens)),
        array("tokenizer.ggml.scores", FLOAT, struct.pack(f"<{len(tokens)}f", *(-float(i) for i in range(len(tokens)))),
              len(tokens)),
        array("tokenizer.ggml.token_type", I32, struct.pack(f"<{len(tokens)}i", *(kind for _, kind in tokens)), len(tokens)),
        entry("tokenizer.ggml.bos_token_id", U32, struct.pack("<I", 1)),
        entry("tokenizer.ggml.eos_token_id", U32, struct.pack("<I", 2)),
        entry("tokenizer.ggml.unknown_token_id", U32, struct.pack("<I", 0)),
        entry("tokenizer.ggml.add_bos_token", BOOL, b"\1"),
    ]
    return b"".join(entries), len(entries)


def tensors(shape):
    """(name, [columns, rows] or [columns]) of every tensor, in file order."""
    kv_dim = shape.dim // shape.heads * shape.kv_heads
    yield "token_embd.weight", [shape.dim, shape.vocab]
    for layer in range(shape.layers):
        yield from ((f"blk.{layer}.{name}.weight", dims) for name, dims in {
            "attn_norm": [shape.dim], "attn_q": [shape.dim, shape.dim], "attn_k": [shape.dim, kv_dim],
            "attn_v": [shape.dim, kv_dim], "attn_output": [shape.dim, shape.dim], "ffn_norm": [shape.dim],
            "ffn_gate": [shape.dim, shape.ffn], "ffn_up": [shape.dim, shape.ffn], "ffn_down": [shape.ffn, shape.dim],
        }.items())
    yield "output_norm.weight", [shape.dim]


def tensor_bytes(dims):
    return 4 * dims[0] if len(dims) == 1 else dims[0] * dims[1] // BLOCK_VALUES * BLOCK_BYTES


def padding(size):
    return bytes(-size % ALIGNMENT)


def random_blocks(source, blocks):
    """`blocks` Q4_0 blocks."""
    data = bytearray(blocks * BLOCK_BYTES)
    data[0::BLOCK_BYTES] = source.randbytes(blocks)
    data[1::BLOCK_BYTES] = source.randbytes(blocks).translate(SCALE_HIGH)
    codes = source.randbytes(blocks * (BLOCK_BYTES - 2)).translate(CODE_PAIRS)
    for i in range(2, BLOCK_BYTES):
        data[i::BLOCK_BYTES] = codes[i - 2::BLOCK_BYTES - 2]
    return data


def check(shape):
    """None, or what is wrong with the shape."""
    if min(shape.layers, shape.dim, shape.ffn, shape.heads, shape.kv_heads) < 1:
        return "all sizes must be at least 1"
    if shape.dim % BLOCK_VALUES or shape.ffn % BLOCK_VALUES:
        return f"--dim {shape.dim} and --ffn {shape.ffn} must be multiples of {BLOCK_VALUES}, the values of a Q4_0 block"
    if shape.dim % (2 * shape.heads) or shape.heads % shape.kv_heads:
        return (f"--dim {shape.dim} must be an even multiple of --heads {shape.heads}, and that a multiple of --kv-heads "
                f"{shape.kv_heads}")
    if shape.vocab < 260:
        return f"--vocab {shape.vocab} is too small, expected at least 260: three special tokens, 256 bytes and a space"
    return None


def write(path, shape, progress=None):
    """Writes the model; progress(bytes done, bytes in all) is called between pieces. A file that stands there is replaced
    only by a complete one."""
    entries, count = metadata(shape)
    listed = list(tensors(shape))
    table, offset = b"", 0
    for name, dims in listed:
        table += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, F32 if len(dims) == 1 else Q4_0, offset)
        offset += tensor_bytes(dims) + len(padding(tensor_bytes(dims)))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(listed), count) + entries + table
    source = random.Random(shape.seed)
    part = pathlib.Path(f"{path}.part")
    done = 0
    with open(part, "wb") as file:
        file.write(header + padding(len(header)))
        for _, dims in listed:
            if len(dims) == 1:
                file.write(struct.pack("<f", 1.0) * dims[0])
            else:
                left = dims[0] * dims[1] // BLOCK_VALUES
                while left > 0:
                    blocks = min(left, BLOCKS_AT_ONCE)
                    file.write(random_blocks(source, blocks))
                    left -= blocks
                    done += blocks * BLOCK_BYTES
                    if progress:
                        progress(done, offset)
            file.write(padding(tensor_bytes(dims)))
    os.replace(part, path)


def show_progress(name):
    """A progress function for write(): a line every tenth of the way on standard error, if the file is large."""
    last = [0]

    def show(done, total):
        tenth = 10 * done // total
        if tenth != last[0] and total >= 64 << 20:
            last[0] = tenth
            print(f"{name}: wrote {done >> 20} of {total >> 20} MiB", file=sys.stderr, flush=True)
    return show


def parse(arguments):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out")
    for name, default in {"layers": 16, "dim": 2048, "ffn": 8192, "heads": 32, "kv-heads": 8, "vocab": 32000,
                          "seed": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default, help=f"default {default}")
    shape = parser.parse_args(arguments)
    if wrong := check(shape):
        parser.error(wrong)
    return shape


def main():
    shape = parse(sys.argv[1:])
    write(shape.out, shape, show_progress(pathlib.Path(shape.out).name))


if __name__ == "__main__":
    main()
