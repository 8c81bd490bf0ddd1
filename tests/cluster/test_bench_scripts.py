"""The scripts of tests/bench that measure nothing: the writer of random models, the drawing of plots, checks of arguments."""
import json
import os
import sys
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


# Programs that only answer as the real ones do, with speeds that follow from what they are asked for.
FAKE_TANDEM = """#!/usr/bin/env python3
import json, sys
if sys.argv[1] == "plan":
    sys.exit(0 if int(sys.argv[sys.argv.index("-n") + 1]) <= 2 else 2)
flag = dict(zip(sys.argv[3::2], sys.argv[4::2]))
ranks, context = int(flag["--ranks"]), int(flag["--context"])
batches = [{"sequences": int(b), "tokens_per_second": 100.0 * int(b)} for b in flag["--batch"].split(",")]
print(json.dumps({"prefill": {"tokens_per_second": 1000.0 * ranks}, "decode": {"tokens_per_second": 200.0 * ranks - context / 100},
                  "batches": batches, "ceilings": {"read_gb_per_second": 40.0}, "model": {"weight_bytes_per_token": 100000000}}))
"""
FAKE_BENCH = """#!/usr/bin/env python3
import os, sys
print("a line of its own")
flag = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert flag["-extra"] == "1" and flag.get("-ngl") == os.environ.get("EXPECTED_LAYERS")
print('[\\n  {"avg_ts": %f}\\n]' % (500 if flag["-p"] != "0" else 50))
"""
FAKE_BATCHED = """#!/usr/bin/env python3
import sys
flag = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print("|    PP |     TG |    B |   N_KV |   T_PP s | S_PP t/s |   T_TG s | S_TG t/s |      T s |    S t/s |")
print("|-------|--------|------|--------|----------|----------|----------|----------|----------|----------|")
print(f"|     1 |    128 | {flag['-npl']} |   2064 |    1.558 |    10.27 |   36.718 |    40.00 |   38.276 |     7.11 |")
"""


@pytest.fixture
def fakes(tmp_path):
    for name, source in {"tandem": FAKE_TANDEM, "llama-bench": FAKE_BENCH, "llama-batched-bench": FAKE_BATCHED}.items():
        (tmp_path / name).write_text(source)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "random-1b.Q4_0.gguf").touch()
    return tmp_path


def test_peers_prints_speeds_and_ratios(fakes):
    result = run([ROOT / "tests/bench/peers", "--program", fakes / "tandem", "--no-llama-cpp", "--peer", f"fork={fakes}",
                  "--bench-flags", "fork=-extra 1", "--ranks", "1,2", "--rounds", 3, "--models", fakes / "random-1b.Q4_0.gguf",
                  "--even-if-busy", "--json", fakes / "out.json"])
    assert result.returncode == 0, result.stderr
    assert "| tokens/s | Tandem | Tandem, 2 ranks | Tandem / Tandem, 2 ranks | fork | Tandem / fork |" in result.stdout
    assert "| random-1b.Q4_0.gguf, prefill 512 | 1000 | 2000 | 0.50 | 500 | 2.00 |" in result.stdout
    assert "| random-1b.Q4_0.gguf, decode 128 | 200 | 400 | 0.50 | 50 | 4.00 |" in result.stdout
    assert "| random-1b.Q4_0.gguf, 16 sequences together | 1600 | 1600 | 1.00 | 40 | 40.00 |" in result.stdout
    # 200 tokens a second of 0.1 GB each, of 40 GB/s.
    assert "| random-1b.Q4_0.gguf, Tandem | 20.0 | 40.0 | 50 % |" in result.stdout
    samples = json.loads((fakes / "out.json").read_text())["samples"]["random-1b.Q4_0.gguf"]
    assert {name: len(rounds) for name, rounds in samples.items()} == {"Tandem": 3, "Tandem, 2 ranks": 3, "fork": 3}


