"""The scripts of tests/bench that measure nothing: the writer of random models, the drawing of plots, checks of arguments."""
import json
import xml.etree.ElementTree

import pytest
from conftest import ROOT, TANDEM, generate_json, run

TINY = ["--layers", 2, "--dim", 64, "--ffn", 96, "--heads", 4, "--kv-heads", 2, "--vocab", 320]
SVG = "{http://www.w3.org/2000/svg}"


def write_model(path, *arguments):
    return run([ROOT / "tests/bench/random_model.py", path, *arguments])


def test_random_model_has_its_shape_and_runs(tmp_path):
    model = tmp_path / "tiny.gguf"
    assert write_model(model, *TINY).returncode == 0
    inspected = run([TANDEM, "inspect", model, "--json"])
    assert inspected.returncode == 0, inspected.stderr
    document = json.loads(inspected.stdout)
    expected = {"family": "llama", "layers": 2, "dim": 64, "ffn_dim": 96, "heads": 4, "kv_heads": 2, "head_dim": 16, "vocab": 320,
                "tied_head": True}
    assert {key: document["config"][key] for key in expected} == expected
    assert {tensor["dtype"] for tensor in document["tensors"]} == {"Q4_0", "F32"}
    answer = generate_json(model, "--tokens", "1,70,300", "--max-tokens", 6)
    assert answer["usage"]["completion_tokens"] == 6


def test_random_model_has_a_tokenizer(tmp_path):
    model = tmp_path / "tiny.gguf"
    assert write_model(model, *TINY).returncode == 0
    tokenized = json.loads(run([TANDEM, "tokenize", model, "--json"], input="ab é").stdout)
    ids = ",".join(str(token) for token in tokenized["tokens"])
    assert run([TANDEM, "detokenize", model, ids]).stdout.strip() == "ab é"


def test_random_model_is_the_same_for_a_seed(tmp_path):
    first, again, other = (tmp_path / name for name in ("first", "again", "other"))
    assert write_model(first, *TINY).returncode == 0
    assert write_model(again, *TINY).returncode == 0
    assert write_model(other, *TINY, "--seed", 2).returncode == 0
    assert first.read_bytes() == again.read_bytes()
    assert first.read_bytes() != other.read_bytes()


@pytest.mark.parametrize("wrong, message", [
    (["--dim", 48], "multiples of 32"),
    (["--heads", 3], "even multiple of --heads 3"),
    (["--kv-heads", 3], "multiple of --kv-heads 3"),
    (["--vocab", 259], "expected at least 260"),
    (["--layers", 0], "at least 1"),
])
def test_random_model_refuses_what_cannot_be(tmp_path, wrong, message):
    result = write_model(tmp_path / "wrong.gguf", *TINY, *wrong)
    assert result.returncode == 2
    assert message in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_plot_draws_every_point(tmp_path):
    data = {"batch": {"measured": {"M & M": {"Tandem": [[1, 200], [4, 500], [16, 1500]], "llama.cpp": [[1, 100], [16, 300]]}}},
            "context": {"measured": {"M": {"prefill": {"Tandem": [[128, 0.5], [4096, 0.75]]},
                                           "decode": {"Tandem": [[128, 200], [4096, 100]]}}}}}
    (tmp_path / "speed.json").write_text(json.dumps(data))
    result = run([ROOT / "tests/bench/plot", "--data", tmp_path / "speed.json", "--out", tmp_path])
    assert result.returncode == 0, result.stderr
    batch = xml.etree.ElementTree.parse(tmp_path / "speed_by_batch.svg")
    words = [element.text for element in batch.iter(f"{SVG}text")]
    assert {"M & M", "Tandem", "llama.cpp", "tokens/s of all", "sequences decoded together", "1500"} <= set(words)
    ours, theirs = [[tuple(map(float, corner.split(","))) for corner in line.get("points").split()]
                    for line in batch.iter(f"{SVG}polyline")]
    assert len(ours) == 3 and len(theirs) == 2
    # A logarithmic axis: from 1 to 4 it is as far as from 4 to 16. Both lines share the axes; faster is higher.
    assert ours[1][0] - ours[0][0] == pytest.approx(ours[2][0] - ours[1][0], abs=0.2)
    assert theirs[0][0] == ours[0][0] and theirs[0][1] > ours[0][1]
    # Heights are linear and begin at 0.
    assert (ours[0][1] - ours[2][1]) / (ours[0][1] - ours[1][1]) == pytest.approx(1300 / 300, abs=0.05)
    assert len(list(xml.etree.ElementTree.parse(tmp_path / "speed_by_context.svg").iter(f"{SVG}circle"))) == 4


@pytest.mark.parametrize("arguments, message", [
    (["--ranks", "3"], "--threads 2 is no multiple of --ranks 3"),
    (["--ranks", "x"], "expected numbers"),
    (["--models", "nothing"], "'nothing' is neither a file nor one of"),
    (["--batched-flags", "fork=-rtr"], "no --peer fork=FOLDER"),
    (["--peer", "fork"], "expected NAME=VALUE"),
    (["--rounds", "0"], "must be at least 1"),
    (["--program", "/nowhere/tandem"], "/nowhere/tandem is missing"),
])
def test_peers_refuses_wrong_arguments(arguments, message):
    result = run([ROOT / "tests/bench/peers", "--program", TANDEM, *arguments])
    assert result.returncode == 2
    assert message in result.stderr


def test_make_models_refuses_unknown_names():
    result = run([ROOT / "tests/bench/make_models", "nothing"])
    assert result.returncode == 2
    assert "there is no model 'nothing'" in result.stderr


@pytest.mark.parametrize("script", ["peers", "plot", "make_models", "ranks", "neighbours", "random_model.py"])
def test_scripts_explain_themselves(script):
    result = run([ROOT / "tests/bench" / script, "--help"])
    assert result.returncode == 0
    assert "usage:" in result.stdout
