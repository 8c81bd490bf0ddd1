"""Clients that flood, leave, ping, do not read, or send far too much, beside one that chats honestly: its answers stay
right and keep coming, and the server's memory stays within what docs/protocol.md promises."""
import contextlib
import itertools
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest
import zmq
from conftest import SMOLLM2, TANDEM, run

CONTEXT = zmq.Context()
MIB = 1 << 20
PAUSE_SECONDS = 1.5  # of an honest stream, at most: docs/protocol.md
# The ids that end an answer of SmolLM2: without them an answer is as long as it may be.
ENDLESS = {"logit_bias": {"0": -1000, "1": -1000, "2": -1000}}


def frame(type_, id_, **fields):
    return json.dumps({"v": 1, "type": type_, "id": id_, **fields}).encode()


def chat(id_, content, **fields):
    return frame("chat", id_, messages=[{"role": "user", "content": content}], **fields)


@contextlib.contextmanager
def dealer(endpoint, **options):
    client = CONTEXT.socket(zmq.DEALER)
    client.linger = 0
    for name, value in options.items():
        setattr(client, name, value)
    client.connect(endpoint)
    try:
        yield client
    finally:
        client.close()


def receive(client, seconds=60):
    assert client.poll(seconds * 1000), "no frame came in time"
    return json.loads(client.recv())


def answer(client, id_, seconds=60):
    """The frame that ends this request."""
    while True:
        got = receive(client, seconds)
        if got.get("id") == id_ and got["type"] not in ("accepted", "delta"):
            return got


def answers(client, ids, seconds=60):
    """The frames that end these requests, in whatever order, by id."""
    ended = {}
    while set(ended) != set(ids):
        got = receive(client, seconds)
        if got["type"] not in ("accepted", "delta"):
            ended[got["id"]] = got
    return ended


def ask(endpoint, type_, **fields):
    with dealer(endpoint) as client:
        client.send(frame(type_, "ask", **fields))
        return answer(client, "ask")


class HonestChat:
    """Chats in a thread of its own, again and again, while others misbehave. Every answer must be that of an idle
    server; `pause` is the longest time without a frame of an answer that had begun."""

    def __init__(self, endpoint):
        self.endpoint = endpoint
        self.pause = 0
        self.answers = []
        self.expected = self.chat_once(measures=False)
        self.ends = threading.Event()
        self.failure = None
        self.thread = threading.Thread(target=self.run)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *failure):
        self.ends.set()
        self.thread.join()
        if failure[0] is None:
            assert self.failure is None, self.failure
            assert self.answers, "not one answer was complete"
            assert set(self.answers) == {self.expected}

    def run(self):
        try:
            while not self.ends.is_set():
                self.answers.append(self.chat_once(measures=True))
        except BaseException as failure:  # for the thread that waits
            self.failure = failure

    def chat_once(self, measures):
        with dealer(self.endpoint) as client:
            client.send(chat("honest", "Count to one hundred.", max_tokens=48, **ENDLESS))
            got = receive(client)
            while got["type"] in ("accepted", "delta"):
                before = time.monotonic()
                got = receive(client)
                if measures and got["type"] == "delta":
                    self.pause = max(self.pause, time.monotonic() - before)
            assert got["type"] == "done", got
            return got["text"]


def resident_bytes(pid):
    with open(f"/proc/{pid}/status", encoding="ascii") as status:
        return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))