def test_gpu_measures_and_then_its_peers_on_the_gpu(fakes):
    """tests/bench/gpu: its own program first, then all programs on the GPU, and llama.cpp only where it can be built."""
    (fakes / "gpu_bench").write_text("#!/bin/sh\necho measured \"$@\"\n")
    (fakes / "gpu_bench").chmod(0o755)
    (fakes / "llama-batched-bench").write_text(FAKE_BATCHED.replace("flag = ", "assert '-ngl' in sys.argv\nflag = ", 1))
    (fakes / "tandem").write_text(FAKE_TANDEM.replace("flag = ", "assert sys.argv[-3:] == ['--device', 'cuda', '--no-exact']\nflag = ", 1))
    script = ROOT / "tests/bench/gpu"
    environment = dict(os.environ, GPU_BENCH=str(fakes / "gpu_bench"), EXPECTED_LAYERS="99")
    result = run([script, "--seconds", "0", "--llama-cpp", "--program", fakes / "tandem", "--tandem-flags=--no-exact", "--no-llama-cpp",
                  "--peer", f"fork={fakes}", "--bench-flags", "fork=-extra 1", "--rounds", 1, "--models",
                  fakes / "random-1b.Q4_0.gguf", "--even-if-busy"], env=environment, cwd=fakes)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith("measured --json gpu_bench.json --seconds 0\n"), result.stdout
    assert "| random-1b.Q4_0.gguf, prefill 512 | 1000 | 500 | 2.00 |" in result.stdout
    assert json.loads((fakes / "gpu_peers.json").read_text())["samples"]
    bare = fakes / "path"
    bare.mkdir()
    for tool in ("bash", "dirname", "env"):
        (bare / tool).symlink_to(f"/usr/bin/{tool}")
    without = dict(environment, PATH=str(bare), CUDA_PATH="/nowhere")
    result = run([script, "--llama-cpp"], env=without, cwd=fakes)
    assert result.returncode == 0 and "skipped llama.cpp: its CUDA build needs nvcc" in result.stdout, result.stderr
    result = run([sys.executable, ROOT / "tests/bench/peers", "--program", fakes / "tandem", "--device", "cuda", "--even-if-busy"],
                 env=without, cwd=fakes)
    assert result.returncode == 1 and "its build for GPUs needs nvcc" in result.stderr, result.stderr


def test_plot_collects_what_it_draws(fakes):
    result = run([ROOT / "tests/bench/plot", "--program", fakes / "tandem", "--no-llama-cpp", "--models", "random-1b",
                  "--collect", "--rounds", 1, "--even-if-busy", "--data", fakes / "speed.json", "--out", fakes],
                 env=dict(os.environ, TANDEM_MODELS=str(fakes)))
    assert result.returncode == 0, result.stderr
    data = {part: content["measured"]["1B-shaped Q4_0"] for part, content in
            json.loads((fakes / "speed.json").read_text()).items()}
    # Three ranks are more than the program takes.
    assert data["ranks"]["prefill"][0] == [1, 1000] and 3 not in [ranks for ranks, _ in data["ranks"]["prefill"]]
    assert data["batch"] == {"Tandem": [[batch, 100.0 * batch] for batch in (1, 2, 4, 8, 16, 32, 64)]}
    assert data["context"]["prefill"]["Tandem"][0] == [128, 1.0]
    assert data["context"]["decode"]["Tandem"][-1] == [4096, 159.04]
    assert {path.name for path in fakes.glob("*.svg")} == {f"speed_by_{part}.svg" for part in ("ranks", "batch", "context")}


def test_neighbours_prints_shares(fakes):
    result = run([ROOT / "tests/bench/neighbours", fakes / "random-1b.Q4_0.gguf", "--program", fakes / "tandem", "--no-llama-cpp",
                  "--rounds", 1, "--even-if-busy"])
    assert result.returncode == 0, result.stderr
    assert "| decode, tokens/s | quiet | 1 loops | of quiet | 2 loops | of quiet |" in result.stdout
    assert "| Tandem | 200 | 200 | 100 % | 200 | 100 % |" in result.stdout


# A lab whose programs run here, told that they are rank 0; it keeps what it was asked for.
FAKE_LAB = """#!/bin/sh
echo "$*" >> "$(dirname "$0")/asked"
case $1 in
  list) for i in $HOSTS; do echo "$i tandem-lab-$i 10.97.0.$i"; done ;;
  mpirun) while [ "$1" != -- ]; do shift; done; shift; OMPI_COMM_WORLD_RANK=0 exec "$@" ;;
  exec) shift 2; exec "$@" ;;
esac
"""
FAKE_DLLAMA = """#!/usr/bin/env python3
import sys, time
if sys.argv[1] == "worker":
    time.sleep(60)
flag = dict(zip(sys.argv[2::2], sys.argv[3::2]))
assert flag["--workers"] == "10.97.0.2:9998" and len(flag["--prompt"]) == 40 and flag["--steps"] == "46"
print("Evaluation\\n   nBatches: 32\\n    nTokens: 40\\n   tokens/s: 50.00 (20 ms/tok)")
print("Prediction\\n    nTokens: 6\\n   tokens/s: 25.00 (40 ms/tok)")
"""


