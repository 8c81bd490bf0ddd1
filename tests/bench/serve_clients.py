"""Servers under load, as their clients see them: `tandem serve` over ZeroMQ and over HTTP, llama.cpp's llama-server over HTTP.

All have the same few methods: start, stop, open a stream (a request whose answer comes piece by piece), status. A stream only
notes what came when; it is read after the load, so that the client takes as little of the processors as it can.
"""
import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import zmq

START_SECONDS = 120  # that a server may take to load its model
NEVER = -100  # logit bias of the tokens that end an answer: far below what any model gives another token


class Failed(Exception):
    """A request that was answered with an error, or not at all."""


class Process:
    """A server's process group: its log in a file, and its end."""

    def __init__(self, command, **environment):
        self.command = [str(word) for word in command]
        self.log = tempfile.TemporaryFile()
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log,
                                        start_new_session=True, env=dict(os.environ, **environment))

    def said(self):
        # Its own place in the file, not the writer's.
        size = os.fstat(self.log.fileno()).st_size
        return os.pread(self.log.fileno(), size, 0).decode(errors="replace")

    def wait_until(self, ready):
        """The first true value of ready(); ends the program if the server ends first, or takes too long."""
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if result := ready():
                return result
            if self.process.poll() is not None:
                sys.exit(f"{self.said()[-3000:]}'{' '.join(self.command)}' ended with status {self.process.returncode} before it "
                         "served; its output stands above")
            time.sleep(0.02)
        self.stop()
        sys.exit(f"{self.said()[-3000:]}'{' '.join(self.command)}' did not serve within {START_SECONDS} s; its output stands above")

    def stop(self):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        self.log.close()

    def kill(self):
        """SIGKILL to every process of the session, the ranks too."""
        for entry in pathlib.Path("/proc").iterdir():
            with contextlib.suppress(ValueError, ProcessLookupError):
                if os.getsid(int(entry.name)) == self.process.pid:
                    os.kill(int(entry.name), signal.SIGKILL)
        self.process.wait()
        self.log.close()


class TandemStream:
    """A request to `tandem serve`, on a connection of its own: a client of its own."""

    def __init__(self, context, endpoint, request):
        self.socket = context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.connect(endpoint)
        self.frames = []  # (seconds, bytes)
        self.ended = False
        self.sent = time.monotonic()
        self.socket.send(json.dumps({"v": 1, "id": "r", **request}).encode())

    def receive(self):
        """Takes what is there; true once the answer has ended."""
        with contextlib.suppress(zmq.Again):
            while True:
                frame = self.socket.recv(zmq.NOBLOCK)
                self.frames.append((time.monotonic(), frame))
                # Text comes in another place of a frame than its type, and a `"` inside of a text is escaped.
                self.ended = self.ended or b'"type":"done"' in frame or b'"type":"error"' in frame
        return self.ended

    def cancel(self):
        self.socket.send(b'{"v":1,"id":"r","type":"cancel"}')

    def close(self):
        self.socket.close()

    def answer(self):
        """{"sent": s, "pieces": [s, ...] when text came, "end": s, "text", "tokens", "usage"}."""
        pieces, done = [], None
        for at, raw in self.frames:
            frame = json.loads(raw)
            if frame["type"] == "error":
                raise Failed(f"{frame['code']}: {frame['message']}")
            if frame["type"] == "delta":
                pieces.append(at)
            if frame["type"] == "done":
                done = frame
        if done is None:
            raise Failed("the answer did not end")
        return {"sent": self.sent, "pieces": pieces, "end": self.frames[-1][0], "text": done["text"],
                "tokens": done["usage"]["completion_tokens"], "usage": done["usage"]}


