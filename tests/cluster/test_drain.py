"""A server that gets SIGTERM completes the answers that it has begun, and takes no more."""
import json
import os
import signal
import time

import pytest
import zmq
from conftest import MPIRUN, SMOLLM2, TANDEM, assert_no_leftovers

LISTEN = ["--listen", "tcp://127.0.0.1:*"]


class Client:
    def __init__(self, endpoint):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def complete(self, id_, tokens):
        request = {"v": 1, "type": "complete", "id": id_, "prompt": "One, two,", "max_tokens": tokens, "ignore_eos": True}
        self.socket.send(json.dumps(request).encode())

    def receive(self):
        assert self.socket.poll(60_000), "no frame"
        return json.loads(self.socket.recv())

    def wait_for(self, id_, *types):
        while True:
            frame = self.receive()
            if frame["id"] == id_ and frame["type"] in types:
                return frame


def serve(start_server, ranks, under_mpirun, *more):
    command = [TANDEM, "serve", SMOLLM2, *LISTEN, *more]
    server = start_server(*((*MPIRUN, "-n", ranks, *command) if under_mpirun else (*command, "-n", ranks)))
    # Of ranks that mpirun started, rank 0 has the clients.
    return server, server.ranks()[0] if under_mpirun else server.process.pid


@pytest.mark.parametrize("ranks, under_mpirun", [(1, False), (2, False), (2, True)])
def test_sigterm_completes_what_has_begun_and_refuses_what_comes(start_server, ranks, under_mpirun):
    server, pid = serve(start_server, ranks, under_mpirun)
    client = Client(server.endpoint)
    client.complete("long", 300)
    client.wait_for("long", "delta")
    os.kill(pid, signal.SIGTERM)
    # Until the signal has arrived, requests are taken.
    for number in range(1000):
        client.complete(f"new{number}", 1)
        frame = client.wait_for(f"new{number}", "done", "error")
        if frame["type"] == "error":
            break
    assert frame["code"] == "unavailable" and frame["retry_after"] > 0 and "draining" in frame["message"]
    client.socket.send(json.dumps({"v": 1, "type": "ping", "id": "p"}).encode())
    assert client.wait_for("p", "pong")["ready"] is False
    done = client.wait_for("long", "done", "error")
    assert done["type"] == "done" and done["finish_reason"] == "length"
    assert done["usage"]["completion_tokens"] == 300
    assert server.process.wait(15) == 0, server.rest_of_log()
    assert_no_leftovers(server)


@pytest.mark.parametrize("more, again, reason", [
    ((), True, "the server is shutting down"),
    (("--drain-timeout", 0.5), False, "--drain-timeout"),
    (("--drain-timeout", 0), False, "the server is shutting down"),
])
def test_a_drain_ends_when_it_is_told_or_takes_too_long(start_server, more, again, reason):
    server, pid = serve(start_server, 1, False, *more)
    client = Client(server.endpoint)
    client.complete("long", 8000)
    client.wait_for("long", "delta")
    os.kill(pid, signal.SIGTERM)
    if again:
        time.sleep(0.3)
        assert server.process.poll() is None
        os.kill(pid, signal.SIGTERM)
    frame = client.wait_for("long", "done", "error")
    assert frame["type"] == "error" and frame["code"] == "unavailable" and reason in frame["message"]
    assert server.process.wait(10) == 0, server.rest_of_log()


def test_a_drain_of_nothing_ends_at_once(start_server):
    server, _ = serve(start_server, 1, False, "--drain-timeout", 3600)
    assert server.stop(signal.SIGTERM) == 0
