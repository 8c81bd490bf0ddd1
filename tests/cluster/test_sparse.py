"""Sparse attention with real processes (docs/attention.md)."""
import json
import os
import pathlib

import numpy as np
import pytest
from conftest import MPIRUN, SMOLLM2, TANDEM, generate, generate_json, run
from test_kv import SYSTEM, ask, kv, kv_json, no_agents_left, refused, stop_agents, tokens_of_system  # noqa: F401
from test_state import client_of, serve

GOLDEN = pathlib.Path(__file__).resolve().parents[1] / "golden"
TINY = GOLDEN / "families/llama.gguf"
FORM = "sparse:window=70,global=4,random=2,seed=9"


def logits(path, tokens, out, *arguments, prefix=()):
    generate(path, "--tokens", ",".join(map(str, tokens)), "--logits", out, "--max-tokens", "0", *arguments, prefix=prefix)
    return out


def some_tokens(count, vocab=96):
    return np.random.default_rng(3).integers(3, vocab, size=count)


def test_logits_are_those_of_the_definition(tmp_path):
    """An independent NumPy pass has the same logits, for every form of tests/golden/sparse."""
    golden = np.load(GOLDEN / "sparse/sparse.npz")
    forms = [name for name in golden.files if "/" in name]
    assert len(forms) == 6
    for name in forms:
        model, form = name.split("/", 1)
        found = np.load(logits(GOLDEN / f"families/{model}.gguf", golden["tokens"], tmp_path / "l.npy", "--activations", "f32",
                               "--attention", form, "--prefill-chunk", "100"))[golden["positions"]]
        # Both sum in float32, in different orders, as tests/parallel/rank/families_test.cpp says.
        assert np.abs(found - golden[name]).max() < 1e-4 * np.abs(golden[name]).max(), name


def check_every_way_of_running(folder, forms):
    """SmolLM2's logits are the same bytes on any number of ranks, for each instruction set, in any chunks and threads."""
    tokens = some_tokens(450, 40000)
    flags = pathlib.Path("/proc/cpuinfo").read_text()
    sets = ["scalar", "avx2"] + (["avx512"] if "avx512_vnni" in flags else [])
    ways = [([*MPIRUN, "-n", n], ()) for n in (2, 3, 5)]
    ways += [((), ("--isa", isa)) for isa in sets]
    ways += [((), ("--prefill-chunk", n)) for n in (7, 130)]
    ways += [((), ("--threads", n)) for n in (1, 3)]
    dense = logits(SMOLLM2, tokens, folder / "dense.npy").read_bytes()
    for form in forms:
        expected = logits(SMOLLM2, tokens, folder / "one.npy", "--attention", form).read_bytes()
        assert expected != dense
        for prefix, arguments in ways:
            found = logits(SMOLLM2, tokens, folder / "way.npy", "--attention", form, *arguments, prefix=prefix)
            assert found.read_bytes() == expected, (form, prefix, arguments)
    return tokens, dense


def test_every_way_of_running_writes_the_same_bytes(tmp_path):
    tokens, dense = check_every_way_of_running(tmp_path, (FORM, "sparse:window=100,global=70"))
    assert logits(SMOLLM2, tokens, tmp_path / "wide.npy", "--attention", "sparse:window=450").read_bytes() == dense


def test_an_emulated_gpu_writes_the_same_bytes(tmp_path):
    program = os.environ.get("EMULATED_PROGRAM")
    if program is None:
        pytest.skip("EMULATED_PROGRAM is not set")
    tokens = some_tokens(300)
    expected = logits(TINY, tokens, tmp_path / "cpu.npy", "--attention", FORM)
    result = run([program, "generate", TINY, "--tokens", ",".join(map(str, tokens)), "--logits", tmp_path / "gpu.npy",
                  "--max-tokens", "0", "--attention", FORM, "--device", "cuda", "--prefill-chunk", "90"])
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "gpu.npy").read_bytes() == expected.read_bytes()


@pytest.mark.parametrize("form", [FORM, "sparse:window=80,global=4"])
def test_guesses_ahead_do_not_change_the_answer(form):
    text = 12 * "The cat sat on the mat, and the dog sat by the door. "
    tokens = json.loads(run([TANDEM, "tokenize", SMOLLM2, "--json"], input=text).stdout)["tokens"]
    words = [SMOLLM2, "--tokens", ",".join(map(str, tokens)), "--max-tokens", 80, "--attention", form]
    plain = generate_json(*words)
    guessed = generate_json(*words, "--speculate")
    assert guessed["tokens"] == plain["tokens"]
    assert guessed["usage"]["drafted_tokens"] > 0


@pytest.mark.parametrize("form,place", [
    ("sparse", "at character 1 (\"sparse\"): expected dense, sparse: or infini:"),
    ("sparse:window=0", "at character 15 (\"0\"): window is 1 to"),
    ("sparse:window=64,globl=4", "at character 18 (\"globl=4\"): expected window, global, random or seed"),
])
def test_a_wrong_text_is_told_with_its_place_and_the_grammar(form, place):
    for command in (["generate", TINY, "--tokens", "5"], ["serve", TINY], ["bench", TINY], ["chat", TINY], ["plan", TINY, "-n", 1]):
        result = run([TANDEM, *command, "--attention", form])
        assert result.returncode != 0
        assert result.stderr.count("\n") == 1 and place in result.stderr, result.stderr
        assert "dense, sparse:window=W[,global=G][,random=R][,seed=S] or infini:segment=N" in result.stderr