class Tandem:
    """`tandem serve`. prefix: words before its command, as "run this on that host"; it listens where we reach it."""
    HTTP = "off"

    def __init__(self, program, model, threads, ranks=1, flags=(), name="Tandem", prefix=(), listen="tcp://127.0.0.1:*"):
        self.name = name
        self.program = program
        self.model = model
        self.threads = threads
        self.ranks = ranks
        self.flags = list(flags)
        self.prefix = list(prefix)
        self.listen = listen

    def start(self, slots, context):
        """Ready to compute `slots` requests at once, each with up to `context` tokens."""
        del context  # the model's own; pages are shared by all
        self.zmq = zmq.Context()
        self.process = Process([*self.prefix, self.program, "serve", self.model, "-n", self.ranks, "--threads", self.threads // self.ranks,
                                "--listen", self.listen, "--max-running", slots, *self.flags], TANDEM_HTTP=self.HTTP)
        match = self.process.wait_until(lambda: re.search(r"serving .* on (\w+://\S+)$", self.process.said(), re.MULTILINE))
        self.endpoint = match[1]
        self.asking = self.zmq.socket(zmq.DEALER)
        self.asking.setsockopt(zmq.LINGER, 0)
        self.asking.connect(self.endpoint)
        self.warm_up()

    def warm_up(self):
        run_alone(self.open([1, 2, 3], 4))

    def open(self, prompt, answer, never=()):
        """A completion of exactly `answer` tokens, of which none is in `never`."""
        return self.send({"type": "complete", "tokens": prompt, "max_tokens": answer,
                          "logit_bias": {str(token): NEVER for token in never}})

    def send(self, request):
        return TandemStream(self.zmq, self.endpoint, request)

    def ask_status(self):
        """Asks; the answer is taken by `statuses`, so that nobody waits for it."""
        self.asking.send(b'{"v":1,"id":"s","type":"status"}')

    def statuses(self):
        """The status documents that have come since the last call."""
        found = []
        with contextlib.suppress(zmq.Again):
            while True:
                found.append(json.loads(self.asking.recv(zmq.NOBLOCK)))
        return found

    def status(self):
        self.ask_status()
        if not self.asking.poll(10000):
            raise Failed("no answer to a status request within 10 s")
        return self.statuses()[-1]

    def stop(self):
        self.asking.close()
        self.process.stop()
        self.zmq.term()

    def kill(self):
        """All of it at once, without a chance to put anything away."""
        self.asking.close()
        self.process.kill()
        self.zmq.term()


class HttpStream:
    """A request over HTTP, on a connection of its own, whose answer is a stream of events."""

    def __init__(self, port, path, body):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.reads = []  # (seconds, bytes)
        data = json.dumps(body).encode()
        self.sent = time.monotonic()
        self.socket.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nConnection: close\r\n"
                            f"Content-Length: {len(data)}\r\n\r\n".encode() + data)
        self.socket.setblocking(False)
        self.ended = False

    def receive(self):
        with contextlib.suppress(BlockingIOError):
            while part := self.socket.recv(1 << 16):
                self.reads.append((time.monotonic(), part))
            self.ended = True
        return self.ended

    def cancel(self):
        """A closed connection cancels; nothing more comes."""
        self.close()
        self.ended = True

    def close(self):
        self.socket.close()

    def events(self):
        """(seconds, document) of each server-sent event."""
        whole = b"".join(part for _, part in self.reads)
        ends, total = [], 0  # of each read: (offset of its end in the whole, seconds)
        for at, part in self.reads:
            total += len(part)
            ends.append((total, at))
        if not re.match(rb"HTTP/1\.1 200 ", whole):
            raise Failed(whole[:500].decode(errors="replace"))
        place = 0
        # The servers send each event within a chunk, so that none is cut by the framing.
        for match in re.finditer(rb"^data: (\{.*\})\r?$", whole, re.MULTILINE):
            while ends[place][0] < match.end():
                place += 1
            yield ends[place][1], json.loads(match[1])


