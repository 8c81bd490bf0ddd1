"""Streams without end: `--no-limit` and `--ignore-eos` with sparse attention (docs/attention.md)."""
import json
import os
import pathlib
import time

import numpy as np
from conftest import MPIRUN, SMOLLM2, TANDEM, generate_json, run
from test_state import client_of

TINY = pathlib.Path(__file__).resolve().parents[1] / "golden/families/llama.gguf"  # of a context of 512
WINDOW, GLOBAL = 100, 70
FORM = ("--attention", f"sparse:window={WINDOW},global={GLOBAL}")
# Of one sequence, and the block that a step of 64 prompt tokens writes besides.
BLOCKS = -(-(WINDOW - 1) // 64) + 1 + -(-GLOBAL // 64)
BLOCK = 2 * 2 * 2 * 64 * 8 * 2  # bytes: 2 layers, 2 KV heads of 8, keys and values of 64 tokens, float16


def some_tokens(count, vocab=96):
    return np.random.default_rng(3).integers(3, vocab, size=count)


def stream(tokens, most, *arguments, model=TINY, prefix=()):
    return generate_json(model, "--tokens", ",".join(map(str, tokens)), "--max-tokens", most, "--no-limit", "--ignore-eos", *arguments,
                         prefix=prefix)


def test_the_context_ends_no_stream_and_its_pages_are_few():
    """In a pool that has just the blocks that are promised: one more, and the stream would end."""
    tokens = some_tokens(90)
    few = ("--max-running", 1, "--prefill-chunk", 64, "--kv-memory", (BLOCKS + 1) * BLOCK)
    found = stream(tokens, 5000, *FORM, *few)
    assert (found["finish_reason"], found["usage"]["completion_tokens"]) == ("length", 5000)
    assert found["tokens"] == stream(tokens, 5000, *FORM)["tokens"]
    # Without the flag, the context of 512 ends it; up to there it says the same.
    words = [TINY, "--tokens", ",".join(map(str, tokens)), "--max-tokens", 5000, "--ignore-eos", *FORM]
    limited = generate_json(*words)
    assert limited["finish_reason"] == "length" and limited["tokens"] == found["tokens"][:512 - 90]
    shorter = stream(tokens, 5000, *FORM, *few[:-1], BLOCKS * BLOCK)
    assert shorter["usage"]["completion_tokens"] == BLOCKS * 64 - 90
    assert shorter["tokens"] == found["tokens"][:BLOCKS * 64 - 90]


def test_end_tokens_end_nothing_where_they_are_ignored(tmp_path):
    messages = tmp_path / "messages.json"
    messages.write_text('[{"role": "user", "content": "Say hello."}]')
    template = run([TANDEM, "template", SMOLLM2, messages, "--json"])
    words = [SMOLLM2, "--tokens", ",".join(map(str, json.loads(template.stdout)["tokens"])), "--max-tokens", 90]
    ended = generate_json(*words)
    assert ended["finish_reason"] == "stop" and ended["usage"]["completion_tokens"] < 80
    for ways in (["--ignore-eos"], ["--ignore-eos", "-n", 2]):
        longer = generate_json(*words, *ways)
        assert (longer["finish_reason"], longer["usage"]["completion_tokens"]) == ("length", 90)
        assert longer["tokens"][:len(ended["tokens"])] == ended["tokens"]
        end = longer["tokens"][len(ended["tokens"])]
        assert run([TANDEM, "detokenize", SMOLLM2, str(end), "--special"]).stdout in ("<|im_end|>", "<|endoftext|>")
    config = tmp_path / "config"
    config.write_text("[generate]\nignore-eos = true\n")
    for environment in ({"TANDEM_IGNORE_EOS": "1"}, {"TANDEM_CONFIG": str(config)}):
        result = run([TANDEM, "generate", *words, "--json"], env={**os.environ, **environment})
        assert json.loads(result.stdout)["tokens"] == longer["tokens"]


def test_a_stream_is_what_is_computed_again():
    """Its first tokens as a prompt, longer than the context, go on with its next ones."""
    tokens = some_tokens(20)
    long = stream(tokens, 3000, *FORM)["tokens"]
    for cut in (1, 490, 1500, 2940):
        again = stream([*tokens, *long[:cut]], 60, *FORM, "--prefill-chunk", 97)
        assert again["tokens"] == long[cut:cut + 60], cut
        assert again["usage"]["prompt_tokens"] == 20 + cut


def test_streams_are_the_same_on_any_number_of_ranks():
    tokens = some_tokens(50, 40000)
    form = ("--attention", "sparse:window=64,global=4")
    # Far from the end of its context SmolLM2 would say the same with or without the flag; so begin near that end.
    tokens = np.concatenate([some_tokens(8150, 40000), tokens])
    one = stream(tokens, 150, *form, model=SMOLLM2)
    assert one["usage"]["completion_tokens"] == 150
    assert stream(tokens, 150, *form, "-n", 2, model=SMOLLM2)["tokens"] == one["tokens"]
    assert stream(tokens, 150, *form, model=SMOLLM2, prefix=[*MPIRUN, "-n", 3])["tokens"] == one["tokens"]


def test_what_would_keep_all_keys_is_refused_in_one_line():
    for command in (["generate", TINY, "--tokens", "5"], ["serve", TINY], ["chat", TINY], ["generate", SMOLLM2, "-p", "x", "-n", 2]):
        for form in ("dense", "sparse:window=64,random=2"):
            result = run([TANDEM, *command, "--no-limit", "--attention", form])
            assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
            assert f"--no-limit: a stream without end needs attention that leaves keys behind, and of --attention {form} all are kept" \
                in result.stderr
    learned = TINY.with_name("gpt2.gguf")
    result = run([TANDEM, "generate", learned, "--tokens", "5", "--no-limit", "--attention", "sparse:window=64"])
    assert result.returncode == 2 and result.stderr.count("\n") == 1, result.stderr
    assert "gpt2.gguf has learned positions for 512 tokens, and none behind them" in result.stderr
    result = run([TANDEM, "chat", "--connect", "tcp://127.0.0.1:1", "--no-limit"])
    assert result.returncode == 2 and "--no-limit is for a MODEL, not for --connect" in result.stderr


def test_a_server_streams_beyond_the_context(start_server):
    server = start_server(TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--no-limit", *FORM, "--prefill-chunk", 64,
                          "--kv-memory", "64MiB")
    tokens = list(map(int, some_tokens(8180, 40000)))
    with client_of(server) as client:
        assert client.ask("status")["model"]["context"] == 1 << 24
        done = client.ask("complete", tokens=tokens, max_tokens=40, ignore_eos=True)
        assert (done["type"], done["finish_reason"], done["usage"]["completion_tokens"]) == ("done", "length", 40), done
        end = time.monotonic() + 10  # what status tells may be of a moment ago
        while client.ask("status")["pages"]["used"] != 0:
            assert time.monotonic() < end


def test_ranks_must_agree():
    words = [TANDEM, "generate", SMOLLM2, "--tokens", "5,6,7", "--max-tokens", 2, "--attention", "sparse:window=64"]
    result = run([*MPIRUN, "-n", 1, *words, "--no-limit", ":", "-n", 1, *words])
    assert result.returncode != 0 and "--no-limit" in result.stderr, result.stderr


def test_guesses_ahead_go_on_beyond_the_context():
    tokens = some_tokens(30)
    plain = stream(tokens, 1500, *FORM)
    guessed = stream(tokens, 1500, *FORM, "--speculate")
    assert guessed["tokens"] == plain["tokens"]
