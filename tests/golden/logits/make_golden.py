"""Writes smollm2.npz and gemma3.npz: for each prompt its tokens and the oracle's 32 best log-probabilities at every position.

usage: make_golden.py SMOLLM2.gguf GEMMA3.gguf   (PyPI: numpy, gguf, tokenizers)
"""
import pathlib
import sys

import numpy as np
from numpy_oracle import Model, log_probabilities
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

TEXTS = [
    "The capital of France is",
    "Photosynthesis is the process by which green plants and certain other organisms transform light energy "
    "into chemical energy. During photosynthesis in green plants, light energy is captured and used to convert "
    "water, carbon dioxide, and minerals into oxygen and energy-rich organic compounds.",
    "def fibonacci(n):\n    if n < 2:\n        return n\n    return fibonacci(n - 1) + fibonacci(n - 2)\n\n"
    "for i in range(10):\n    print(fibonacci(i))\n",
    "Das Wetter ist heute schön. \u4eca\u65e5\u306f\u5929\u6c17\u304c\u3044\u3044\u3067\u3059\u3002 3.14159 \U0001f600 x = [1, 2, 3];",
    "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n",
]


def strings(model, key):
    field = model.fields[key]
    return [bytes(field.parts[i]).decode() for i in field.data]


def smollm2_tokenizer(model):
    tokens = strings(model, "tokenizer.ggml.tokens")
    merges = [tuple(m.split(" ")) for m in strings(model, "tokenizer.ggml.merges")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([t for t in tokens if t.startswith("<|im_")])
    return lambda text: tokenizer.encode(text).ids


def gemma3_tokenizer(model):
    tokens = strings(model, "tokenizer.ggml.tokens")
    field = model.fields["tokenizer.ggml.scores"]
    scores = [float(field.parts[i][0]) for i in field.data]
    ids = {t: i for i, t in enumerate(tokens)}

    def encode(text):
        parts = list(text.replace(" ", "\u2581"))
        while True:
            best = max(((scores[ids[a + b]], -i) for i, (a, b) in enumerate(zip(parts, parts[1:]))
                        if a + b in ids), default=None)
            if best is None:
                break
            i = -best[1]
            parts[i:i + 2] = [parts[i] + parts[i + 1]]
        out = [2]
        for part in parts:
            out += [ids[part]] if part in ids else [ids[f"<0x{b:02X}>"] for b in part.encode()]
        return out
    return encode


def main():
    here = pathlib.Path(__file__).parent
    for name, path, make in (("smollm2", sys.argv[1], smollm2_tokenizer),
                             ("gemma3", sys.argv[2], gemma3_tokenizer)):
        model = Model(path)
        encode = make(model)
        arrays = {}
        for number, text in enumerate(TEXTS):
            tokens = np.array(encode(text), dtype=np.int32)
            logp = log_probabilities(model.logits(tokens))
            top = np.argsort(-logp, axis=-1, kind="stable")[:, :32].astype(np.int32)
            arrays[f"tokens_{number}"] = tokens
            arrays[f"top_{number}"] = top
            arrays[f"logp_{number}"] = np.take_along_axis(logp, top, -1).astype(np.float32)
            print(name, number, tokens.tolist()[:8], top[-1][:3])
        np.savez_compressed(here / f"{name}.npz", **arrays)


if __name__ == "__main__":
    main()
