"""Bad input, and ranks that die: one clear line or frame, the right exit status, nothing left behind, no hang."""
import json
import os
import signal
import socket
import time

import pytest
import zmq
from conftest import (MPIRUN, SMOLLM2, TANDEM, Server, assert_no_leftovers, run)

WRONG_USE = {
    "unknown flag": (["generate", SMOLLM2, "-p", "x", "--no-such-flag"], "--no-such-flag"),
    "unknown command": (["frobnicate"], "frobnicate"),
    "no command": ([], "a command is missing"),
    "no model": (["generate"], "MODEL"),
    "prompt and tokens": (["generate", SMOLLM2, "-p", "x", "--tokens", "1"], "--tokens"),
    "no prompt": (["generate", SMOLLM2], "-p TEXT"),
    "token is no number": (["generate", SMOLLM2, "--tokens", "1,two"], "two"),
    "token out of vocabulary": (["generate", SMOLLM2, "--tokens", "1,99999999"], "99999999"),
    "instruction set": (["generate", SMOLLM2, "-p", "x", "--isa", "mmx"], "mmx"),
    "pinning": (["generate", SMOLLM2, "-p", "x", "--pin", "tight"], "tight"),
    "activations": (["generate", SMOLLM2, "-p", "x", "--activations", "q3"], "q3"),
    "negative tokens": (["generate", SMOLLM2, "-p", "x", "--max-tokens", "-1"], "--max-tokens"),
    "fewest tokens above most": (["generate", SMOLLM2, "-p", "x", "--max-tokens", "3", "--min-tokens", "4"],
                                 "--min-tokens: 4 is more than --max-tokens, 3"),
    "temperature": (["generate", SMOLLM2, "-p", "x", "--temperature", "hot"], "--temperature"),
    "size": (["generate", SMOLLM2, "-p", "x", "--kv-memory", "many"], "many"),
    "more ranks than heads, planned": (["plan", SMOLLM2, "-n", "10"], "9"),
    "more ranks than heads, served": (["serve", SMOLLM2, "-n", "10"], "9"),
    "chat without anything": (["chat"], "--connect"),
    "weights": (["plan", SMOLLM2, "-n", "2", "--weights", "1,2,3"], "weights"),
}


@pytest.mark.parametrize("case", WRONG_USE)
def test_wrong_use_is_one_line_and_status_2(case):
    arguments, named = WRONG_USE[case]
    result = run([TANDEM, *arguments], timeout=60)
    assert result.returncode == 2, result.stderr
    assert named in result.stderr
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stdout == ""


def test_files_that_are_no_models(tmp_path):
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_text("this is not a model at all, not even close")
    (tmp_path / "short.gguf").write_bytes(open(SMOLLM2, "rb").read(1 << 20))
    for path in (tmp_path / "missing.gguf", tmp_path, tmp_path / "empty.gguf",
                 tmp_path / "text.gguf", tmp_path / "short.gguf"):
        for command in (["generate", path, "-p", "x"], ["plan", path, "-n", "2"],
                        ["serve", path, "-n", "2"], ["inspect", path], ["tokenize", path, "x"]):
            result = run([TANDEM, *command], timeout=60)
            assert result.returncode in (1, 2), (command, result.stderr)
            assert str(path) in result.stderr, (command, result.stderr)
            assert result.stderr.count("\n") == 1, result.stderr


def test_a_prompt_longer_than_the_context_says_both_numbers():
    tokens = ",".join(["504"] * 8193)
    result = run([TANDEM, "generate", SMOLLM2, "--tokens", tokens], timeout=120)
    assert result.returncode == 2, result.stderr
    assert "8193" in result.stderr and "8192" in result.stderr


def test_more_ranks_than_heads_under_mpirun():
    result = run([*MPIRUN, "-n", 10, TANDEM, "generate", SMOLLM2, "-p", "x"], timeout=60)
    assert result.returncode == 2, result.stderr
    assert sum(line.startswith("tandem:") for line in result.stderr.splitlines()) == 1, result.stderr
    assert "-n 9" in result.stderr


def test_a_world_of_another_size_is_refused():
    result = run([*MPIRUN, "-n", 2, TANDEM, "generate", SMOLLM2, "-p", "x", "-n", 3], timeout=60)
    assert result.returncode != 0
    assert "3" in result.stderr and "2" in result.stderr


def test_a_port_in_use_is_named():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        for more in ((), ("-n", 2)):
            server = Server([TANDEM, "serve", SMOLLM2, "--listen", endpoint, *more])
            log = server.rest_of_log()
            assert server.process.wait(30) in (1, 2), log
            assert endpoint in log
            assert_no_leftovers(server)