def serve(start_server, *options, listen="tcp://127.0.0.1:*"):
    return start_server(TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", listen, *options)


def assert_alive(server):
    assert server.process.poll() is None, server.rest_of_log()
    assert ask(server.endpoint, "ping")["ready"] is True


class RawClient:
    """ZMTP without libzmq: says what it likes, and leaves without a goodbye."""

    PING = b"\x04\x07\x04PING\0\0"

    def __init__(self, endpoint):
        if endpoint.startswith("ipc://"):
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.connect(endpoint[len("ipc://"):])
        else:
            host, port = endpoint[len("tcp://"):].split(":")
            self.socket = socket.create_connection((host, int(port)))
        self.socket.sendall(b"\xff" + bytes(8) + b"\x7f\x03\0" + b"NULL".ljust(20, b"\0") + bytes(32))
        self.read(64)
        ready = b"\x05READY\x0bSocket-Type" + struct.pack(">I", 6) + b"DEALER"
        self.socket.sendall(bytes([4, len(ready)]) + ready)
        self.read(self.read(2)[1])

    def read(self, count):
        got = b""
        while len(got) < count:
            more = self.socket.recv(count - len(got))
            assert more
            got += more
        return got

    def leave(self):
        if self.socket.family == socket.AF_INET:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


@pytest.mark.parametrize("port", ["tcp", "ipc"])
def test_clients_that_flood_and_leave_end_nothing(start_server, tmp_path, port):
    listen = "tcp://127.0.0.1:*" if port == "tcp" else f"ipc://{tmp_path}/server"
    server = serve(start_server, listen=listen)
    heartbeats = {"heartbeat_ivl": 5, "heartbeat_ttl": 1000, "heartbeat_timeout": 1000}
    with HonestChat(server.endpoint):
        for size, count in ((10, 3000), (1000, 1000), (100_000, 200), (1_000_000, 100), (3_000_000, 40)):
            for options in ({}, heartbeats):
                with dealer(server.endpoint, sndhwm=0, **options) as client:
                    for number in range(count):
                        client.send(chat(f"r{number}", "x" * size, max_tokens=1))
                    time.sleep(0.3)
                assert_alive(server)
        # Pings among bytes that a full server has read, but not looked at: libzmq's own engine aborts here.
        with dealer(server.endpoint, sndhwm=0) as busy:
            for number in range(3):
                busy.send(chat(f"r{number}", "x" * 1_000_000, context_policy="shift", max_tokens=1))
            for _ in range(20):
                client = RawClient(server.endpoint)
                client.socket.sendall(b"\0\1x" * 300 + RawClient.PING * 20)
                time.sleep(0.005)
                client.leave()
        assert_alive(server)
        time.sleep(6)  # what heartbeats there might be have passed
        assert_alive(server)
    assert ask(server.endpoint, "status")["clients"] == 1, "who left holds no place"


def test_bytes_that_are_no_zmtp_end_nothing(start_server):
    server = serve(start_server)
    host, port = server.endpoint[len("tcp://"):].split(":")
    for begin in (b"GET / HTTP/1.1\r\n\r\n", bytes(64), os.urandom(1000), b"\xff" + bytes(8) + b"\x7f\x01\x05",
                  b"\xff" + bytes(8) + b"\x7f\x03\0" + b"CURVE".ljust(20, b"\0") + bytes(32)):
        with socket.create_connection((host, int(port))) as client:
            client.sendall(begin)
            client.settimeout(10)
            while client.recv(4096):  # to the end: the server closes it
                pass
    assert_alive(server)


def test_clients_that_do_not_read_cost_little_memory(start_server):
    server = serve(start_server)
    with dealer(server.endpoint) as client:
        client.send(chat("long", "word " * 190_000, conversation="long", context_policy="window:64", max_tokens=1))
        assert answer(client, "long")["type"] == "done"
    with HonestChat(server.endpoint):
        before = resident_bytes(server.process.pid)
        with contextlib.ExitStack() as clients:
            for _ in range(60):
                client = clients.enter_context(dealer(server.endpoint, rcvhwm=1, rcvbuf=4096, sndhwm=0))
                for number in range(80):
                    client.send(frame("conversation.get", f"g{number}", conversation="long"))
            most = 0
            for _ in range(30):
                time.sleep(0.2)
                most = max(most, resident_bytes(server.process.pid) - before)
            # Whoever reads at last gets all that it asked for.
            for number in range(80):
                got = answer(client, f"g{number}")
                assert len(got["messages"][0]["content"]) == 950_000
        assert most < 300 * MIB, f"60 clients that do not read cost {most / MIB:.0f} MiB"


def test_a_stream_goes_on_beside_many_long_chats(start_server):
    server = serve(start_server)
    content = "x" * 1_000_000
    with HonestChat(server.endpoint) as honest, contextlib.ExitStack() as clients:
        many = [clients.enter_context(dealer(server.endpoint, sndhwm=0)) for _ in range(20)]
        for number, client in enumerate(many):
            client.send(chat("stop", content, max_tokens=1))
            client.send(chat("long", content, context_policy="shift" if number < 5 else "stop", max_tokens=1))
        one = many[0]
        for number in range(40):
            one.send(chat(f"r{number}", content, max_tokens=1))
        for client in many:
            more = [f"r{number}" for number in range(40)] if client is one else []
            ended = answers(client, ["stop", "long", *more])
            assert {frame["code"] for frame in ended.values()} <= {"invalid_argument", "overloaded"}
            if client is not one:
                assert ended["stop"]["code"] == ended["long"]["code"] == "invalid_argument"
        assert honest.pause < PAUSE_SECONDS, f"the honest stream stood still for {honest.pause:.1f} s"
    assert honest.pause < PAUSE_SECONDS, f"the honest stream stood still for {honest.pause:.1f} s"


def test_a_stream_goes_on_beside_pings_of_many_clients(start_server):
    server = serve(start_server)
    pings = memoryview(RawClient.PING * 100_000)
    with HonestChat(server.endpoint) as honest:
        many = [RawClient(server.endpoint) for _ in range(240)]
        begun = [0] * len(many)  # bytes of a ping
        for client in many:
            client.socket.setblocking(False)
        end = time.monotonic() + 10
        while time.monotonic() < end:
            for number, client in enumerate(many):
                with contextlib.suppress(BlockingIOError):
                    begun[number] += client.socket.send(pings[begun[number]:])
                    begun[number] %= len(RawClient.PING)
                with contextlib.suppress(BlockingIOError):
                    client.socket.recv(1 << 20)
        for client in many:
            client.leave()
    assert honest.pause < PAUSE_SECONDS, f"the honest stream stood still for {honest.pause:.1f} s"
    print(f"the honest stream stood still for {honest.pause:.1f} s")


@pytest.mark.parametrize("ranks", [1, 2])  # the server computes itself, or is a process of its own
def test_memory_of_what_was_deleted_comes_back(start_server, ranks):
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", ranks, "--listen", "tcp://127.0.0.1:*")
    with dealer(server.endpoint) as client:
        client.send(chat("first", "Hi", max_tokens=1))
        assert answer(client, "first")["type"] == "done"
    before = resident_bytes(server.process.pid)
    names = [f"fork{number}" for number in range(10)]
    window = {"context_policy": "window:64", "max_tokens": 1}
    with dealer(server.endpoint, sndhwm=0) as client:
        for number in range(7):
            client.send(chat(f"r{number}", "word " * 190_000, conversation="long", **window))
            assert answer(client, f"r{number}")["type"] == "done"
        for name in names:
            client.send(frame("conversation.fork", name, conversation="long", to=name))
            assert answer(client, name)["type"] == "conversation.fork"
    with contextlib.ExitStack() as clients:
        many = {name: clients.enter_context(dealer(server.endpoint)) for name in names}
        for name, client in many.items():
            client.send(chat("turn", "Hi", conversation=name, **window))
        for client in many.values():
            assert answer(client, "turn")["type"] == "done"
    for name in [*names, "long"]:
        assert ask(server.endpoint, "conversation.delete", conversation=name)["type"] == "conversation.delete"
    end = time.monotonic() + 10
    while (left := resident_bytes(server.process.pid) - before) > 50 * MIB:
        assert time.monotonic() < end, f"{left / MIB:.0f} MiB are left of conversations that are deleted"
        time.sleep(0.2)


def test_a_frame_of_any_size_is_answered(start_server):
    server = serve(start_server)
    with HonestChat(server.endpoint), dealer(server.endpoint, sndhwm=0) as client:
        before = resident_bytes(server.process.pid)
        for size in (MIB + 1, 16 * MIB, 16 * MIB + 1, 100 * MIB):
            client.send(b"x" * size)
            got = receive(client)
            assert got["code"] == "too_large" and f"{size} bytes" in got["message"], got
            client.send(frame("ping", "still here"))
            assert receive(client)["type"] == "pong"
        assert resident_bytes(server.process.pid) - before < 50 * MIB


def test_more_clients_than_allowed_are_told_so(start_server):
    server = serve(start_server, "--max-clients", 3)
    with contextlib.ExitStack() as clients:
        for number in range(3):
            client = clients.enter_context(dealer(server.endpoint))
            client.send(frame("ping", "p"))
            assert receive(client)["type"] == "pong", number
        with dealer(server.endpoint) as fourth:
            fourth.send(frame("ping", "p"))
            got = receive(fourth)
            assert got["code"] == "overloaded" and got["retry_after"] > 0 and "--max-clients" in got["message"]
        client.send(frame("ping", "again"))
        assert receive(client)["id"] == "again"
    end = time.monotonic() + 10
    served = False
    while not served:  # there is room once they have left
        assert time.monotonic() < end
        with dealer(server.endpoint) as client:
            client.send(frame("ping", "p"))
            served = receive(client)["type"] == "pong"


def test_pings_and_status_are_answered_while_the_engine_hangs(start_server):
    server = serve(start_server)
    rank0 = server.ranks()[0]
    assert ask(server.endpoint, "status")["engine"]["answers"] is True
    with dealer(server.endpoint) as waiting, dealer(server.endpoint) as pinging:
        os.kill(rank0, signal.SIGSTOP)
        try:
            waiting.send(chat("r1", "Hello!", max_tokens=4))
            waiting.send(frame("cancel", "none"))
            assert receive(waiting, 2)["code"] == "not_found"
            slowest = 0
            end = time.monotonic() + 3
            for number in itertools.count():
                if time.monotonic() > end:
                    break
                before = time.monotonic()
                pinging.send(frame("ping", f"p{number}"))
                assert receive(pinging)["id"] == f"p{number}"
                slowest = max(slowest, time.monotonic() - before)
                time.sleep(0.02)
            assert slowest < 1, f"a ping took {slowest:.1f} s"
            before = time.monotonic()
            pinging.send(frame("status", "s"))
            status = receive(pinging)
            assert time.monotonic() - before < 2
            assert status["engine"]["answers"] is False and status["engine"]["figures_age_seconds"] > 1
            assert len(status["ranks"]) == 2 and status["requests"]["open"] == 1
            waiting.send(chat("gone", "Hello!", deadline=0.3))
            assert answer(waiting, "gone", 3)["code"] == "deadline_exceeded"
        finally:
            os.kill(rank0, signal.SIGCONT)
        assert answer(waiting, "r1")["type"] == "done"
    assert_alive(server)


ON_ANOTHER_HOST = """
import json, sys, time, zmq
client = zmq.Context().socket(zmq.DEALER)
client.linger = 0
client.connect("tcp://10.97.0.1:5555")
client.send(sys.argv[1].encode())
print(client.recv().decode(), flush=True)
time.sleep(float(sys.argv[2]))
"""


@pytest.mark.parametrize("busy", [False, True])
def test_a_client_whose_host_is_gone_is_noticed(start_server, lab, busy):
    def client(host, request, seconds):
        return [*lab("exec", host, sys.executable, "-c", ON_ANOTHER_HOST, request.decode(), seconds)]

    start_server(*lab("exec", 1, TANDEM, "serve", SMOLLM2, "-n", 1, "--listen", "tcp://10.97.0.1:5555"))
    request = chat("r1", "Count.", max_tokens=5000, **ENDLESS) if busy else frame("ping", "p")
    with subprocess.Popen(client(2, request, 100), stdout=subprocess.PIPE) as gone:
        try:
            assert gone.stdout.readline()
            assert run(lab("link", 2, "down")).returncode == 0
            end = time.monotonic() + 45  # about 20 are promised
            while True:
                status = json.loads(run(client(1, frame("status", "s"), 0)).stdout)
                if status["clients"] == 1 and status["requests"]["open"] == 0:
                    break
                assert time.monotonic() < end, status
                time.sleep(1)
        finally:
            gone.kill()