def test_a_window_beyond_the_context_is_refused_in_one_line():
    for command in (["generate", TINY, "--tokens", "5"], ["serve", TINY, "-n", 2], ["plan", TINY, "-n", 2]):
        result = run([TANDEM, *command, "--attention", "sparse:window=513"])
        assert result.returncode != 0
        assert result.stderr.count("\n") == 1, result.stderr
        assert "--attention sparse:window=513: window=513 is longer than the context of 512 tokens" in result.stderr


def test_ranks_must_have_the_same_form():
    def start(first, second):
        words = [TANDEM, "generate", SMOLLM2, "--tokens", "5,6,7", "--max-tokens", 2]
        return run([*MPIRUN, "-n", 1, *words, *first, ":", "-n", 1, *words, *second])

    result = start(["--attention", "sparse:window=64"], [])
    assert result.returncode != 0 and "--attention" in result.stderr, result.stderr
    same = start(["--attention", "sparse:window=64,seed=3"], ["--attention", "sparse:global=0,window=64"])
    assert same.returncode == 0, same.stderr


def test_memory_is_planned_for_what_is_kept():
    def cache(*arguments):
        result = run([TANDEM, "plan", SMOLLM2, "-n", 1, "--device", "cuda", "--prefill-chunk", 64, "--json", *arguments])
        assert result.returncode == 0, result.stderr
        return json.loads(result.stdout)["ranks"][0]["gpu_bytes"]["kv_cache"]

    block = cache() // (64 * 8192 // 64)  # of 64 sequences of 8192 tokens
    # ceil((W - 1) / 64) + 1 + ceil(G / 64) blocks, and the one that a step writes.
    assert cache("--attention", "sparse:window=1024,global=65") == 64 * (16 + 1 + 2 + 1) * block
    assert cache("--attention", "sparse:window=1024,global=65,random=1") == cache()


def test_a_conversation_of_another_form_is_computed_again_and_usage_says_why(start_server, tmp_path):
    state = tmp_path / "state"

    def turn(*arguments, **fields):
        server = serve(start_server, state, *arguments)
        with client_of(server) as client:
            done = ask(client, **fields)
        assert server.stop() == 0
        stop_agents(state)
        return done["usage"]

    sparse = ("--attention", "sparse:window=128,global=4")
    first = turn(*sparse, conversation="c")
    assert first["reuse_limit"] == "nothing_known"
    more = {"conversation": "c", "system": "Now be brief.", "question": "And a book of shelf 5?"}
    again = turn("--attention", "sparse:global=4,window=128,seed=1", "-n", 2, **more)
    assert again["reused_from"]["disk"] >= tokens_of_system() // 64 * 64, again
    other = turn("--attention", "sparse:window=192,global=4", **more)
    assert other["reused_tokens"] == 0 and other["reuse_limit"] == "other_attention", other
    back = turn("--attention", "sparse:window=192,global=4", **more)
    assert back["reuse_limit"] != "other_attention" and back["reused_tokens"] > 64, back
    dense = turn(**more)
    assert dense["reused_tokens"] == 0 and dense["reuse_limit"] == "other_attention", dense
    assert turn(conversation="new")["reuse_limit"] != "other_attention"


def test_saved_kv_travels_with_its_form(start_server, tmp_path):
    mine, other = tmp_path / "state", tmp_path / "other"
    form = ("--attention", "sparse:window=100,global=4")

    def answer(state, *arguments):
        server = serve(start_server, state, *arguments)
        with client_of(server) as client:
            done = ask(client)
        assert server.stop() == 0
        stop_agents(state)
        return done

    first = answer(mine, *form)
    file = tmp_path / "file"
    key = kv_json("export", "--state", mine, SMOLLM2, "--system", SYSTEM, *form, "-o", file)["public_key"]
    assert "not there" in refused("export", "--state", mine, SMOLLM2, "--system", SYSTEM, "-o", tmp_path / "dense")
    assert "not of" in refused("import", "--state", other, file, "--trust", key, SMOLLM2)
    kv("import", "--state", other, file, "--trust", key, SMOLLM2, *form)
    stop_agents(other)
    travelled = answer(other, *form)
    assert travelled["text"] == first["text"]
    assert travelled["usage"]["reused_tokens"] >= tokens_of_system() // 64 * 64, travelled


def test_a_stream_keeps_few_pages(start_server):
    """Far more tokens than the cache has room for: what nobody sees again is given back."""
    form = ("--attention", "sparse:window=64,global=4")
    tokens = some_tokens(1500, 40000)
    # Three blocks of the sequence and the two of a chunk, of 30 layers with 3 KV heads of 64.
    block = 30 * 3 * 2 * 64 * 64 * 2
    words = [SMOLLM2, "--tokens", ",".join(map(str, tokens)), "--max-tokens", 40, "--prefill-chunk", 64,
             "--max-running", 1, *form]
    few = generate_json(*words, "--kv-memory", 5 * block)
    assert few["usage"]["completion_tokens"] == 40
    assert few["tokens"] == generate_json(*words)["tokens"]


def test_bench_tells_the_form():
    result = run([TANDEM, "bench", TINY, "--prompt", 100, "--gen", 4, "--batch", 1, "--rounds", 1, "--read-memory", "16MiB", "--json",
                  "--attention", "sparse:seed=3,random=1,window=64"])
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["run"]["attention"] == "sparse:window=64,random=1,seed=3"