def compare_hosts(fakes, *arguments, hosts="1 2"):
    (fakes / "lab").write_text(FAKE_LAB)
    (fakes / "lab").chmod(0o755)
    return run([ROOT / "tests/bench/hosts", fakes / "random-1b.Q4_0.gguf", "--program", fakes / "tandem", "--lab", fakes / "lab",
                "--cores", f"{min(os.sched_getaffinity(0))},{max(os.sched_getaffinity(0))}", "--rounds", 2, "--prompt", 40, "--gen",
                6, "--even-if-busy", *arguments], env=dict(os.environ, HOSTS=hosts, TANDEM_MODELS=str(fakes)))


needs_two_cores = pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two cores")


@needs_two_cores
def test_hosts_prints_speeds_and_ratios(fakes):
    (fakes / "dllama").write_text(FAKE_DLLAMA)
    (fakes / "dllama").chmod(0o755)
    shape = {"layers": 1, "dim": 64, "ffn_dim": 96, "heads": 2, "kv_heads": 1, "head_dim": 32, "vocab": 64}
    (fakes / "tandem").write_text(FAKE_TANDEM.replace("flag = ", f"""
if sys.argv[1] == "inspect":
    sys.exit(print({json.dumps(json.dumps({"config": shape}))}))
flag = """, 1))
    result = compare_hosts(fakes, "--distributed-llama", fakes)
    assert result.returncode == 0, result.stderr
    assert ("| tokens/s | 1 rank | 2 ranks, 2 hosts | ratio | distributed-llama, 2 hosts | ratio "
            "| 2 ranks, 2 hosts / distributed-llama, 2 hosts |") in result.stdout
    assert "| prefill 40 | 1000.0 | 2000.0 | 2.00 | 50.0 | 0.05 | 40.00 |" in result.stdout
    assert "| decode 6 | 200.0 | 400.0 | 2.00 | 25.0 | 0.13 | 16.00 |" in result.stdout
    # Header, embedding, 4-bit blocks of seven matrices and the head, norms.
    blocks = (64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 96 + 64 * 64) // 32
    model = next(fakes.glob("*.dllama.m"))
    assert model.stat().st_size == 8 + 8 * 15 + 4 * 64 * 64 + 18 * blocks + 3 * 4 * 64
    asked = (fakes / "asked").read_text()
    assert "up" not in asked and "down" not in asked  # the lab stood already


@needs_two_cores
def test_hosts_makes_the_lab_and_takes_it_away(fakes):
    result = compare_hosts(fakes, hosts="")
    assert result.returncode == 0, result.stderr
    asked = (fakes / "asked").read_text().splitlines()
    assert asked[:2] == ["list", "up 2"] and asked[-1] == "down"


@needs_two_cores
def test_hosts_wants_a_lab_of_two(fakes):
    result = compare_hosts(fakes, hosts="1 2 3")
    assert result.returncode == 1
    assert "the lab has 3 hosts, expected 2" in result.stderr


@pytest.mark.parametrize("arguments, message", [
    (["--cores", "0"], "expected two of them"),
    (["--cores", "1,1"], "expected two of them"),
    (["--gen", "0"], "must be at least 1"),
    (["nothing"], "'nothing' is neither a file nor one of"),
])
def test_hosts_refuses_wrong_arguments(arguments, message):
    result = run([ROOT / "tests/bench/hosts", "--program", TANDEM, *arguments])
    assert result.returncode == 2
    assert message in result.stderr


