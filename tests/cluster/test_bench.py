"""tandem bench: that its numbers are there and belong together; how large they are is nobody's business here."""
import json

import pytest
from conftest import GEMMA3, MPIRUN, SMOLLM2, TANDEM, run

WAYS = {"one rank": ((), ()), "mpirun": ((*MPIRUN, "-n", "2"), ()), "-n": ((), ("-n", "2"))}
PHASES = {"attention", "feed-forward", "vocabulary", "all-reduce", "sampling", "idle"}


def bench(model, *arguments, prefix=(), **flags):
    """A short one; flags by name: batch="1,2" is --batch 1,2."""
    flags = {"prompt": 32, "gen": 8, "batch": "1,2", "rounds": 1, "read_memory": "64MiB", "threads": 1} | flags
    words = [word for name, value in flags.items() for word in ("--" + name.replace("_", "-"), value)]
    return run([*prefix, TANDEM, "bench", model, *words, *arguments])


def bench_json(model, *arguments, **options):
    result = bench(model, *arguments, "--json", **options)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


def check_phases(scenario, ranks, tokens_per_second):
    assert [rank["rank"] for rank in scenario["phases"]] == list(range(ranks))
    for rank in scenario["phases"]:
        assert set(rank["ms_per_token"]) == set(rank["percent"]) == PHASES
        assert min(rank["ms_per_token"].values()) >= 0
        assert sum(rank["percent"].values()) == pytest.approx(100)
        assert 0 < rank["products_percent"] < 100
        # They are the whole time, which was also taken by another clock, from outside of the ranks.
        together = sum(rank["ms_per_token"].values())
        assert together * tokens_per_second / 1000 == pytest.approx(1, rel=0.5)


@pytest.mark.parametrize("way", WAYS)
def test_numbers_of_smollm2(way):
    prefix, arguments = WAYS[way]
    ranks = 1 if way == "one rank" else 2
    found = bench_json(SMOLLM2, *arguments, prefix=prefix)
    assert found["model"]["weight_bytes_per_token"] == 96436224  # its Q4_1 matrices and the Q8_0 head
    assert found["model"]["multiply_adds_per_token"] == 134479872
    assert found["run"]["ranks"] == len(found["machine"]["hosts"]) == ranks
    assert found["run"]["threads"] == 1 and found["run"]["rounds"] == 1
    assert found["machine"]["processor"] and found["machine"]["huge_pages"]
    assert min(found["ceilings"].values()) > 0

    prefill = found["prefill"]
    assert prefill["tokens"] == 32 and prefill["tokens_per_second"] > 0
    assert 0 < prefill["int8_fraction"] < min(2, prefill["products_int8_fraction"])
    check_phases(prefill, ranks, prefill["tokens_per_second"])

    assert [batch["sequences"] for batch in found["batches"]] == [1, 2]
    assert found["decode"] == found["batches"][0]
    for batch in found["batches"]:
        assert 0 < batch["read_fraction"] < min(2, batch["products_read_fraction"])
        per_pass = batch["tokens_per_second"] / batch["sequences"]
        assert batch["weights_gb_per_second"] == pytest.approx(per_pass * 96436224 / 1e9)
        check_phases(batch, ranks, batch["tokens_per_second"])


def test_tables_for_people():
    result = bench(GEMMA3, batch=2, context=20)
    assert result.returncode == 0, result.stderr
    for words in ("1 rank of 1 thread", "prefill 32", "decode 8, batch 1", "decode 8, batch 2", "GB/s", "Gmac/s"):
        assert words in result.stdout
    assert "all-reduce" in result.stdout and "idle" in result.stdout


def test_float_activations_have_no_8_bit_products():
    found = bench_json(SMOLLM2, batch=1, prompt=4, activations="f32")
    assert found["prefill"]["int8_fraction"] is None
    assert found["run"]["kv_dtype"] == "f32"


def test_a_float8_cache_is_told():
    assert bench_json(SMOLLM2, batch=1, prompt=4, kv_dtype="f8")["run"]["kv_dtype"] == "f8"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("flags,words", [
    ({"prompt": 8193}, "the model's context holds 8192"),
    ({"context": 8190}, "the model's context holds 8192"),
    ({"isa": "mmx"}, "unknown instruction set 'mmx'")])
def test_wrong_use(way, flags, words):
    prefix, arguments = WAYS[way]
    result = bench(SMOLLM2, *arguments, prefix=prefix, **flags)
    assert result.returncode == 2, result.stderr
    assert result.stderr.count(words) == 1, result.stderr
    assert result.stdout == ""


@pytest.mark.parametrize("flag,value,words", [
    ("batch", "0", "--batch"), ("batch", "1,x", "--batch"), ("gen", 1, "--gen"), ("rounds", 0, "--rounds"),
    ("prompt", 0, "--prompt"), ("read_memory", "much", "'much' is no size")])
def test_wrong_flags(flag, value, words):
    result = bench(SMOLLM2, **{flag: value})
    assert result.returncode == 2, result.stderr
    assert words in result.stderr


def test_what_does_not_fit_into_the_cache_is_told():
    result = bench(SMOLLM2, batch="1,16", gen=500, kv_memory="8MiB")
    assert result.returncode == 1
    assert "--batch" in result.stderr and "--kv-memory" in result.stderr
