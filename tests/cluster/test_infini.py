"""Infini-attention with real processes (docs/attention.md)."""
import json
import os
import shutil

import numpy as np
import pytest
from conftest import SMOLLM2, TANDEM, generate_json, run
from test_kv import copy_of, kv, kv_json, no_agents_left, stop_agents  # noqa: F401
from test_sparse import GOLDEN, TINY, check_every_way_of_running, logits, some_tokens
from test_state import client_of, kill_all, serve

FORM = "infini:segment=128,gate=-1"
GATED = GOLDEN / "infini/gated.gguf"


def test_logits_are_those_of_the_definition(tmp_path):
    """An independent NumPy pass has the same logits, for every form of tests/golden/infini."""
    golden = np.load(GOLDEN / "infini/infini.npz")
    forms = [name for name in golden.files if "/" in name]
    assert len(forms) == 6
    for name in forms:
        model, form = name.split("/", 1)
        file = GATED if model == "gated" else GOLDEN / f"families/{model}.gguf"
        found = np.load(logits(file, golden["tokens"], tmp_path / "l.npy", "--activations", "f32",
                               "--attention", form, "--prefill-chunk", "100"))[golden["positions"]]
        assert np.abs(found - golden[name]).max() < 1e-4 * np.abs(golden[name]).max(), name


def test_every_way_of_running_writes_the_same_bytes(tmp_path):
    check_every_way_of_running(tmp_path, (FORM, "infini:segment=64,update=linear"))


def test_the_gates_of_a_file_are_cut_with_their_heads(tmp_path):
    """Each rank takes the gates of its query heads; a gate that is typed counts in the place of the file's."""
    tokens = some_tokens(200)
    form = ("--attention", "infini:segment=64")
    one = logits(GATED, tokens, tmp_path / "one.npy", *form).read_bytes()
    assert logits(GATED, tokens, tmp_path / "two.npy", *form, "--ranks", 2).read_bytes() == one
    typed = logits(GATED, tokens, tmp_path / "typed.npy", "--attention", "infini:segment=64,gate=0.5").read_bytes()
    assert typed != one and typed == logits(GATED, tokens, tmp_path / "typed2.npy", "--attention", "infini:segment=64,gate=0.5",
                                            "--ranks", 2).read_bytes()


def test_gates_of_another_shape_are_refused(tmp_path):
    data = GATED.read_bytes()
    name = b"blk.1.attn_infini_gate"
    at = data.index(name) + len(name) + 4  # behind the number of dimensions
    assert data[at:at + 8] == (4).to_bytes(8, "little")
    wrong = tmp_path / "wrong.gguf"
    wrong.write_bytes(data[:at] + (3).to_bytes(8, "little") + data[at + 8:])
    result = run([TANDEM, "generate", wrong, "--tokens", "5", "--attention", "infini:segment=64"])
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "blk.1.attn_infini_gate" in result.stderr, result.stderr


def test_the_first_segment_is_dense_attention(tmp_path):
    tokens = some_tokens(64)
    first = np.load(logits(TINY, tokens, tmp_path / "one.npy", "--attention", "infini:segment=64", "--kv-dtype", "f32"))
    dense = np.load(logits(TINY, tokens, tmp_path / "dense.npy", "--kv-dtype", "f32"))
    assert (first == dense).all()


def test_guesses_ahead_do_not_change_the_answer():
    text = 12 * "The cat sat on the mat, and the dog sat by the door. "
    tokens = json.loads(run([TANDEM, "tokenize", SMOLLM2, "--json"], input=text).stdout)["tokens"]
    words = [SMOLLM2, "--tokens", ",".join(map(str, tokens)), "--max-tokens", 150, "--attention", "infini:segment=64"]
    plain = generate_json(*words)
    guessed = generate_json(*words, "--speculate")
    assert guessed["tokens"] == plain["tokens"]
    assert guessed["usage"]["drafted_tokens"] > 0


@pytest.mark.parametrize("form,said", [
    ("infini:segment=100", "segment is a multiple of 64"),
    ("infini:segment=576", "segment=576 is longer than the context of 512 tokens"),
    ("infini:segment=64,update=dela", "update is delta or linear"),
])
def test_a_form_that_cannot_be_is_refused_in_one_line(form, said):
    for command in (["generate", TINY, "--tokens", "5"], ["serve", TINY, "-n", 2], ["plan", TINY, "-n", 2]):
        result = run([TANDEM, *command, "--attention", form])
        assert result.returncode == 2
        assert result.stderr.count("\n") == 1 and said in result.stderr, result.stderr


