"""Ranks on GPUs, emulated on the CPU: which rank has which, what a host lacks, and a GPU that fails amid an answer."""
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq
from conftest import MPIRUN, ROOT, SMOLLM2, TANDEM, assert_no_leftovers, run

EMULATED = os.environ.get("EMULATED_PROGRAM", str(ROOT / "build/release/bin/tandem_emulated"))


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "tiny.gguf"
    made = run([sys.executable, ROOT / "tests/bench/random_model.py", path, "--layers", 2, "--dim", 128, "--ffn", 256,
                "--heads", 8, "--kv-heads", 4, "--vocab", 400])
    assert made.returncode == 0, made.stderr
    return path


def emulated(model, *more, prefix=(), **gpus):
    """Four tokens on emulated GPUs; gpus: variables of tests/cuda_emulation/gpus.h."""
    return run([*prefix, EMULATED, "generate", model, "--tokens", "1,2,3", "--max-tokens", 4, "--temperature", 0, "--json",
                *more], env=os.environ | {name: str(value) for name, value in gpus.items()})


def tokens(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["tokens"]


def frames_of(server, until=("done", "error"), **request):
    """All frames that answer a request."""
    client = zmq.Context.instance().socket(zmq.DEALER)
    client.linger = 0
    client.connect(server.endpoint)
    client.send(json.dumps({"v": 1, "id": "r", **request}).encode())
    frames = []
    while not frames or frames[-1]["type"] not in until:
        assert client.poll(60000), frames
        frames.append(json.loads(client.recv()))
    client.close()
    return frames


def test_each_rank_takes_a_gpu_and_the_answer_is_that_of_a_cpu(tiny):
    expected = tokens(emulated(tiny))
    assert tokens(emulated(tiny, "--device", "cuda")) == expected
    both = emulated(tiny, "--device", "cuda", "-n", 2, "--log-level", "info", EMULATED_GPUS=2)
    assert tokens(both) == expected
    ranks = sorted(line[line.index("rank "):] for line in both.stderr.splitlines() if "bytes of weights" in line)
    assert "rank 0 of 2" in ranks[0] and "GPU 0, Emulated GPU" in ranks[0], both.stderr
    assert "rank 1 of 2" in ranks[1] and "GPU 1, Emulated GPU" in ranks[1], both.stderr


def test_more_ranks_than_gpus_are_refused_in_one_line(tiny):
    cuda = ("--device", "cuda", "-n", 3)
    refused = emulated(tiny, *cuda, EMULATED_GPUS=2)
    assert refused.returncode == 1, refused.stderr
    assert refused.stderr.count("\n") == 1, refused.stderr
    assert "has 3 ranks and 2 GPUs" in refused.stderr and "--share-gpus" in refused.stderr
    # The ranks themselves say the same, once.
    refused = emulated(tiny, "--device", "cuda", prefix=[*MPIRUN, "-n", 3], EMULATED_GPUS=2)
    assert refused.returncode != 0
    assert refused.stderr.count("has 3 ranks and 2 GPUs") == 1, refused.stderr
    assert tokens(emulated(tiny, *cuda, "--share-gpus", EMULATED_GPUS=2)) == tokens(emulated(tiny))


@pytest.mark.parametrize("variables, reason", [
    ({"EMULATED_GPU_DRIVER": 0}, "no NVIDIA driver is here"),
    ({"EMULATED_GPU_DRIVER": 12040}, "its NVIDIA driver is for CUDA 12.4, and at least 13.0 is needed"),
    ({"EMULATED_GPUS": 0}, "no CUDA device is here"),
    ({"EMULATED_GPU_CAPABILITY": 7}, "compute capability 7.0, and at least 8.0 is needed"),
    ({"EMULATED_GPU_SHARED_BYTES": 98304}, "GPU 0 (Emulated GPU) lets a block of threads have 98304 bytes of shared memory, and at least 101376"),
])
def test_what_a_host_lacks_is_one_line(tiny, variables, reason):
    for more in ((), ("-n", 2)):
        refused = emulated(tiny, "--device", "cuda", *more, **variables)
        assert refused.returncode != 0
        assert refused.stderr.count("\n") == 1, refused.stderr
        assert f"host {os.uname().nodename} has no GPU" in refused.stderr and reason in refused.stderr


# Which call fails is counted, and links count the more the longer they wait.
@pytest.mark.parametrize("more", [(), ("-n", 2, "--share-gpus", "--gpu-link", "host")])
def test_a_gpu_that_fails_amid_an_answer(tiny, start_server, more, monkeypatch):
    monkeypatch.setenv("EMULATED_GPU_FAILURE", "6000")
    server = start_server(EMULATED, "serve", tiny, "--device", "cuda", "--listen", "tcp://127.0.0.1:*", *more)
    frames = frames_of(server, type="complete", max_tokens=1500, tokens=[1, 2, 3], ignore_eos=True)
    assert frames[0]["type"] != "error", frames
    assert frames[-1]["type"] == "error" and frames[-1]["code"] == "unavailable", frames[-1]
    words = f"CUDA on host {os.uname().nodename}, GPU 0 (Emulated GPU): "
    assert words in frames[-1]["message"] and "unspecified launch failure" in frames[-1]["message"], frames[-1]
    log = server.rest_of_log()
    assert server.process.wait(30) != 0, log
    assert words in log, log
    assert_no_leftovers(server)


def test_what_does_not_fit_is_refused_before_it_is_read(tiny):
    for more in ((), ("-n", 2, "--share-gpus")):
        refused = emulated(tiny, "--device", "cuda", *more, EMULATED_GPU_MEMORY=500 << 20)
        assert refused.returncode != 0
        line = [line for line in refused.stderr.splitlines() if "GPU 0 (Emulated GPU)" in line]
        assert len(line) == 1, refused.stderr
        assert "of host" in line[0] and "are missing" in line[0] and "reserve 512.0 MiB" in line[0], line
    refused = emulated(tiny, "--device", "cuda", "--kv-memory", "2GiB", EMULATED_GPU_MEMORY=2 << 30)
    assert refused.returncode != 0 and "with --kv-memory " in refused.stderr, refused.stderr
    fits = refused.stderr.split("with --kv-memory ")[1].split(",")[0].split()[0]
    assert tokens(emulated(tiny, "--device", "cuda", "--kv-memory", fits, EMULATED_GPU_MEMORY=2 << 30)) == tokens(emulated(tiny))


def test_plan_tells_what_gpus_must_hold_without_any(tiny):
    plain = run([TANDEM, "plan", tiny, "-n", 2])
    assert "GPU" not in plain.stdout
    text = run([TANDEM, "plan", tiny, "-n", 2, "--device", "cuda"])
    assert text.returncode == 0, text.stderr
    assert text.stdout.startswith(plain.stdout) and "Memory of each rank's GPU:" in text.stdout, text.stdout
    result = run([TANDEM, "plan", tiny, "-n", 2, "--device", "cuda", "--json", "--kv-memory", "1MiB"])
    for rank in json.loads(result.stdout)["ranks"]:
        gpu = rank["gpu_bytes"]
        assert gpu["total"] == gpu["weights"] + gpu["kv_cache"] + gpu["step"] + gpu["reserve"]
        assert gpu["host_tier"] == gpu["kv_cache"] // 4
        assert 0 < gpu["kv_cache"] <= 1 << 20 and gpu["weights"] > rank["bytes"]["total"] * 0.9
    fast = run([TANDEM, "plan", tiny, "-n", 2, "--device", "cuda", "--no-exact", "--json", "--kv-memory", "1MiB"])
    assert fast.returncode == 0, fast.stderr
    for slow, rank in zip(json.loads(result.stdout)["ranks"], json.loads(fast.stdout)["ranks"]):
        assert rank["gpu_bytes"]["step"] >= slow["gpu_bytes"]["step"] + (32 << 20)  # what cuBLASLt works in


def test_modes_and_what_is_refused_by_name(tiny):
    refused = emulated(tiny, "--device", "cpu", "--no-exact")
    assert refused.returncode != 0 and refused.stderr.count("\n") == 1, refused.stderr
    assert "--no-exact: a CPU is always exact" in refused.stderr
    for device in "cuda", "cpu":
        assert tokens(emulated(tiny, "--device", device, "--exact")) == tokens(emulated(tiny))
    fast = emulated(tiny, "--device", "cuda", "--no-exact", "--log-level", "info")
    assert fast.returncode == 0 and "fast mode" in fast.stderr, fast.stderr
    refused = emulated(tiny, "--device", "cuda", "--prefill-chunk", 600000)
    assert refused.returncode != 0 and "a product with tokens in a step" in refused.stderr, refused.stderr


def meeting(result):
    """The line that says how the GPUs of a job meet."""
    lines = [line for line in result.stderr.splitlines() if "GPUs meet" in line]
    assert len(lines) == 1, result.stderr
    return lines[0][lines[0].index("GPUs meet"):]


def test_gpus_of_several_ranks_meet_by_nccl_by_peer_memory_or_through_their_hosts(tiny):
    expected = tokens(emulated(tiny))
    host_name = os.uname().nodename
    cuda = ("--device", "cuda", "-n", 2, "--log-level", "info")
    both = emulated(tiny, *cuda, EMULATED_GPUS=2)
    assert tokens(both) == expected
    assert meeting(both).startswith("GPUs meet by NCCL 2.28.9") and " us by peer memory, by NCCL 2.28.9 " in meeting(both)
    alone = emulated(tiny, *cuda, "--gpu-link", "nccl", EMULATED_GPUS=2)
    assert tokens(alone) == expected and meeting(alone) == "GPUs meet by NCCL 2.28.9"
    slow = emulated(tiny, *cuda, EMULATED_GPUS=2, EMULATED_NCCL_DELAY=30000)
    assert tokens(slow) == expected and " KiB by peer memory; " in meeting(slow), slow.stderr
    host = emulated(tiny, *cuda, "--gpu-link", "host", EMULATED_GPUS=2)
    assert tokens(host) == expected and "meet" not in host.stderr, host.stderr
    assert tokens(emulated(tiny, *cuda, "--no-graphs", EMULATED_GPUS=2)) == expected
    for ranks, more in ((2, ()), (2, ("--no-graphs",)), (3, ()), (2, ("--share-gpus",))):
        peer = emulated(tiny, "--device", "cuda", "-n", ranks, "--log-level", "info", "--gpu-link", "peer", *more,
                        EMULATED_GPUS=1 if more == ("--share-gpus",) else ranks)
        assert tokens(peer) == expected and meeting(peer) == "GPUs meet by peer memory", more
    old = emulated(tiny, *cuda, EMULATED_GPUS=2, EMULATED_NCCL_VERSION=21304)
    assert tokens(old) == expected
    too_old = f"rank 0 on host {host_name}: NCCL 2.13.4 is too old"
    assert meeting(old).startswith(f"GPUs meet by peer memory; {too_old}")
    neither = emulated(tiny, *cuda, EMULATED_GPUS=2, EMULATED_NCCL_VERSION=21304, EMULATED_GPU_WITHOUT_PEERS=1)
    assert tokens(neither) == expected
    assert meeting(neither).startswith(f"GPUs meet through their hosts: {too_old}"), neither.stderr
    assert "there is no peer access between them" in meeting(neither)
    nccl = emulated(tiny, *cuda, EMULATED_GPUS=2, EMULATED_GPU_HANDLES=0)
    assert tokens(nccl) == expected
    assert meeting(nccl).startswith("GPUs meet by NCCL 2.28.9; peer memory has no part in it: "), nccl.stderr


def test_a_way_to_meet_that_is_asked_for_and_is_not_there_is_refused(tiny):
    cuda = ("--device", "cuda", "-n", 2)
    refused = emulated(tiny, *cuda, "--gpu-link", "nccl", EMULATED_GPUS=2, EMULATED_NCCL_VERSION=21304)
    assert refused.returncode == 1 and "--gpu-link nccl: rank 0 on host" in refused.stderr, refused.stderr
    for variables, words in (
            ({"EMULATED_GPU_WITHOUT_PEERS": 1}, "GPU 0 (Emulated GPU) does not reach the memory of GPU 1 (Emulated GPU) of rank 1: "
             "there is no peer access between them"),
            ({"EMULATED_GPU_HANDLES": 0}, "GPU 0 (Emulated GPU) does not reach the memory of GPU 1 (Emulated GPU) of rank 1: "
             "mapping of buffer object failed")):
        refused = emulated(tiny, *cuda, "--gpu-link", "peer", EMULATED_GPUS=2, **variables)
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
        assert f"--gpu-link peer: rank 0 on host {os.uname().nodename}: {words}" in refused.stderr, refused.stderr
    for arguments, words in ((("--gpu-link", "ib"), "expected auto, nccl, peer or host"),
                             (("--gpu-link", "nccl"), "ranks compute on CPUs"), (("--gpu-link", "peer"), "ranks compute on CPUs")):
        refused = emulated(tiny, *arguments)
        assert refused.returncode == 2 and words in refused.stderr and refused.stderr.count("\n") == 1, refused.stderr


@pytest.mark.parametrize("fault, when, words", [
    ("EMULATED_GPU_LOSES", "1:200", "rank 0 on host"),
    ("EMULATED_GPU_DIES", "1:200", "rank 1 on host"),
])
def test_a_peer_that_stops_in_a_reduction_is_told_and_nothing_hangs(tiny, start_server, fault, when, words, monkeypatch):
    monkeypatch.setenv(fault, when)
    monkeypatch.setenv("EMULATED_GPUS", "2")
    server = start_server(EMULATED, "serve", tiny, "--device", "cuda", "--listen", "tcp://127.0.0.1:*", "-n", 2,
                          "--collective-timeout", 3, "--gpu-link", "peer")
    frames = frames_of(server, type="complete", max_tokens=400, tokens=[1, 2, 3], ignore_eos=True)
    assert frames[-1]["type"] == "error" and frames[-1]["code"] == "unavailable", frames[-1]
    assert words in frames[-1]["message"], frames[-1]
    if fault == "EMULATED_GPU_LOSES":
        assert ", layer " in frames[-1]["message"], frames[-1]
    assert server.process.wait(30) != 0
    assert_no_leftovers(server)


def place(rank):
    return rf"rank {rank} on host {re.escape(os.uname().nodename)} \(GPU {rank}, Emulated GPU\)"


PHASE = r"step \d+, layer [01], (attention|feed-forward)"
ALL_WAIT = (rf"all {{ranks}} ranks have waited in {PHASE}, for up to \d+\.\d s, so the messages between them, or one of their GPUs, "
            r"are stalled: {places}")
WAITS = rf"{place(0)} has waited \d+\.\d s in {PHASE}; {{place}} has not come, it "
# Of the step that it had on its GPU when its host stopped, it may have told some reductions.
LATE = WAITS + r"left step (1, vocabulary|2, layer [01], (attention|feed-forward)) \d+\.\d s ago"
NEVER = WAITS + r"has been in none since it was ready \d+\.\d s ago"


CUT = (rf"rank 1 on host [^ ]+ in {PHASE}: NCCL 2\.28\.9 on GPU 1 \(Emulated GPU\): a reduction failed: unhandled system error "
       r"\(socketProgress: Connection closed by remote peer\)")


@pytest.mark.parametrize("fault, rank, ranks, number, words", [
    ("STALL", 1, 2, 42, ALL_WAIT),
    ("STALL", 0, 3, 42, ALL_WAIT),
    ("HANG", 1, 3, 12, LATE),  # in its third step: the second one is on the GPU, and the first was taken from it
    ("HANG", 1, 2, 3, NEVER),
    ("DIE", 2, 3, 42, "{place} died or was disconnected"),
    ("CUT", 1, 2, 42, CUT),
], ids=lambda value: "" if isinstance(value, str) and not value.isupper() else str(value))
def test_a_rank_that_stops_in_a_reduction_is_told_and_nothing_hangs(tiny, start_server, fault, rank, ranks, number, words, monkeypatch):
    """The blame is the same, whichever rank tells first that it waits."""
    monkeypatch.setenv(f"EMULATED_NCCL_{fault}", f"{rank}:{number}")
    monkeypatch.setenv("EMULATED_GPUS", str(ranks))
    server = start_server(EMULATED, "serve", tiny, "--device", "cuda", "--listen", "tcp://127.0.0.1:*", "-n", ranks,
                          "--collective-timeout", 3, "--gpu-link", "nccl")
    frames = frames_of(server, type="complete", max_tokens=400, tokens=[1, 2, 3], ignore_eos=True)
    assert frames[-1]["type"] == "error" and frames[-1]["code"] == "unavailable", frames[-1]
    expected = words.format(ranks=ranks, place=place(rank), places=", ".join(place(each) for each in range(ranks)))
    assert re.fullmatch(expected, frames[-1]["message"]), frames[-1]
    assert server.process.wait(30) != 0
    assert_no_leftovers(server)


@pytest.mark.parametrize("more", [("--device", "cuda"), ("--device", "cuda", "-n", 3), ("-n", 2)])
def test_pages_of_preempted_requests_go_to_host_memory_and_come_back(tiny, start_server, more, monkeypatch):
    """Four requests of which two fit have the tokens that they have alone."""
    monkeypatch.setenv("EMULATED_GPUS", "3")
    prompts = [[1 + i, *range(2, 100)] for i in range(4)]
    asked = {"type": "complete", "max_tokens": 60, "ignore_eos": True, "logprobs": 0}

    def answer_of(frame):
        assert frame["type"] == "done", frame
        return [token["token"] for token in frame["logprobs"]]

    alone = start_server(EMULATED, "serve", tiny, "--listen", "tcp://127.0.0.1:*")
    expected = [answer_of(frames_of(alone, tokens=prompt, **asked)[-1]) for prompt in prompts]
    alone.stop()
    # 2 layers of 4 KV heads of 16 dimensions: 512 bytes a token on one rank, in pages of 64.
    heads = {1: 4, 2: 2, 3: 2}[more[-1] if "-n" in more else 1]
    server = start_server(EMULATED, "serve", tiny, "--listen", "tcp://127.0.0.1:*", "--kv-memory", 7 * 64 * 128 * heads,
                          "--kv-spill-memory", "1MiB", "--prefill-chunk", 64, *more)
    tier = {"spilled": 0}
    for _ in range(20):  # on a machine in use they may come one after the other
        if tier["spilled"] > 0:
            break
        with ThreadPoolExecutor(4) as pool:
            frames = list(pool.map(lambda prompt: frames_of(server, tokens=prompt, **asked)[-1], prompts))
        assert [answer_of(frame) for frame in frames] == expected
        tier = frames_of(server, until=("status",), type="status")[-1]["host_tier"]
    assert tier["spilled"] > 0 and tier["returned"] > 0 and tier["bytes"] == 0, tier
    assert 0 < tier["returned_bytes"] <= tier["spilled_bytes"] and tier["bytes_limit"] <= 1 << 20, tier


def test_a_host_tier_that_cannot_be_had_is_told_with_its_own_option():
    refused = run([TANDEM, "generate", SMOLLM2, "--tokens", "1", "--kv-spill-memory", "1PiB"])
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert "give less with --kv-spill-memory" in refused.stderr and "--kv-memory" not in refused.stderr, refused.stderr


def logits(path, model, *more, **gpus):
    """The bytes of a prompt's logits, and what the ranks log."""
    result = emulated(model, "--logits", path, "--log-level", "info", *more, **gpus)
    assert result.returncode == 0, result.stderr
    return path.read_bytes(), tokens(result), result.stderr


def heads_of(log):
    """Query heads of each rank, as the log tells them."""
    found = dict(re.findall(r"rank (\d) of \d .*query heads (\d+-\d+),", log))
    return [found[rank] for rank in sorted(found)]


def test_gpus_that_differ_take_what_they_can(tiny, tmp_path):
    """By how fast they copy, by --weights, and by their memory: whole groups of two query heads, and the bits of a CPU."""
    expected = logits(tmp_path / "cpu", tiny)[:2]

    def on_gpus(ranks, *more, **gpus):
        *found, log = logits(tmp_path / "cuda", tiny, "--device", "cuda", "-n", ranks, *more, EMULATED_GPUS=ranks, **gpus)
        assert tuple(found) == expected, more
        line = [line for line in log.splitlines() if "shards: " in line]
        assert len(line) == 1, log
        return heads_of(log), line[0]

    heads, why = on_gpus(2)
    assert heads == ["0-3", "4-7"] and "equal weights, since the GPUs copy alike" in why, why
    heads, why = on_gpus(2, EMULATED_GPU_SPEED="3000000000000,1000000000000")
    assert heads == ["0-5", "6-7"] and "weights 3,1 by how fast the GPUs copy: rank 0 on host" in why, why
    heads, why = on_gpus(3, EMULATED_GPU_SPEED="1000000000000,2000000000000,1000000000000")
    assert heads == ["0-1", "2-5", "6-7"] and "weights 1,2,1 by how fast" in why, why
    heads, why = on_gpus(2, "--weights", "1,3", EMULATED_GPU_SPEED="3000000000000,1000000000000")
    assert heads == ["0-1", "2-7"] and "weights 1,3, as --weights says" in why, why
    for ranks in 2, 3:
        plan = json.loads(run([TANDEM, "plan", tiny, "-n", ranks, "--device", "cuda", "--kv-memory", "1MiB", "--json"]).stdout)
        gpu = plan["ranks"][1]["gpu_bytes"]
        small = (32 << 20) + gpu["total"] - gpu["weights"] // 5
        heads, why = on_gpus(ranks, "--kv-memory", "1MiB", EMULATED_GPU_MEMORY=f"{4 << 30},{small},{4 << 30}")
        assert re.search(rf"; {place(1)} takes less, since \d+\.\d MiB are free there", why), why
        refused = emulated(tiny, "--device", "cuda", "-n", ranks, "--kv-memory", "1MiB", EMULATED_GPUS=ranks,
                           EMULATED_GPU_MEMORY=f"{4 << 30},{gpu['reserve']},{4 << 30}")
        assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
        assert "GPU 1 (Emulated GPU) of host" in refused.stderr and "are missing" in refused.stderr, refused.stderr


def test_hosts_with_other_drivers_and_libraries_are_told_in_a_line(tiny, tmp_path):
    expected = tokens(emulated(tiny))
    cuda = ("--device", "cuda", "-n", 2, "--log-level", "info")

    def line_of(words, **variables):
        result = emulated(tiny, *cuda, EMULATED_GPUS=2, **variables)
        assert tokens(result) == expected
        lines = [line for line in result.stderr.splitlines() if words in line]
        assert len(lines) == 1, result.stderr
        return lines[0]

    differ = line_of("NVIDIA drivers differ", EMULATED_GPU_DRIVER="13000,13010")
    assert re.search(rf"CUDA 13\.0\)? on {place(0)}; .*CUDA 13\.1\)? on {place(1)}", differ), differ
    other = line_of("GPUs meet by peer memory", EMULATED_NCCL_VERSION="22809,22703")
    assert "rank 1 on host" in other and "has NCCL 2.27.3, but rank 0 on host" in other and "install the same everywhere" in other
    (tmp_path / "libnccl.so.2").write_text("no library")
    missing = line_of("GPUs meet by peer memory", LD_LIBRARY_PATH=tmp_path)
    assert "rank 0 on host" in missing and "NCCL is not here" in missing, missing
    refused = emulated(tiny, *cuda, EMULATED_GPUS=2, EMULATED_GPU_DRIVER="13000,12040")
    assert refused.returncode == 1 and refused.stderr.count("its NVIDIA driver is for CUDA 12.4") == 1, refused.stderr
    assert "rank 1 on host" in refused.stderr, refused.stderr


@pytest.mark.parametrize("how, words", [
    (0, r"rank 0 on host [^ ]+: NCCL 2\.28\.9 on GPU 0 \(Emulated GPU\): ncclCommInitRankConfig did not end within 6 s; "
        r"not all ranks have come: do the network cards .*"),
    (1, r"rank 1 on host [^ ]+: NCCL 2\.28\.9 on GPU 1 \(Emulated GPU\): ncclCommInitRankConfig failed: unhandled system error "
        r"\(socketStartConnect: .*No route to host\)"),
])
def test_network_cards_that_do_not_reach_each_other_end_the_start(tiny, how, words):
    refused = emulated(tiny, "--device", "cuda", "-n", 2, "--collective-timeout", 3, EMULATED_GPUS=2,
                       EMULATED_NCCL_UNREACHABLE=f"1:{how}")
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert re.search(words, refused.stderr), refused.stderr


def test_a_conversation_goes_from_cpus_to_gpus_and_back(tiny, start_server, tmp_path, monkeypatch):
    """KV that a CPU saved is that of two GPUs, and of three, in exact mode; fast mode has its own."""
    monkeypatch.setenv("EMULATED_GPUS", "3")

    def turn(state, number, *more):
        server = start_server(EMULATED, "serve", tiny, "--listen", "tcp://127.0.0.1:*", "--state", state, *more)
        message = {"role": "user", "content": f"turn {number}: " + "blue " * 20}
        frame = frames_of(server, type="chat", conversation="c", max_tokens=70, logprobs=0, ignore_eos=True,
                          messages=[message])[-1]
        server.stop()
        assert run([TANDEM, "agent", "stop", "--state", state]).returncode == 0
        assert frame["type"] == "done", frame
        return [token["token"] for token in frame["logprobs"]], frame["usage"]["reused_from"]

    ways = [(), ("--device", "cuda", "-n", 2), ("-n", 3), ("--device", "cuda", "-n", 3)]
    expected = [turn(tmp_path / "cpu", number)[0] for number in range(4)]
    for number, more in enumerate(ways):
        found, reused = turn(tmp_path / "state", number, *more)
        assert found == expected[number], more
        assert number == 0 or sum(reused.values()) >= 64, (more, reused)
    _, reused = turn(tmp_path / "state", 4, "--device", "cuda", "--no-exact")
    assert sum(reused.values()) == 0, reused
