"""distributed-llama (https://github.com/b4rtaz/distributed-llama) as two nodes on two hosts of the lab, measured beside Tandem."""
import contextlib
import json
import os
import pathlib
import random
import re
import struct
import subprocess
import sys
import time

import models
import programs
from random_model import BLOCK_BYTES, BLOCK_VALUES, BLOCKS_AT_ONCE, random_blocks

# Layout: converter/writer.py and converter/tokenizer-writer.py of distributed-llama, 2026-01.
MODEL_MAGIC, TOKENIZER_MAGIC = 0xA00ABCD, 0x567124
LLAMA, SILU, Q40 = 0xABCD00, 1, 2
MODEL_KEYS = {"version": 0, "arch_type": 1, "dim": 2, "hidden_dim": 3, "n_layers": 4, "n_heads": 5, "n_kv_heads": 6,
              "n_experts": 7, "n_active_experts": 8, "vocab_size": 9, "max_seq_len": 10, "hidden_act": 11, "rope_theta": 12,
              "weights_float_type": 13, "norm_epsilon": 20}
TOKENIZER_KEYS = {"version": 0, "vocab_size": 1, "max_token_length": 2, "bos_id": 3, "n_eos_tokens": 9, "add_bos": 10}
LETTERS = "abcdefghijklmnopqrstuvwxyz"
PORT = 9998


def header(magic, keys, values):
    data = b"".join(struct.pack("<ii", keys[key], value) for key, value in values.items())
    return struct.pack("<ii", magic, 8 + len(data)) + data


def write_model(path, shape):
    """Random weights in the shape that `tandem inspect --json` tells."""
    dim, ffn, vocab = shape["dim"], shape["ffn_dim"], shape["vocab"]
    query, kv = shape["heads"] * shape["head_dim"], shape["kv_heads"] * shape["head_dim"]
    generator = random.Random(1)

    def matrix(rows, columns):
        blocks = rows * columns // BLOCK_VALUES
        for begin in range(0, blocks, BLOCKS_AT_ONCE):
            file.write(random_blocks(generator, min(BLOCKS_AT_ONCE, blocks - begin)))

    def ones(count):
        file.write(struct.pack("<f", 1.0) * count)

    part = path.with_suffix(".part")
    with part.open("wb") as file:
        file.write(header(MODEL_MAGIC, MODEL_KEYS, {
            "version": 0, "arch_type": LLAMA, "dim": dim, "hidden_dim": ffn, "n_layers": shape["layers"],
            "n_heads": shape["heads"], "n_kv_heads": shape["kv_heads"], "n_experts": 0, "n_active_experts": 0,
            "vocab_size": vocab, "max_seq_len": 2048, "hidden_act": SILU, "rope_theta": 500000, "weights_float_type": Q40,
            "norm_epsilon": 5}))
        row = struct.pack(f"<{dim}f", *(generator.gauss(0, 0.02) for _ in range(dim)))
        for token in range(vocab):  # rows that differ, without a number drawn for each
            turn = 4 * (token % dim)
            file.write(row[turn:] + row[:turn])
        for _ in range(shape["layers"]):
            for rows, columns in ((query, dim), (kv, dim), (kv, dim), (dim, query), (ffn, dim), (dim, ffn), (ffn, dim)):
                matrix(rows, columns)
            ones(2 * dim)
        ones(dim)
        matrix(vocab, dim)
    os.replace(part, path)


def write_tokenizer(path, vocab):
    """A token for every letter, and as many others as the model has."""
    texts = [letter.encode() for letter in LETTERS]
    texts += [b"<%d>" % i for i in range(len(texts), vocab - 2)] + [b"<s>", b"</s>"]
    with path.open("wb") as file:
        file.write(header(TOKENIZER_MAGIC, TOKENIZER_KEYS, {
            "version": 1, "vocab_size": vocab, "max_token_length": 16, "bos_id": vocab - 2, "n_eos_tokens": 1, "add_bos": 1}))
        file.write(struct.pack("<i", vocab - 1))
        for text in texts:
            file.write(struct.pack("<fI", 0.0, len(text)) + text)


class DistributedLlama:
    """Two nodes of one thread: a build's folder with `dllama`, and a function that gives the words with which a program starts
    on host 1 or 2."""

    name = "distributed-llama, 2 hosts"

    def __init__(self, folder, on_host, address, tandem):
        self.program = pathlib.Path(folder).resolve() / "dllama"
        self.on_host = on_host
        self.address = address
        self.tandem = tandem
        if not self.program.is_file():
            sys.exit(f"{self.program} is missing; build it there with: make dllama")

    def files(self, model):
        """A model and a tokenizer of the shape of `model`, written where they are missing."""
        shape = json.loads(programs.run([self.tandem, "inspect", model, "--json"]))["config"]
        title = "-".join(str(shape[key]) for key in ("layers", "dim", "ffn_dim", "heads", "kv_heads", "head_dim", "vocab"))
        folder = models.path("random-1b").parent
        paths = folder / f"random-{title}.dllama.m", folder / f"random-{title}.dllama.t"
        if not all(path.is_file() for path in paths):
            print(f"writing {paths[0]}", file=sys.stderr, flush=True)
            write_model(paths[0], shape)
            write_tokenizer(paths[1], shape["vocab"])
        return paths

    @contextlib.contextmanager
    def worker(self):
        process = subprocess.Popen([*self.on_host(2), str(self.program), "worker", "--port", str(PORT), "--nthreads", "1"],
                                   stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            time.sleep(1)  # it listens at once
            yield
        finally:
            process.kill()
            process.wait()

    def measure(self, model, work):
        """{"prefill", "decode": tokens/s}."""
        files = self.files(model)
        prompt = "".join(LETTERS[i % len(LETTERS)] for i in range(work.prompt))
        with self.worker():
            output = programs.run([*self.on_host(1), self.program, "inference", "--model", files[0], "--tokenizer", files[1],
                                   "--prompt", prompt, "--steps", work.prompt + work.generated, "--nthreads", 1,
                                   "--buffer-float-type", "q80", "--max-seq-len", 2048, "--temperature", 0, "--workers",
                                   f"{self.address}:{PORT}"])
        found = {part: re.search(part + r"\n(?:.*\n)*? *tokens/s: *([0-9.]+)", output) for part in ("Evaluation", "Prediction")}
        if None in found.values():
            sys.exit(f"{output[-2000:]}{self.program}: its speeds were not found; its output stands above")
        return {"prefill": float(found["Evaluation"][1]), "decode": float(found["Prediction"][1])}
