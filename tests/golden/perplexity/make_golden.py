"""Writes tiny models, a text, and its perplexity by the NumPy oracle (tests/golden/logits) in float32: perplexity.json.

usage: make_golden.py   (PyPI: numpy, gguf). The two models have the same random weights and a token for each byte; bos.gguf wants a
start token, plain.gguf wants none. Chunks and what counts in them are written down here as llama.cpp's tools/perplexity/perplexity.cpp
has them, with its names: `perplexity` without a stride, `perplexity_v2` with one. There a batch has its tokens before the start token is put
in, so that none is: it stands before the whole text alone.
"""
import json
import math
import pathlib
import sys

import gguf
import numpy as np

HERE = pathlib.Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "logits"))
from numpy_oracle import Model, log_probabilities  # noqa: E402

DIM, FFN, HEADS, KV_HEADS, LAYERS, CONTEXT = 32, 64, 4, 2, 2, 512
BOS, EOS, FIRST_BYTE = 0, 1, 2
CASES = [dict(n_ctx=128), dict(n_ctx=101), dict(n_ctx=3, n_chunks=9), dict(n_ctx=512, n_chunks=2), dict(n_ctx=64, ppl_stride=40),
         dict(n_ctx=200, ppl_stride=1, n_chunks=5), dict(n_ctx=33, ppl_stride=63), dict(n_ctx=128, n_chunks=1)]
TEXT = """The tide comes in twice a day, and twice a day the harbour of Skerry fills without a sound. \
Nobody there calls it the sea; they say "the water", as of a neighbour.
\tA list, for those who count: 1, 2, 3, 5, 8, 13.
Größe, naïve, 波, 🌊 — not all bytes are letters.

"""


def byte_characters():
    """The characters that stand for bytes in byte-level vocabularies (GPT-2)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return [chr(byte) if byte in visible else chr(256 + hidden.index(byte)) for byte in range(256)]


def write_model(name, add_bos):
    rng = np.random.default_rng(11)
    head_dim = DIM // HEADS
    writer = gguf.GGUFWriter(HERE / f"{name}.gguf", "llama")
    writer.add_name(f"tiny {name}")
    writer.add_block_count(LAYERS)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_feed_forward_length(FFN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(head_dim)
    writer.add_rope_freq_base(10000.0)
    tokens = ["<s>", "</s>", *byte_characters()]
    # A list of merges may not be empty: one of two bytes that are in no text.
    pair = tokens[FIRST_BYTE + 0xFE:]
    tokens.append("".join(pair))
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL] * 2 + [gguf.TokenType.NORMAL] * 257)
    writer.add_token_merges([" ".join(pair)])
    writer.add_bos_token_id(BOS)
    writer.add_eos_token_id(EOS)
    writer.add_add_bos_token(add_bos)

    def add(tensor, rows, columns, scale):
        writer.add_tensor(tensor, (rng.standard_normal((rows, columns)) * scale).astype(np.float32))

    def add_norm(tensor):
        writer.add_tensor(tensor, (1 + 0.1 * rng.standard_normal(DIM)).astype(np.float32))

    add("token_embd.weight", len(tokens), DIM, 0.4)
    add_norm("output_norm.weight")
    for layer in range(LAYERS):
        prefix = f"blk.{layer}."
        add_norm(prefix + "attn_norm.weight")
        add(prefix + "attn_q.weight", DIM, DIM, 0.25)
        add(prefix + "attn_k.weight", KV_HEADS * head_dim, DIM, 0.25)
        add(prefix + "attn_v.weight", KV_HEADS * head_dim, DIM, 0.25)
        add(prefix + "attn_output.weight", DIM, DIM, 0.25)
        add_norm(prefix + "ffn_norm.weight")
        add(prefix + "ffn_gate.weight", FFN, DIM, 0.25)
        add(prefix + "ffn_up.weight", FFN, DIM, 0.25)
        add(prefix + "ffn_down.weight", DIM, FFN, 0.25)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def of_chunk(model, tokens):
    """-ln p of each token but the first."""
    logprobs = log_probabilities(model.logits(np.array(tokens)))
    return [-logprobs[j, tokens[j + 1]] for j in range(len(tokens) - 1)]


def surprises(model, tokens, add_bos, n_ctx, ppl_stride=0, n_chunks=-1):
    """-ln p of what counts, a list a chunk."""
    if ppl_stride > 0:
        n_ctx += ppl_stride // 2
        most = (len(tokens) - n_ctx + ppl_stride - 1) // ppl_stride
        starts = [i * ppl_stride for i in range(most)]
        counted = range(n_ctx - ppl_stride - 1, n_ctx - 1)
    else:
        starts = [i * n_ctx for i in range(len(tokens) // n_ctx)]
        counted = range(n_ctx // 2, n_ctx - 1)
    assert len(tokens) >= 2 * n_ctx
    for start in starts if n_chunks < 0 else starts[:n_chunks]:
        chunk = list(tokens[start:start + n_ctx])
        target = list(chunk)
        if add_bos and ppl_stride == 0:
            chunk[0] = BOS
        found = of_chunk(model, chunk)
        assert counted[0] + 1 > 0 and target[1:] == chunk[1:]
        yield [found[j] for j in counted]


def main():
    text = (TEXT * 7).encode()
    (HERE / "text.txt").write_bytes(text)
    assert text.endswith(b"\n\n")
    golden = []
    for name, add_bos in (("bos", True), ("plain", False)):
        write_model(name, add_bos)
        model = Model(HERE / f"{name}.gguf")
        # One newline at the end of a file is left out: common/arg.cpp of llama.cpp.
        tokens = [BOS] * add_bos + [FIRST_BYTE + byte for byte in text[:-1]]
        for case in CASES:
            after, flat = [], []
            for chunk in surprises(model, tokens, add_bos, **case):
                flat += chunk
                after.append(math.exp(math.fsum(flat) / len(flat)))
            mean = math.fsum(flat) / len(flat)
            variance = math.fsum(s * s for s in flat) / len(flat) - mean * mean
            golden.append({"model": name, **case, "tokens": len(tokens), "counted": len(flat), "after_chunks": after,
                           "perplexity": math.exp(mean), "error": math.sqrt(variance / (len(flat) - 1)) * math.exp(mean)})
            print(name, case, len(tokens), len(flat), golden[-1]["perplexity"], golden[-1]["error"])
    (HERE / "perplexity.json").write_text(json.dumps(golden, indent=0) + "\n")


if __name__ == "__main__":
    main()
