"""`tandem perplexity` (docs/perplexity.md) with real processes, held against the NumPy oracle of tests/golden/perplexity."""
import json
import math
import os
import pathlib
import re

import pytest
from conftest import GEMMA3, MPIRUN, SMOLLM2, TANDEM, generate_json, run

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden/perplexity"
TEXT = GOLDEN / "text.txt"
BOS = GOLDEN / "bos.gguf"
CASES = json.loads((GOLDEN / "perplexity.json").read_text())


def perplexity(model, file, *arguments, prefix=(), program=TANDEM):
    result = run([*prefix, program, "perplexity", model, "-f", file, "--json", *arguments])
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def refused(model, file, *arguments):
    result = run([TANDEM, "perplexity", model, "-f", file, *arguments])
    assert result.returncode == 2 and result.stdout == ""
    assert result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['model']}-{case['n_ctx']}-{case.get('ppl_stride', 0)}")
def test_figures_are_those_of_an_independent_pass(case):
    arguments = ["--context", case["n_ctx"], "--activations", "f32"]
    arguments += ["--stride", case["ppl_stride"]] if "ppl_stride" in case else []
    arguments += ["--chunks", case["n_chunks"]] if "n_chunks" in case else []
    found = perplexity(GOLDEN / f"{case['model']}.gguf", TEXT, *arguments)
    # Both in float32, which leaves a log-probability about 1e-5 of its size, and their mean less.
    assert found["perplexity"] == pytest.approx(case["perplexity"], rel=2e-5)
    assert found["error"] == pytest.approx(case["error"], rel=2e-4)
    assert found["after_chunks"] == pytest.approx(case["after_chunks"], rel=1e-4)
    assert (found["text_tokens"], found["counted_tokens"]) == (case["tokens"], case["counted"])
    assert found["mean_logprob"] == pytest.approx(-math.log(found["perplexity"]))
    assert found["chunk_tokens"] == case["n_ctx"] + case.get("ppl_stride", 0) // 2


def test_every_way_of_running_tells_the_same_bits(tmp_path):
    text = tmp_path / "text"
    text.write_text("The cat sat on the mat, and the dog by the door. Nobody knows why they did.\n" * 60)
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    ways = [("-n", n) for n in (2, 3)] + [("--isa", "avx2"), ("--threads", 1), ("--prefill-chunk", 37), ("--max-running", 1)]
    ways += [("--isa", "avx512")] if "avx512_vnni" in flags else []

    def figures(*arguments, prefix=()):
        found = perplexity(SMOLLM2, text, "--context", 96, "--chunks", 5, *arguments, prefix=prefix)
        return [found[key] for key in ("perplexity", "error", "after_chunks", "counted_tokens")]

    several = {}
    for form in (("--attention", "dense"), ("--attention", "sparse:window=40,global=4"), ("--kv-dtype", "f8"),
                 ("--stride", 50, "--attention", "sparse:window=20,random=1")):
        expected = several[form] = figures(*form)
        for way in ways:
            assert figures(*form, *way) == expected, (form, way)
        assert figures(*form, prefix=[*MPIRUN, "-n", 2]) == expected
    assert len({figure[0] for figure in several.values()}) == 4


def test_an_emulated_gpu_tells_the_same_bits():
    program = os.environ.get("EMULATED_PROGRAM")
    if program is None:
        pytest.skip("EMULATED_PROGRAM is not set")
    arguments = (BOS, TEXT, "--context", 64, "--chunks", 3)
    expected = perplexity(*arguments)
    found = perplexity(*arguments, "--device", "cuda", program=program)
    assert found["after_chunks"] == expected["after_chunks"]
    fast = perplexity(*arguments, "--device", "cuda", "--no-exact", program=program)
    assert fast["perplexity"] == pytest.approx(expected["perplexity"], rel=0.05)


def test_a_token_that_an_answer_has_counts_as_its_logprob_says(tmp_path):
    """The last token of a chunk, as `generate` finds it: greedy, so that it is the likeliest one."""
    prompt = "The capital of France is"
    answer = generate_json(SMOLLM2, "-p", prompt, "--max-tokens", 1, "--logprobs", 0)
    tokens = json.loads(run([TANDEM, "tokenize", SMOLLM2, "--json", prompt + answer["text"]]).stdout)["tokens"]
    assert len(tokens) == 6 and tokens[-1:] == answer["tokens"]
    text = tmp_path / "text"
    text.write_text(prompt + answer["text"] + " and that of Spain is Madrid, as all people know")
    found = perplexity(SMOLLM2, text, "--context", 6, "--chunks", 1)
    one = perplexity(SMOLLM2, text, "--context", 5, "--chunks", 1)
    # Of 6 tokens those at 4 and 5 count, of 5 tokens those at 3 and 4.
    assert (found["counted_tokens"], one["counted_tokens"]) == (2, 2)
    before = perplexity(SMOLLM2, text, "--context", 5, "--stride", 1, "--chunks", 1)
    assert before["counted_tokens"] == 1
    last = 2 * found["mean_logprob"] - before["mean_logprob"]
    assert last == pytest.approx(answer["logprobs"][0]["logprob"], abs=1e-6)


