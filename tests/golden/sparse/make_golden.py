"""Writes sparse.npz: logits of tiny models of tests/golden/families in sparse attention, by the NumPy oracle in float32.

usage: make_golden.py   (PyPI: numpy, gguf). `tokens`, the `positions` whose logits are there, and for each of FORMS an array
MODEL/TEXT [positions, vocab], where TEXT is what --attention takes.
"""
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "logits"))
from numpy_oracle import Model  # noqa: E402
from reference import visible  # noqa: E402

FORMS = [
    ("llama", dict(window=40, glob=5)),
    ("llama", dict(window=1, glob=0)),
    ("llama", dict(window=64, glob=70, random=1, seed=0)),
    ("llama", dict(window=17, glob=3, random=2, seed=0xFEDCBA9876543210)),
    ("gemma3", dict(window=20, glob=4)),
    ("gemma3", dict(window=50, glob=9, random=2, seed=11)),
]


def text(form):
    names = {"glob": "global"}
    return "sparse:" + ",".join(f"{names.get(key, key)}={value}" for key, value in form.items())


class SparseModel(Model):
    def __init__(self, path, form):
        super().__init__(path)
        self.form = form

    def visible(self, tokens, layer, window):
        return super().visible(tokens, layer, window) & visible(tokens, layer=layer, **self.form)


def main():
    positions = np.unique(np.concatenate([np.arange(0, 510, 37), np.arange(60, 70), np.arange(250, 262), [447, 448, 509]]))
    arrays = {"tokens": np.random.default_rng(5).integers(3, 96, size=510).astype(np.int32), "positions": positions}
    for name, form in FORMS:
        logits = SparseModel(HERE.parent / f"families/{name}.gguf", form).logits(arrays["tokens"])
        arrays[f"{name}/{text(form)}"] = logits[positions].astype(np.float32)
    np.savez_compressed(HERE / "sparse.npz", **arrays)


if __name__ == "__main__":
    main()