class LlamaStream(HttpStream):
    """A request to llama-server."""

    def answer(self):
        """As that of a TandemStream."""
        pieces, text, last = [], "", None
        for at, event in self.events():
            if "error" in event:
                raise Failed(json.dumps(event["error"]))
            if event.get("content"):
                pieces.append(at)
                text += event["content"]
            last = event
        if last is None or not last.get("stop"):
            raise Failed("the answer did not end")
        return {"sent": self.sent, "pieces": pieces, "end": self.reads[-1][0], "text": text, "tokens": last["tokens_predicted"],
                "usage": {"prompt_tokens": last["tokens_evaluated"]}}


class CompletionStream(HttpStream):
    """A request to /v1/completions, with `stream_options` that ask for the usage."""

    def answer(self):
        """As that of a TandemStream."""
        pieces, text, usage = [], "", None
        for at, event in self.events():
            if "error" in event:
                raise Failed(json.dumps(event["error"]))
            part = "".join(choice["text"] for choice in event["choices"])
            if part:
                pieces.append(at)
                text += part
            usage = event.get("usage") or usage
        if usage is None:
            raise Failed("the answer did not end")
        return {"sent": self.sent, "pieces": pieces, "end": self.reads[-1][0], "text": text, "tokens": usage["completion_tokens"],
                "usage": usage}


class TandemHttp(Tandem):
    """`tandem serve` with its gateway for HTTP, through which requests go; its status is asked for by ZeroMQ."""
    HTTP = "127.0.0.1:0"

    def warm_up(self):
        match = re.search(r"for clients of HTTP: http://127\.0\.0\.1:(\d+)/v1$", self.process.said(), re.MULTILINE)
        if match is None:
            raise Failed(f"{self.program} told no address for clients of HTTP")
        self.port = int(match[1])
        super().warm_up()

    def open(self, prompt, answer, never=()):
        return CompletionStream(self.port, "/v1/completions", completion(prompt, answer, never))


def completion(prompt, answer, never=(), **more):
    """The body of a request for a streamed completion over HTTP, with the same answer as that of Tandem.open."""
    return {"prompt": prompt, "max_tokens": answer, "temperature": 0, "stream": True, "stream_options": {"include_usage": True},
            "logit_bias": {str(token): NEVER for token in never}, **more}


class LlamaServer:
    """llama.cpp's server with continuous batching, as it comes."""

    def __init__(self, program, model, threads, name="llama.cpp"):
        self.name = name
        self.program = pathlib.Path(program)
        self.model = model
        self.threads = threads
        if not self.program.is_file():
            sys.exit(f"{self.program} is missing; give the path of a llama-server")

    def start(self, slots, context):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = Process([self.program, "-m", self.model, "-t", self.threads, "-np", slots, "-c", slots * context, "--host",
                                "127.0.0.1", "--port", self.port, "--threads-http", slots + 4])
        self.process.wait_until(self.healthy)
        run_alone(self.open([1, 2, 3], 4))

    def healthy(self):
        with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5) as answer:
            return answer.status == 200
        return False

    def open(self, prompt, answer, never=()):
        """As that of Tandem; it knows by itself which tokens are never to come."""
        del never
        return LlamaStream(self.port, "/completion", {"prompt": prompt, "n_predict": answer, "stream": True, "temperature": 0,
                                                      "ignore_eos": True})

    def ask_status(self):
        """It tells of no pages."""

    def statuses(self):
        return []

    def stop(self):
        self.process.stop()


def wait(streams, timeout):
    """Those of the streams that have something to receive, after at most so many seconds (None: as long as it takes)."""
    poller = zmq.Poller()
    for stream in streams:
        poller.register(stream.socket, zmq.POLLIN)
    ready = dict(poller.poll(None if timeout is None else max(0, timeout) * 1000))
    return [stream for stream in streams
            if (stream.socket if isinstance(stream.socket, zmq.Socket) else stream.socket.fileno()) in ready]


def run_alone(stream, seconds=600):
    """The answer of a stream beside which nothing else runs."""
    end = time.monotonic() + seconds
    while not stream.ended:
        if time.monotonic() > end:
            raise Failed(f"no answer within {seconds} s")
        for ready in wait([stream], 1):
            ready.receive()
    stream.close()
    return stream.answer()
