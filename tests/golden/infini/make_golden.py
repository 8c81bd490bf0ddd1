"""Writes infini.npz: logits of tiny models of tests/golden/families in Infini-attention, by the NumPy oracle.

usage: make_golden.py   (PyPI: numpy, gguf). `tokens`, the `positions` whose logits are there, and for each of FORMS an array
MODEL/TEXT [positions, vocab], where TEXT is what --attention takes.
"""
import pathlib

import numpy as np
from reference import InfiniModel

HERE = pathlib.Path(__file__).parent
FORMS = [
    ("llama", dict(segment=64)),
    ("llama", dict(segment=64, gate=2.5, update="linear")),
    ("llama", dict(segment=192, gate=-1)),
    ("gemma3", dict(segment=64, gate=1)),
    ("gemma3", dict(segment=128, update="linear")),
]


def text(form):
    return "infini:" + ",".join(f"{key}={value}" for key, value in form.items())


def main():
    positions = np.unique(np.concatenate([np.arange(0, 510, 37), np.arange(60, 70), np.arange(188, 196), np.arange(250, 262), [447, 448, 509]]))
    arrays = {"tokens": np.random.default_rng(5).integers(3, 96, size=510).astype(np.int32), "positions": positions}
    for name, form in FORMS:
        logits = InfiniModel(HERE.parent / f"families/{name}.gguf", **form).logits(arrays["tokens"])
        arrays[f"{name}/{text(form)}"] = logits[positions].astype(np.float32)
    np.savez_compressed(HERE / "infini.npz", **arrays)


if __name__ == "__main__":
    main()