def test_text_and_progress_are_for_people(tmp_path):
    result = run([TANDEM, "perplexity", BOS, "-f", TEXT, "--context", 128])
    assert result.returncode == 0
    golden = next(case for case in CASES if case["model"] == "bos" and case["n_ctx"] == 128 and "n_chunks" not in case)
    first, second = result.stdout.splitlines()
    found = re.fullmatch(r"perplexity (\d+\.\d{4}) \+/- (\d+\.\d{5})", first)
    assert float(found[1]) == pytest.approx(golden["perplexity"], rel=1e-3)
    assert re.fullmatch(r"882 tokens counted, in 14 chunks of 128; \d+ tokens a second", second)
    assert re.fullmatch(r"(\[\d+\]\d+\.\d{4},\n?)+", result.stderr), result.stderr
    steps = re.findall(r"\[(\d+)\]", result.stderr)
    assert steps == [str(step) for step in range(1, 15)]
    # A newline at the very end is left out, and only one.
    stripped = tmp_path / "stripped"
    stripped.write_bytes(TEXT.read_bytes()[:-1])
    assert perplexity(BOS, stripped)["text_tokens"] == perplexity(BOS, TEXT)["text_tokens"] - 1
    # Of one token that counts there is no error.
    assert perplexity(BOS, TEXT, "--context", 3, "--chunks", 1)["error"] is None


def test_the_start_token_of_a_model_counts():
    """Gemma wants one; without it each chunk is a guess."""
    readme = pathlib.Path(__file__).resolve().parents[2] / "README.md"
    halves = perplexity(GEMMA3, readme, "--context", 64, "--chunks", 2)
    strided = perplexity(GEMMA3, readme, "--context", 48, "--stride", 32, "--chunks", 3)
    assert halves["perplexity"] < 1000 and strided["chunk_tokens"] == 64


def test_what_is_wrong_is_told_in_one_line(tmp_path):
    short = tmp_path / "short"
    short.write_text("x" * 254)
    assert f"{short}: it has 255 tokens, two chunks of 128 take 256 at least" in refused(BOS, short, "--context", 128)
    short.write_text("x" * 255)
    assert perplexity(BOS, short, "--context", 128)["chunks"] == 2
    short.write_text("")
    assert f"{short}: it has 1 token, two chunks" in refused(BOS, short)
    binary = tmp_path / "binary"
    binary.write_bytes(b"ab\xffc")
    assert f"{binary}: byte 2, 0xFF, is no UTF-8" in refused(BOS, binary)
    assert "/no/such/text: cannot be read: No such file or directory" in refused(SMOLLM2, "/no/such/text", "-n", 2)
    assert "/no/such/text: cannot be read" in refused(BOS, "/no/such/text")
    assert "/tmp: cannot be read: Is a directory" in refused(BOS, "/tmp")
    assert "a chunk has 513 tokens, but the context of the model holds 512" in refused(BOS, TEXT, "--context", 513)
    assert "a chunk has 520 tokens" in refused(BOS, TEXT, "--context", 500, "--stride", 40)
    assert "--stride 300: a chunk has 250 tokens" in refused(BOS, TEXT, "--context", 100, "--stride", 300)
    assert "--context 2: no token of such a chunk counts" in refused(BOS, TEXT, "--context", 2)
    for arguments in (("--stride", 0), ("--stride", -5), ("--stride", "x"), ("--context", 0), ("--chunks", 0)):
        assert f"{arguments[0]}: '{arguments[1]}' is no whole number from 1" in refused(BOS, TEXT, *arguments)
    no_tokenizer = GOLDEN.parent / "families/llama.gguf"
    assert "tokenizer" in refused_with(1, no_tokenizer, TEXT)


def refused_with(status, model, file):
    result = run([TANDEM, "perplexity", model, "-f", file])
    assert result.returncode == status, result.stderr
    return result.stderr
