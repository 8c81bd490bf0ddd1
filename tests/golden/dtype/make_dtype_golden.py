#!/usr/bin/env python3
"""Writes dtype.bin: random blocks of every tensor type, and their values as the PyPI package gguf
dequantizes them (gguf.quants.dequantize).

    pip install gguf numpy
    python3 make_dtype_golden.py

For each type: uint32 GGML type number, uint32 elements, uint32 bytes of blocks, the blocks, the float32
values; little endian.
"""
import pathlib
import struct

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from gguf.quants import dequantize

# Byte offsets of the float16 fields in a block: random bytes there would give NaN and infinity.
HALVES = {
    "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q8_0": [0],
    "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208],
}
# Ordinary, negative, large, subnormal and zero.
SCALES = np.array([0.0123, -0.37, 1021.0, 3.1e-6, 0.0, 1.0], dtype=np.float16)

random = np.random.default_rng(20240607)
out = bytearray()
for name in ["F32", "F16", "BF16", *HALVES]:
    dtype = GGMLQuantizationType[name]
    block_elements, block_bytes = GGML_QUANT_SIZES[dtype]
    blocks = 64 if block_elements == 1 else 6 if block_elements == 32 else 3
    if name == "F32":
        raw = random.standard_normal(blocks).astype(np.float32).view(np.uint8)
    elif name == "F16":
        raw = random.standard_normal(blocks).astype(np.float16).view(np.uint8)
    elif name == "BF16":
        words = random.standard_normal(blocks).astype(np.float32).view(np.uint32) >> 16
        raw = words.astype(np.uint16).view(np.uint8)
    else:
        raw = random.integers(0, 256, (blocks, block_bytes), dtype=np.uint8)
        for block in range(blocks):
            for i, offset in enumerate(HALVES[name]):
                half = SCALES[(block + 3 * i) % len(SCALES)]
                raw[block, offset : offset + 2] = np.frombuffer(half.tobytes(), np.uint8)
        raw = raw.reshape(-1)
    if name == "F32":
        values = raw.view(np.float32)
    elif name == "F16":
        values = raw.view(np.float16).astype(np.float32)
    else:
        values = dequantize(raw, dtype).astype(np.float32)
    values = np.ascontiguousarray(values).reshape(-1)
    assert values.size == blocks * block_elements
    out += struct.pack("<III", int(dtype), values.size, raw.size) + raw.tobytes() + values.tobytes()
pathlib.Path(__file__).with_name("dtype.bin").write_bytes(out)
