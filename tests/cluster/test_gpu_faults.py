"""Ranks on emulated GPUs whose processes are killed or stopped amid answers, and many requests of which few fit."""
import json
import os
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import zmq
from conftest import assert_no_leftovers
from test_gpu import EMULATED, frames_of, tiny  # noqa: F401 (a fixture)


def after_tokens(server, count, request):
    """A client whose answer has come to `count` pieces, and goes on."""
    client = zmq.Context.instance().socket(zmq.DEALER)
    client.linger = 0
    client.connect(server.endpoint)
    client.send(json.dumps({"v": 1, "id": "r", **request}).encode())
    deltas = 0
    while deltas < count:
        assert client.poll(60000)
        frame = json.loads(client.recv())
        assert frame["type"] in ("accepted", "delta"), frame
        deltas += frame["type"] == "delta"
    return client


@pytest.mark.parametrize("number, victim, link", [
    (signal.SIGKILL, 1, "nccl"), (signal.SIGKILL, 0, "nccl"), (signal.SIGKILL, 1, "peer"), (signal.SIGKILL, 0, "peer"),
    (signal.SIGKILL, 1, "host"), (signal.SIGSTOP, 1, "nccl"), (signal.SIGSTOP, 0, "nccl"), (signal.SIGSTOP, 1, "peer"),
], ids=str)
def test_a_rank_that_is_killed_or_stopped_amid_an_answer_is_named(tiny, start_server, number, victim, link, monkeypatch):  # noqa: F811
    monkeypatch.setenv("EMULATED_GPUS", "2")
    server = start_server(EMULATED, "serve", tiny, "--device", "cuda", "--listen", "tcp://127.0.0.1:*", "-n", 2,
                          "--gpu-link", link)
    client = after_tokens(server, 3, {"type": "complete", "max_tokens": 2000, "tokens": [1, 2, 3], "ignore_eos": True,
                                      "speculate": False})
    os.kill(server.ranks()[victim], number)
    begin = time.monotonic()
    while True:
        assert client.poll(60000), "no answer"
        frame = json.loads(client.recv())
        if frame["type"] != "delta":
            break
    client.close()
    assert frame["type"] == "error" and frame["code"] == "unavailable", frame
    assert f"rank {victim}" in frame["message"] and "\n" not in frame["message"], frame
    assert time.monotonic() - begin < 30, frame
    assert server.process.wait(60) != 0
    assert_no_leftovers(server)


@pytest.mark.parametrize("link", ["nccl", "peer"])
def test_many_requests_of_which_few_fit_have_the_answers_of_a_cpu(tiny, start_server, link, monkeypatch):  # noqa: F811
    """Sequences are preempted, end, and make room for others, while steps are put into the GPUs' streams ahead."""
    monkeypatch.setenv("EMULATED_GPUS", "2")
    asked = {"type": "complete", "ignore_eos": True}
    requests = [{"tokens": [1 + i, *range(2, 50 + i)], "max_tokens": 20 + i % 5 * 6, "speculate": i % 4 == 0, **asked}
                for i in range(12)]

    def answers(*more):
        server = start_server(EMULATED, "serve", tiny, "--listen", "tcp://127.0.0.1:*", *more)
        with ThreadPoolExecutor(12) as pool:
            frames = list(pool.map(lambda request: frames_of(server, **request)[-1], requests))
        status = frames_of(server, until=("status",), type="status")[-1]
        server.stop()
        assert all(frame["type"] == "done" for frame in frames), frames
        return [(frame["text"], frame["usage"]["completion_tokens"]) for frame in frames], status

    expected, _ = answers()
    # 256 bytes a token on each of two ranks, in pages of 64.
    found, status = answers("--device", "cuda", "-n", 2, "--gpu-link", link, "--kv-memory", 7 * 64 * 256, "--max-running", 8)
    assert found == expected
    assert status["totals"]["preemptions"] > 0, status
