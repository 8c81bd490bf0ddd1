"""Prints how far logits over a cache of one dtype are from those over a float16 cache, and both from the oracle.

usage: kv_distance.py TANDEM NAME MODEL.gguf TEXT [DTYPE]   (PyPI: numpy; NAME: smollm2 or gemma3, of the golden prompts;
TEXT: a file, of which the first 1,000 tokens are read)
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import numpy as np

HERE = pathlib.Path(__file__).parent
BEST = 32  # tokens of a position that are compared


def log_probabilities(tandem, model, tokens, dtype):
    with tempfile.TemporaryDirectory() as folder:
        out = pathlib.Path(folder) / "logits.npy"
        subprocess.run([tandem, "generate", model, "--tokens", ",".join(map(str, tokens)), "--max-tokens", "0", "--logits",
                        out, "--kv-dtype", dtype], check=True, stdout=subprocess.DEVNULL)
        logits = np.load(out).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def tell(what, found, top, expected):
    distance = np.abs(np.take_along_axis(found, top, -1) - expected).mean(-1)
    same = (found.argmax(-1) == top[:, 0]).mean()
    print(f"{what}: {len(top)} positions, distance {distance.mean():.4f}, worst position {distance.max():.4f}, "
          f"same best token {same:.3f}")


def main():
    tandem, name, model, text = sys.argv[1:5]
    dtype = sys.argv[5] if len(sys.argv) > 5 else "f8"
    golden = np.load(HERE / f"{name}.npz")
    tops, expected, found = [], [], {"f16": [], dtype: []}
    for number in range(5):
        tops.append(golden[f"top_{number}"])
        expected.append(golden[f"logp_{number}"])
        for cache, rows in found.items():
            rows.append(log_probabilities(tandem, model, golden[f"tokens_{number}"], cache))
    for cache, rows in found.items():
        tell(f"{cache} from the oracle, golden prompts", np.concatenate(rows), np.concatenate(tops), np.concatenate(expected))
    tokens = json.loads(subprocess.run([tandem, "tokenize", model, "--json", "--bos"], check=True, capture_output=True,
                                       stdin=open(text, encoding="utf-8")).stdout)["tokens"][:1000]
    prompts = {"golden prompts": (np.concatenate(found["f16"]), np.concatenate(found[dtype])),
               text: tuple(log_probabilities(tandem, model, tokens, cache) for cache in ("f16", dtype))}
    for what, (half, other) in prompts.items():
        top = np.argsort(-half, axis=-1)[:, :BEST]
        tell(f"{dtype} from f16, {what}", other, top, np.take_along_axis(half, top, -1))


if __name__ == "__main__":
    main()
