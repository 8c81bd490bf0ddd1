"""`tandem status`: once, and again and again, in a terminal and in a pipe, with a server that comes and goes."""
import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import threading
import time

import pytest
import zmq
from conftest import TANDEM, run

ENTER, LEAVE = "\x1b[?1049h", "\x1b[?1049l"


class FakeServer:
    """Answers pings and status requests; every second of its `uptime_seconds` it has generated 100 tokens and read 1000."""

    def __init__(self, endpoint="tcp://127.0.0.1:*"):
        self.context = zmq.Context()
        self.router = self.context.socket(zmq.ROUTER)
        self.router.setsockopt(zmq.LINGER, 0)
        self.router.bind(endpoint)
        self.endpoint = self.router.getsockopt(zmq.LAST_ENDPOINT).decode()
        self.looks = 0
        self.ending = threading.Event()
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def serve(self):
        while not self.ending.is_set():
            if not self.router.poll(20):
                continue
            client, raw = self.router.recv_multipart()
            frame = json.loads(raw)
            answer = {"v": 1, "id": frame["id"], "type": "pong", "ready": True}
            if frame["type"] == "status":
                self.looks += 1
                answer = {"v": 1, "id": frame["id"], "type": "status", "model": {"name": "fake", "context": 4096},
                          "ranks": [{"rank": 0, "host": "here", "device": "cpu", "weight_bytes": 2097152}],
                          "requests": {"running": 1, "waiting": 2, "answered": 3, "cancelled": 4, "failed": 5},
                          "pages": {"total": 8, "used": 2, "cached": 4},
                          "reuse": {"prompt_tokens": 200, "reused_tokens": 50}, "rates": {"tokens_per_second": 7.0},
                          "totals": {"tokens_generated": 100 * self.looks, "tokens_prefilled": 1000 * self.looks},
                          "uptime_seconds": self.looks}
            self.router.send_multipart([client, json.dumps(answer).encode()])

    def stop(self):
        self.ending.set()
        self.thread.join()
        self.context.destroy()


@contextlib.contextmanager
def fake_server(*arguments):
    server = FakeServer(*arguments)
    try:
        yield server
    finally:
        server.stop()


def test_once():
    with fake_server() as server:
        result = run([TANDEM, "status", "--connect", server.endpoint])
        assert result.returncode == 0, result.stderr
        assert "fake: context 4096, up 1 s" in result.stdout
        assert "0  here  cpu     2.0 MiB" in result.stdout
        assert "tokens/s   7 generated" in result.stdout
        document = json.loads(run([TANDEM, "status", "--connect", server.endpoint, "--json"]).stdout)
        assert document["pages"] == {"total": 8, "used": 2, "cached": 4}


def watch_into_pipe(endpoint, *arguments):
    return subprocess.Popen([TANDEM, "status", "--connect", endpoint, "--watch", "0.1", *arguments], stdin=subprocess.DEVNULL,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_watch_in_a_pipe_writes_a_block_each_time():
    with fake_server() as server:
        process = watch_into_pipe(server.endpoint)
        lines = []
        while lines.count("\n") < 3:
            lines.append(process.stdout.readline())
        process.send_signal(signal.SIGINT)
        process.wait(10)
    blocks = "".join(lines).split("\n\n")
    assert all(re.match(r"\d\d:\d\d:\d\d  tcp://", block) for block in blocks[:3])
    assert "tokens/s   7 generated" in blocks[0]
    # Of the time between two looks.
    assert "tokens/s   100 generated, 1000 read" in blocks[1]
    assert "\x1b" not in "".join(lines)


def test_watch_with_json_writes_a_document_a_line():
    with fake_server() as server:
        process = watch_into_pipe(server.endpoint, "--json")
        documents = [json.loads(process.stdout.readline()) for _ in range(3)]
        process.kill()
        process.wait()
    assert [document["uptime_seconds"] for document in documents] == [1, 2, 3]


def test_watch_ends_when_nobody_reads():
    with fake_server() as server:
        process = watch_into_pipe(server.endpoint)
        process.stdout.readline()
        process.stdout.close()
        process.wait(10)


def test_watch_goes_on_when_the_server_comes_back():
    with fake_server() as server:
        endpoint = server.endpoint
        process = watch_into_pipe(endpoint)
        assert "tcp://" in process.stdout.readline()
    seen = ""
    while "Trying again." not in seen:
        seen += process.stdout.readline()
    assert "the connection to the server" in seen or "no answer from" in seen
    with fake_server(endpoint):
        while "up 1 s" not in seen.rpartition("Trying again.")[2]:
            seen += process.stdout.readline()
    process.kill()
    process.wait()


@pytest.mark.parametrize("value", ["0", "-1", "x", "1e9"])
def test_watch_refuses_what_are_no_seconds(value):
    result = run([TANDEM, "status", f"--watch={value}"])
    assert result.returncode == 2
    assert f"'{value}': expected seconds" in result.stderr


class Terminal:
    """A command in a terminal of some size, and all that it wrote there."""

    def __init__(self, *command, columns=100, lines=30):
        self.child, self.seen = None, ""
        pid, self.descriptor = pty.fork()
        if pid == 0:
            os.execv(command[0], command)
        self.child = pid
        self.resize(columns, lines)

    def resize(self, columns, lines):
        fcntl.ioctl(self.descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def read_until(self, done, seconds=10):
        end = time.monotonic() + seconds
        while not done(self.seen):
            assert time.monotonic() < end, self.seen
            if select.select([self.descriptor], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.descriptor, 4096).decode()
                except OSError:  # the other end is closed
                    assert done(self.seen), self.seen

    def wait(self):
        return os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])


def test_watch_in_a_terminal_redraws_in_place_and_leaves_it_clean():
    with fake_server() as server:
        terminal = Terminal(TANDEM, "status", "--connect", server.endpoint, "--watch", "0.1")
        terminal.read_until(lambda seen: seen.count("fake: context") >= 3)
        assert terminal.seen.startswith(ENTER)
        drawn = terminal.seen.split("\x1b[H")[2]
        assert "pages      2 used, 4 cached, of 8  [##########--------------------          ]\x1b[K" in drawn
        # Narrow and low: no line is cut by the terminal itself, none scrolls.
        terminal.seen = ""
        terminal.resize(20, 4)
        terminal.read_until(lambda seen: seen.count("\x1b[H") >= 3)
        drawn = re.sub(r"\x1b\[\??[0-9]*[A-Za-z]", "", terminal.seen.split("\x1b[H")[-2]).split("\r\n")
        assert len(drawn) == 4 and max(map(len, drawn)) <= 20
        os.kill(terminal.child, signal.SIGINT)
        terminal.read_until(lambda seen: "tokens/s" in seen.rpartition(LEAVE)[2] and LEAVE in seen)
        assert terminal.wait() == 0
        # The last block stays, whole, after the screen has gone.
        assert "fake: context 4096" in terminal.seen.rpartition(LEAVE)[2]


def test_watch_in_a_terminal_ends_at_once_without_a_server():
    terminal = Terminal(TANDEM, "status", "--connect", "tcp://127.0.0.1:9", "--watch")
    terminal.read_until(lambda seen: ENTER in seen)
    time.sleep(0.3)
    begin = time.monotonic()
    os.kill(terminal.child, signal.SIGINT)
    assert terminal.wait() == 0
    assert time.monotonic() - begin < 2