@pytest.mark.parametrize("model,why", [("bloom", "ALiBi"), ("gpt2", "learned positions")])
def test_positions_that_are_not_turned_are_refused(model, why):
    result = run([TANDEM, "generate", GOLDEN / f"families/{model}.gguf", "--tokens", "5", "--attention", "infini:segment=64"])
    assert result.returncode == 2
    assert result.stderr.count("\n") == 1 and why in result.stderr, result.stderr


def test_a_gpu_refuses_it_by_name():
    program = os.environ.get("EMULATED_PROGRAM")
    if program is None:
        pytest.skip("EMULATED_PROGRAM is not set")
    result = run([program, "generate", TINY, "--tokens", "5", "--attention", FORM, "--device", "cuda"])
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1 and "Infini-attention is not there" in result.stderr, result.stderr


QUESTIONS = ["Name three colours.", "And three animals.", "Which of them can fly?", "Write a line about the sea.",
             "And one about the wind.", "What is 3 + 4?", "Name a city in Italy.", "Say goodbye.", "And once more."]


def test_a_killed_conversation_goes_on_on_another_number_of_ranks(start_server, tmp_path):
    """Eight turns on 2 ranks, kill -9 of all, turn nine on 3 ranks: pages and state come from the disk, and the text is that of an
    undisturbed run."""
    flags = ("--attention", "infini:segment=256")
    undisturbed = serve(start_server, tmp_path / "undisturbed", *flags)
    with client_of(undisturbed) as client:
        expected = [client.say("c", question, max_tokens=40)["text"] for question in QUESTIONS]
    assert undisturbed.stop() == 0

    state = tmp_path / "state"
    server = serve(start_server, state, "-n", 2, *flags)
    with client_of(server) as client:
        said = [client.say("c", question, max_tokens=40) for question in QUESTIONS[:-1]]
    assert [done["text"] for done in said] == expected[:-1]
    read = said[-1]["usage"]["prompt_tokens"] + said[-1]["usage"]["completion_tokens"]
    kill_all(server, agents_below=state)
    server = serve(start_server, state, "-n", 3, *flags)
    with client_of(server) as client:
        last = client.say("c", QUESTIONS[-1], max_tokens=40)
    assert last["text"] == expected[-1]
    assert last["usage"]["reused_from"]["disk"] == last["usage"]["reused_tokens"] >= read - 2, last["usage"]
    assert read > 300, "it has a segment behind it"
    assert server.stop() == 0