def test_attention_prints_and_draws_what_forms_cost(tmp_path):
    plot = tmp_path / "plot.svg"
    common = ["--rounds", 1, "--gen", 2, "--threads", 1, "--program", TANDEM, "--even-if-busy", "--svg", plot]
    heads = run([ROOT / "tests/bench/attention", "heads", "--kv-heads", "4,1", "--contexts", "64", "--ranks", "1", *common])
    assert heads.returncode == 0, heads.stderr
    assert "| 4 | 12288 | " in heads.stdout and "| 1 | 3072 | " in heads.stdout and heads.stdout.count("tok/s") == 2
    assert len(list(xml.etree.ElementTree.parse(plot).getroot().iter(f"{SVG}circle"))) >= 2

    text, model = tmp_path / "text", tmp_path / "tiny.gguf"
    text.write_text(300 * "ab c")
    assert write_model(model, *TINY).returncode == 0
    sparse = run([ROOT / "tests/bench/attention", "sparse", text, "--models", model, "--contexts", "128", "--chunks", 1, "--forms", "dense",
                  "sparse:window=64", *common])
    assert sparse.returncode == 0, sparse.stderr
    assert "| `dense` | " in sparse.stdout and "| `sparse:window=64` | " in sparse.stdout and sparse.stdout.count("tok/s") == 2


def test_stream_plots_a_stream_beyond_the_context(tmp_path):
    model = ROOT / "tests/golden/perplexity/plain.gguf"
    result = run([ROOT / "tests/bench/stream", model, "--tokens", 20000, "--window", 100, "--global", 4, "--samples", 10, "--svg",
                  tmp_path / "plot.svg", "--json", tmp_path / "samples.json", "--program", TANDEM])
    assert result.returncode == 0, result.stdout + result.stderr
    assert "blocks held: at most 4, promised 4" in result.stdout
    root = xml.etree.ElementTree.parse(tmp_path / "plot.svg").getroot()
    assert len(root.findall(f".//{SVG}polyline")) == 4
    document = json.loads((tmp_path / "samples.json").read_text())
    assert document["samples"][-1]["tokens"] > 15000
    assert max(sample["used"] for sample in document["samples"]) <= 4
    assert "expected 2 or more" in run([ROOT / "tests/bench/stream", "--tokens", 0]).stderr


@pytest.mark.parametrize("factor, status", [(1.0001, 0), (1.3, 1)])
def test_perplexity_compares_two_figures(tmp_path, factor, status):
    golden = ROOT / "tests/golden/perplexity"
    cut = ["--context", 192, "--chunks", 9]

    def ours(*arguments):
        result = run([TANDEM, "perplexity", golden / "bos.gguf", "-f", golden / "text.txt", *cut, *arguments, "--json"])
        return json.loads(result.stdout)["perplexity"] * factor

    halves, strided = ours(), ours("--stride", 128)
    tool = tmp_path / "llama-perplexity"
    tool.write_text(f"""#!/bin/sh
case "$*" in
*"-b 192"*) echo '[1]3300.5,[2]{strided:.4f},' ;;
*) echo '[1]3300.5,'; echo 'Final estimate: PPL = {halves:.4f} +/- 90.0' >&2 ;;
esac
""")
    tool.chmod(0o755)
    words = [ROOT / "tests/bench/perplexity", golden / "text.txt", "--models", golden / "bos.gguf", "--llama-perplexity", tool, "--program", TANDEM]
    result = run([*words, *cut, "--stride", 128])
    assert result.returncode == status, result.stdout + result.stderr
    lines = [[cell.strip() for cell in line.split("|")] for line in result.stdout.splitlines() if line.startswith("| bos.gguf")]
    assert [line[2] for line in lines] == ["192", "256, stride 128"]
    assert [line[3] for line in lines] == [f"{halves:.4f} +/- 90.0000", f"{strided:.4f}"]
    assert "give two that need no rounding" in run([*words, "--context", 100]).stderr


@pytest.mark.parametrize("script", ["peers", "plot", "make_models", "ranks", "neighbours", "hosts", "random_model.py", "stream", "perplexity"])
def test_scripts_explain_themselves(script):
    result = run([ROOT / "tests/bench" / script, "--help"])
    assert result.returncode == 0
    assert "usage:" in result.stdout


@pytest.mark.parametrize("wrong, message", [
    (["--tasks", "poem"], "expected some of summary, rewrite, story"),
    (["--threads", 2, "--ranks", 3], "a multiple of --ranks"),
    (["/no/such/model.gguf"], "is not a file"),
])
def test_speculate_refuses_what_cannot_be(wrong, message):
    result = run([ROOT / "tests/bench/speculate", *wrong])
    assert result.returncode == 2
    assert message in result.stderr
