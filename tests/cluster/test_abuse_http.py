"""Clients of the HTTP gateway that send what nobody should, or do not read, or are far too many: each gets a status and a line,
and an honest stream beside them says what it says alone."""
import contextlib
import json
import pathlib
import re
import resource
import socket
import struct
import threading
import time

import pytest
from conftest import SMOLLM2, TANDEM, Server

STREAM = {"prompt": "One, two, three,", "max_tokens": 400, "temperature": 0, "ignore_eos": True, "stream": True}


def request(*lines, body=b"", method="POST", path="/v1/completions", host="127.0.0.1"):
    head = [f"{method} {path} HTTP/1.1", f"Host: {host}", *lines]
    return "\r\n".join(head).encode("latin-1") + b"\r\n\r\n" + body


def post(value, *more, **where):
    body = value if isinstance(value, bytes) else json.dumps(value).encode()
    return request("Content-Type: application/json", f"Content-Length: {len(body)}", *more, body=body, **where)


def chunked(body, *more):
    return request("Content-Type: application/json", "Transfer-Encoding: chunked", *more, body=body)


JSON = "Content-Type: application/json"
# What is sent, and the status that comes back.
REFUSED = {
    "no HTTP at all": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), 400),
    "ZeroMQ": (b"\xff\0\0\0\0\0\0\0\x01\x7f\x03\0NULL" + bytes(48), 400),
    "HTTP/2 at once": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
    "a version that is none": (b"GET /v1/models HTTP/9.9\r\nHost: 127.0.0.1\r\n\r\n", 505),
    "no host": (b"GET /v1/models HTTP/1.1\r\n\r\n", 400),
    "two hosts": (request("Host: 127.0.0.1", method="GET", path="/v1/models"), 400),
    "an empty host": (request(method="GET", path="/v1/models", host=""), 403),
    "a foreign host": (request(method="GET", path="/v1/models", host="evil.example"), 403),
    "a foreign host that begins well": (request(method="GET", path="/v1/models", host="127.0.0.1.evil.example"), 403),
    "a foreign origin": (request("Origin: http://evil.example", method="GET", path="/v1/models"), 403),
    "an origin that is none": (post(STREAM, "Origin: null"), 403),
    "a preflight of a foreign page": (request("Origin: http://evil.example", "Access-Control-Request-Method: POST", method="OPTIONS"), 403),
    "a zero byte in a header": (request("X-A: a\0b", method="GET", path="/v1/models"), 400),
    "a zero byte in a header's name": (request("X-\0A: a", method="GET", path="/v1/models"), 400),
    "a zero byte in the path": (request(method="GET", path="/v1/models%00"), 400),
    "a line of its own in a header": (request("X-A: a\rX-B: b", method="GET", path="/v1/models"), 400),
    "a folded header": (request("X-A: a", " b", method="GET", path="/v1/models"), 400),
    "a space before the colon": (request("Content-Length : 0", method="GET", path="/v1/models"), 400),
    "a long path": (request(method="GET", path="/" + "a" * 20000), 431),
    "a long header": (request("X-A: " + "a" * 20000, method="GET", path="/v1/models"), 431),
    "many headers": (request(*(f"X-{i}: a" for i in range(200)), method="GET", path="/v1/models"), 431),
    "two lengths": (request(JSON, "Content-Length: 2", "Content-Length: 3", body=b"{} "), 400),
    "two equal lengths": (request(JSON, "Content-Length: 2", "Content-Length: 2", body=b"{}"), 400),
    "a length beside chunks": (chunked(b"2\r\n{}\r\n0\r\n\r\n", "Content-Length: 2"), 400),
    "a length that is none": (request(JSON, "Content-Length: 5x", body=b"{}   "), 400),
    "a length below zero": (request(JSON, "Content-Length: -5"), 400),
    "a length beyond numbers": (request(JSON, "Content-Length: 99999999999999999999999"), 400),
    "a length beyond the limit": (request(JSON, "Content-Length: 9223372036854775807"), 413),
    "a body of 10 MB": (post(b'{"prompt":"' + b"a" * 10_000_000 + b'"}'), 413),
    "10 MB in chunks": (chunked(b"100000\r\n" + b"a" * (1 << 20) + b"\r\n") + (b"100000\r\n" + b"a" * (1 << 20) + b"\r\n") * 9, 413),
    "chunks that are none": (chunked(b"what\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk beyond numbers": (chunked(b"fffffffffffffffffff\r\n{}\r\n0\r\n\r\n"), 400),
    "a chunk without an end": (chunked(b"2\r\n{}xx0\r\n\r\n"), 400),
    "a chunk's long name": (chunked(b"2;" + b"a" * 40000 + b"\r\n{}\r\n0\r\n\r\n"), 400),
    "long trailers": (chunked(b"2\r\n{}\r\n0\r\nX-A: " + b"a" * 40000 + b"\r\n\r\n"), 400),
    "another coding": (request(JSON, "Transfer-Encoding: gzip, chunked", body=b"0\r\n\r\n"), 400),
    "a packed body": (post(b"\x1f\x8b\x08", "Content-Encoding: gzip"), 415),
    "another type": (request("Content-Type: text/plain", "Content-Length: 2", body=b"{}"), 415),
    "a form": (request("Content-Type: application/x-www-form-urlencoded", "Content-Length: 3", body=b"a=b"), 415),
    "no type": (request("Content-Length: 2", body=b"{}"), 415),
    "an expectation": (post(STREAM, "Expect: the-unexpected"), 417),
    "no JSON": (post(b"{"), 400),
    "no object": (post([1]), 400),
    "bytes that are no text": (post(b'{"prompt":"\xff\xfe"}'), 400),
    "deep JSON": (post(b"[" * 100_000), 400),
    "millions of values": (post(b'{"prompt":"a","x":[' + b"[]," * 2_000_000 + b"[]]}"), 400),
    "a field twice": (post(b'{"prompt":"a","prompt":"b"}'), 400),
    "numbers beyond numbers": (post(b'{"prompt":"a","max_tokens":1e400}'), 400),
    "no route": (request(method="GET", path="/../../etc/passwd"), 404),
    "another method": (request(method="DELETE"), 405),
    "a tunnel": (b"CONNECT example.org:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
}


class Client:
    def __init__(self, address, receive_bytes=None):
        self.socket = socket.socket()
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.settimeout(60)
        self.socket.connect(address)
        self.came = b""

    def send(self, data):
        with contextlib.suppress(ConnectionError):  # the server need not read what it refuses
            self.socket.sendall(data)
        return self

    def statuses(self, count):
        """Of so many whole answers, with the text of each."""
        found = []
        while len(found) < count:
            self.until(b"\r\n\r\n")
            head, self.came = self.came.split(b"\r\n\r\n", 1)
            length = int(re.search(rb"(?i)content-length: (\d+)", head)[1])
            while len(self.came) < length:
                self.more()
            found.append((int(head.split()[1]), self.came[:length]))
            self.came = self.came[length:]
        return found

    def until(self, end):
        while end not in self.came:
            self.more()
        return self.came

    def more(self):
        data = self.socket.recv(1 << 16)
        assert data, f"the connection ended: {self.came[:200]}"
        self.came += data

    def leave(self):
        """With a reset, and what came unread."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.socket.close()


class Gateway:
    def __init__(self, server):
        host, port = re.search(r"for clients of HTTP: http://(\S+):(\d+)/v1", "".join(server.log)).groups()
        self.address, self.pid = (host, int(port)), server.process.pid
        self.alone = self.stream()

    def memory(self):
        return 1024 * int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{self.pid}/status").read_text())[1])

    def client(self, **options):
        return Client(self.address, **options)

    def stream(self):
        client = self.client().send(post(STREAM))
        answer = client.until(b"data: [DONE]").decode()
        client.socket.close()
        return "".join(json.loads(text)["choices"][0]["text"] for text in re.findall(r"data: (\{.*\})", answer))

    @contextlib.contextmanager
    def beside_a_stream(self):
        """Streams go on, one after the other, while the test does its worst; each is right."""
        over, texts = threading.Event(), []

        def honest():
            while not over.is_set():
                texts.append(self.stream())

        thread = threading.Thread(target=honest)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join(120)
        assert texts and set(texts) == {self.alone}
        self.still_serves()

    def still_serves(self):
        """Once those who left are noticed to be gone."""
        status = None
        while status in (None, 503):
            (status, text), = self.client().send(post({"prompt": "Hi", "max_tokens": 1})).statuses(1)
        assert status == 200 and b"text_completion" in text


@pytest.fixture(scope="module")
def gateway():
    server = Server([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"]).wait_until_ready()
    yield Gateway(server)
    assert server.stop() == 0, server.rest_of_log()


def test_what_nobody_should_send_gets_a_status_and_a_line(gateway):
    with gateway.beside_a_stream():
        for name, (data, expected) in REFUSED.items():
            client = gateway.client().send(data)
            (status, text), = client.statuses(1)
            assert status == expected, (name, status, text)
            message = json.loads(text)["error"]["message"]
            assert message and "\n" not in message and len(message) < 500, (name, message)
            client.socket.close()


def test_half_requests_end_after_their_time(gateway):
    halves = [b"GET /v1/mod", b"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le"]
    with gateway.beside_a_stream():
        clients = [gateway.client().send(half) for half in halves]
        gone = [gateway.client().send(half) for half in [*halves, post(STREAM)[:-10], chunked(b"5\r\nab")]]
        for client in gone:
            client.leave()
        for half in [*halves, post(STREAM)[:-10], chunked(b"5\r\nab")]:
            client = gateway.client().send(half)
            client.socket.shutdown(socket.SHUT_WR)
            (status, text), = client.statuses(1)
            assert status == 400 and b"ended in the middle" in text, half
        for client in clients:
            (status, text), = client.statuses(1)
            assert status == 408 and b"in time" in text


def test_upgrades_are_ignored(gateway):
    with gateway.beside_a_stream():
        for upgrade in ("websocket", "h2c", "TLS/1.3, h2c"):
            client = gateway.client().send(request(f"Upgrade: {upgrade}", "Connection: Upgrade", "Sec-WebSocket-Key: AAAA",
                                                   method="GET", path="/v1/models"))
            assert client.statuses(1)[0][0] == 200


def test_pipelined_requests_are_answered_in_order(gateway):
    asks = [{"prompt": f"{word} is", "max_tokens": 2, "temperature": 0, "echo": True} for word in ("One", "Two", "Three", "Four")]
    with gateway.beside_a_stream():
        client = gateway.client().send(b"".join(map(post, asks)) + request(method="GET", path="/nothing"))
        answers = client.statuses(5)
        assert [status for status, _ in answers] == [200] * 4 + [404]
        for ask, (_, text) in zip(asks, answers):
            assert json.loads(text)["choices"][0]["text"].startswith(ask["prompt"])
        for _ in range(20):  # some pipeline and leave
            gateway.client().send(post(STREAM) * 20).leave()
        flood = gateway.client()
        flood.socket.settimeout(0.5)
        with contextlib.suppress(TimeoutError, ConnectionError):  # more than is read ahead
            while True:
                flood.socket.sendall(post(STREAM) * 100)
        flood.leave()


def test_who_pipelines_and_does_not_read_costs_little_memory(gateway):
    asks = request(method="GET", path="/metrics") * 100
    before = gateway.memory()
    with gateway.beside_a_stream():
        client = gateway.client(receive_bytes=4096)
        client.socket.settimeout(2)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(5000):
                client.socket.sendall(asks)
        assert gateway.memory() - before < 32 << 20
        client.leave()


def test_who_reads_a_byte_now_and_then_delays_nobody(gateway):
    with gateway.beside_a_stream():
        slow = [gateway.client(receive_bytes=1024).send(post(STREAM | {"logprobs": 20})) for _ in range(8)]
        for _ in range(3):
            for client in slow:
                assert client.socket.recv(1)
            time.sleep(1)
        for client in slow:
            client.leave()


def test_5000_connections(gateway):
    """Those beyond the limit are told so, and those within it are there. It goes as far as this process may have files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    clients = []
    with gateway.beside_a_stream():
        try:
            for _ in range(min(5000, hard - 200)):
                clients.append(gateway.client())
            for client in clients[4096:]:
                (status, text), = client.statuses(1)
                assert status == 503 and b"too many clients" in text
            for client in clients[:len(clients) // 2:100]:
                assert client.send(request(method="GET", path="/health")).statuses(1)[0][0] == 200
        finally:
            for client in clients:
                client.socket.close()
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