@pytest.mark.parametrize("length,exported", [(100, 64), (700, 640)])
def test_a_prefix_is_exported_with_its_state(start_server, tmp_path, length, exported):
    """Within the first segment, and behind a state: what is imported is reused on another number of ranks."""
    form = ("--attention", "infini:segment=256")
    text = " ".join(f"{number} is a number." for number in range(length // 5))
    server = serve(start_server, tmp_path / "first", *form)
    with client_of(server) as client:
        client.say("c", text, max_tokens=8)
    assert server.stop() == 0
    file = tmp_path / "file"
    there = kv_json("export", "--state", tmp_path / "first", SMOLLM2, *form, "--conversation", "c", "-o", file)
    assert there["tokens"] >= exported
    assert there["tokens"] == there["tokens_of_text"] // 64 * 64, there
    kv("import", "--state", tmp_path / "other", file, "--trust", there["public_key"], SMOLLM2, *form)
    server = serve(start_server, tmp_path / "other", "-n", 3, *form)
    with client_of(server) as client:
        usage = client.say("d", text, max_tokens=8)["usage"]
    assert usage["reused_tokens"] == there["tokens"], usage
    assert server.stop() == 0


LONG = " ".join(f"Line {number} of the list." for number in range(25))


def assert_nothing_is_useless(state, records):
    """`kv` calls all of it good, and removes none of it."""
    checked = kv_json("verify", "--state", state)
    assert checked["good"] == checked["records"] == records, checked
    assert checked["incomplete_blocks"] == checked["orphaned_blocks"] == 0, checked
    assert "of no use" not in kv("verify", "--state", state).stdout
    collected = kv_json("gc", "--state", state)
    assert collected["removed"]["records"] == 0 and collected["left"]["records"] == records, collected


@pytest.mark.parametrize("answer,all_useful", [(16, True), (40, False)])
def test_kv_knows_what_a_server_can_use(start_server, tmp_path, answer, all_useful):
    """Blocks before a state may be absent: what `kv` says of the rest is what the next server does. An answer that begins
    in one segment and ends in the next may leave pages behind whose state was not kept; nothing else goes."""
    form = ("--attention", "infini:segment=128")
    state = tmp_path / "state"
    server = serve(start_server, state, "-n", 2, *form)
    with client_of(server) as client:
        for question in (LONG, "Which is the third line?", LONG):
            done = client.say("c", question, max_tokens=answer)
    assert server.stop() == 0
    stop_agents(state)
    read = done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"]
    listed = kv_json("ls", "--state", state)
    mine = [prefix for prefix in listed["prefixes"] if prefix["conversations"] == ["c"]]
    assert len(mine) == 1, listed
    assert mine[0]["complete"] and read - 2 <= mine[0]["usable_tokens"] == mine[0]["tokens"] <= read, mine
    shown = kv_json("show", "--state", state, "--conversation", "c")["chain"]
    assert all(block["first_token"] % 64 == 0 for block in shown)
    assert shown[-1]["first_token"] + shown[-1]["tokens"] == mine[0]["tokens"], shown[-1]
    assert [group["states"] for group in listed["models"][0]["layer_groups"]] == [False, True]
    if all_useful:
        assert_nothing_is_useless(state, listed["total"]["records"])
    kv("gc", "--state", state)
    after = [prefix for prefix in kv_json("ls", "--state", state)["prefixes"] if prefix["conversations"] == ["c"]]
    assert len(after) == 1 and after[0]["complete"] and after[0]["usable_tokens"] == mine[0]["usable_tokens"], after
    assert_nothing_is_useless(state, kv_json("ls", "--state", state)["total"]["records"])

    file = tmp_path / "file"
    there = kv_json("export", "--state", state, SMOLLM2, *form, "--conversation", "c", "-o", file)
    assert there["tokens"] == mine[0]["tokens"] // 64 * 64 > 256, there
    other = tmp_path / "other"
    kv("import", "--state", other, file, "--trust", there["public_key"], SMOLLM2, *form)
    imported = kv_json("ls", "--state", other)
    ends = [prefix for prefix in imported["prefixes"] if prefix["complete"]]
    assert ends and max(prefix["usable_tokens"] for prefix in ends) == max(prefix["tokens"] for prefix in ends), imported
    assert_nothing_is_useless(other, imported["total"]["records"])

    # The same conversation goes on there, too.
    shutil.copytree(state / "conversations", other / "conversations")
    shutil.copy(state / "conversations.witness", other)
    named = [prefix for prefix in kv_json("ls", "--state", other)["prefixes"] if prefix["conversations"] == ["c"]]
    assert len(named) == 1 and named[0]["complete"] and named[0]["tokens"] == there["tokens"], named
    for folder, ranks, tokens in ((state, 3, mine[0]["tokens"]), (other, 1, there["tokens"])):
        server = serve(start_server, folder, "-n", ranks, *form)
        with client_of(server) as client:
            usage = client.say("c", "Go on.", max_tokens=8)["usage"]
        assert usage["reused_from"]["disk"] == usage["reused_tokens"] == tokens, usage
        assert server.stop() == 0


def test_a_prefix_without_what_is_before_its_state(start_server, tmp_path):
    """The blocks before the last state's segment are absent: their number cannot be told, all else can."""
    form = ("--attention", "infini:segment=128")
    state = tmp_path / "state"
    server = serve(start_server, state, *form)
    with client_of(server) as client:
        client.say("c", LONG + LONG, max_tokens=8)
    assert server.stop() == 0
    stop_agents(state)
    assert_nothing_is_useless(state, kv_json("ls", "--state", state)["total"]["records"])
    # Without its conversations nothing tells where the text begins.
    nameless = copy_of(state, tmp_path / "nameless")
    for name in ("conversations", "conversations.witness"):
        path = nameless / name
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    prefixes = kv_json("ls", "--state", nameless)["prefixes"]
    assert any(prefix["complete"] for prefix in prefixes), prefixes
    for prefix in prefixes:
        blocks = kv_json("show", "--state", nameless, prefix["prefix"])["chain"]
        assert blocks[0]["first_token"] == prefix["first_token"], (prefix, blocks)
        text = kv("show", "--state", nameless, prefix["prefix"]).stdout
        assert ("?+0-" in text) == (prefix["first_token"] is None), text