def test_ctrl_c_and_sigterm_end_a_server_in_good_order(start_server):
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        for more in ((), ("-n", 2)):
            server = start_server(TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", *more)
            assert server.stop(signal_number) == 0, server.rest_of_log()
            assert_no_leftovers(server)


def open_chat(endpoint, identity):
    client = zmq.Context.instance().socket(zmq.DEALER)
    client.identity = identity
    client.linger = 0
    client.connect(endpoint)
    request = {"v": 1, "type": "chat", "id": "long", "max_tokens": 4000,
               "messages": [{"role": "user", "content": "Tell me a very long story."}]}
    client.send(json.dumps(request).encode())
    return client


def receive(client, seconds=30):
    assert client.poll(seconds * 1000), "no answer"
    return json.loads(client.recv())


def wait_for_delta(client):
    while receive(client)["type"] != "delta":
        pass


def last_frame(client):
    while (frame := receive(client))["type"] not in ("done", "error"):
        pass
    return frame


HOST = os.uname().nodename


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_rank_answers_open_requests_and_ends_the_server(start_server, victim):
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", 3, "--listen", "tcp://127.0.0.1:*")
    clients = [open_chat(server.endpoint, f"client{i}".encode()) for i in range(2)]
    for client in clients:
        wait_for_delta(client)
    os.kill(server.ranks()[victim], signal.SIGKILL)
    for client in clients:
        frame = last_frame(client)
        assert frame["type"] == "error" and frame["code"] == "unavailable", frame
        assert f"rank {victim}" in frame["message"] and HOST in frame["message"], frame
        client.close()
    assert server.process.wait(20) == 1, server.rest_of_log()
    assert f"rank {victim}" in server.rest_of_log()
    assert_no_leftovers(server)


def test_a_killed_follower_under_plain_mpirun_is_named_too(start_server):
    server = start_server(*MPIRUN, "-n", 3, TANDEM, "serve", SMOLLM2, "--listen",
                          "tcp://127.0.0.1:*")
    client = open_chat(server.endpoint, b"client")
    wait_for_delta(client)
    os.kill(server.ranks()[2], signal.SIGKILL)
    frame = last_frame(client)
    client.close()
    assert frame["type"] == "error" and frame["code"] == "unavailable", frame
    assert "rank 2" in frame["message"] and HOST in frame["message"], frame
    assert server.process.wait(20) != 0
    assert_no_leftovers(server)


def test_a_killed_gateway_takes_its_ranks_along(start_server):
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", "tcp://127.0.0.1:*")
    assert len(server.ranks()) == 2
    server.stop(signal.SIGKILL)
    assert_no_leftovers(server)


def test_idle_ranks_use_no_processor(start_server):
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", 3, "--listen", "tcp://127.0.0.1:*")
    time.sleep(1)

    def ticks():
        total = 0
        for pid in [*server.ranks(), server.process.pid]:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
            total += int(fields[11]) + int(fields[12])
        return total
    before = ticks()
    time.sleep(3)
    used = (ticks() - before) / os.sysconf("SC_CLK_TCK")
    assert used < 0.3, f"{used} s of processor time in 3 s"  # spinning ranks would use 6


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("timeout", [2, 60])
def test_a_stopped_rank_is_named_after_the_deadline(start_server, rank, timeout):
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", "tcp://127.0.0.1:*",
                          "--collective-timeout", timeout)
    client = open_chat(server.endpoint, b"client")
    wait_for_delta(client)
    other = zmq.Context.instance().socket(zmq.DEALER)
    other.linger = 0
    other.connect(server.endpoint)
    victim = server.ranks()[rank]
    os.kill(victim, signal.SIGSTOP)
    frame = {"type": "delta"}
    end = time.monotonic() + 30
    while frame["type"] not in ("done", "error"):
        assert time.monotonic() < end, "nobody tells"
        if client.poll(100):
            frame = json.loads(client.recv())
            continue
        other.send(json.dumps({"v": 1, "type": "ping", "id": "p"}).encode())  # others are answered meanwhile
        if other.poll(1000):
            assert json.loads(other.recv())["type"] == "pong"
        else:
            frame = receive(client, 1)  # the server has told it, and has ended
    client.close()
    other.close()
    assert frame["type"] == "error" and frame["code"] == "unavailable", frame
    assert f"rank {rank} on host {HOST}" in frame["message"], frame
    assert server.process.wait(30) == 1
    os.kill(victim, signal.SIGKILL)
    assert_no_leftovers(server)
