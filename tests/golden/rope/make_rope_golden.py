#!/usr/bin/env python3
"""Writes rope.json: inverse frequencies and magnitudes as transformers computes them (float32).

    pip install torch transformers
    python3 make_rope_golden.py

Every case lists the GGUF keys (without the architecture) that say the same, and where the scaling is
llama3 the factors that llama.cpp's converter would put into rope_freqs.weight.
"""
import json
import math
import pathlib

import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS


def inverse_frequencies(head_dim, base, context, scaling):
    if scaling is None:
        exponents = torch.arange(0, head_dim, 2, dtype=torch.int64).float() / head_dim
        return (1.0 / base**exponents).tolist(), 1.0
    config = LlamaConfig(hidden_size=4 * head_dim, num_attention_heads=4, head_dim=head_dim,
                         max_position_embeddings=context, rope_theta=base,
                         rope_parameters={"rope_theta": base, **scaling})
    frequencies, magnitude = ROPE_INIT_FUNCTIONS[scaling["rope_type"]](config, torch.device("cpu"))
    return frequencies.tolist(), float(magnitude)


def llama3_factors(head_dim, base, scaling):
    """Source: llama.cpp's convert_hf_to_gguf.py, class LlamaModel."""
    factor = scaling["factor"]
    low, high = scaling["low_freq_factor"], scaling["high_freq_factor"]
    original = scaling["original_max_position_embeddings"]
    factors = []
    for i in range(0, head_dim, 2):
        wavelength = 2 * math.pi * base ** (i / head_dim)
        if wavelength < original / high:
            factors.append(1.0)
        elif wavelength > original / low:
            factors.append(factor)
        else:
            smooth = (original / wavelength - low) / (high - low)
            factors.append(1 / ((1 - smooth) / factor + smooth))
    return factors


def case(name, head_dim, base, context, scaling, keys):
    frequencies, magnitude = inverse_frequencies(head_dim, base, context, scaling)
    result = {"name": name, "head_dim": head_dim, "context": context,
              "keys": {"rope.freq_base": base, **keys},
              "inverse_frequencies": frequencies, "magnitude": magnitude}
    if scaling and scaling["rope_type"] == "llama3":
        result["rope_freqs"] = llama3_factors(head_dim, base, scaling)
    return result


def yarn(factor, original, **more):
    return {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": original,
            **more}


def yarn_keys(factor, original, **more):
    return {"rope.scaling.type": "yarn", "rope.scaling.factor": factor,
            "rope.scaling.original_context_length": original, **more}


cases = [
    case("plain, SmolLM2", 64, 100000.0, 8192, None, {}),
    case("linear by 8, Gemma 3 4B", 256, 1e6, 131072, {"rope_type": "linear", "factor": 8.0},
         {"rope.scaling.type": "linear", "rope.scaling.factor": 8.0}),
    case("llama3, Llama 3.1 8B", 128, 500000.0, 131072,
         {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192}, {}),
    case("YaRN, Qwen2.5 7B", 128, 1e6, 131072, yarn(4.0, 32768), yarn_keys(4.0, 32768)),
    case("YaRN, short context, betas", 64, 10000.0, 8192,
         yarn(2.5, 2048, beta_fast=16.0, beta_slow=2.0),
         yarn_keys(2.5, 2048, **{"rope.scaling.yarn_beta_fast": 16.0,
                                 "rope.scaling.yarn_beta_slow": 2.0})),
]
pathlib.Path(__file__).with_name("rope.json").write_text(json.dumps(cases, indent=1) + "\n")
