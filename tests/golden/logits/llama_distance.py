"""Prints llama.cpp's own distance from the oracle on the golden prompts, for comparison with ours.

usage: llama_distance.py SMOLLM2.gguf GEMMA3.gguf   (PyPI: numpy, llama-cpp-python)
"""
import pathlib
import sys

import llama_cpp
import numpy as np

HERE = pathlib.Path(__file__).parent


def main():
    for name, path in (("smollm2", sys.argv[1]), ("gemma3", sys.argv[2])):
        golden = np.load(HERE / f"{name}.npz")
        model = llama_cpp.Llama(path, n_ctx=512, logits_all=True, verbose=False, n_threads=2)
        for number in range(5):
            tokens = golden[f"tokens_{number}"]
            model.reset()
            model.eval(tokens.tolist())
            logits = np.array(model.scores[: len(tokens)], dtype=np.float64)
            logits -= logits.max(-1, keepdims=True)
            logits -= np.log(np.exp(logits).sum(-1, keepdims=True))
            top = golden[f"top_{number}"]
            distance = np.abs(np.take_along_axis(logits, top, -1) - golden[f"logp_{number}"]).mean(-1)
            same = (logits.argmax(-1) == top[:, 0]).mean()
            print(f"{name} prompt {number}: {len(tokens)} positions, distance {distance.mean():.4f}, "
                  f"worst position {distance.max():.4f}, same best token {same:.3f}, "
                  f"last best {logits[-1].argmax()}")


if __name__ == "__main__":
    main()
