"""Ranks that die while answers of every API are given, whole and streamed: each is complete, and what it would have been."""
import contextlib
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import threading
import time

import pytest
import zmq
from conftest import SMOLLM2, TANDEM, assert_no_leftovers, session_processes

TALE = "Tell me a long story about a lighthouse keeper and a whale."
CHAT = {"messages": [{"role": "user", "content": TALE}], "temperature": 0}
MANY = {"max_tokens": 120, "ignore_eos": True}
# What is sent where; all of it at once.
CALLS = {
    "chat": ("/v1/chat/completions", CHAT | MANY),
    "three drawn answers": ("/v1/chat/completions", CHAT | MANY | {"n": 3, "temperature": 0.9, "seed": 5}),
    "log-probabilities": ("/v1/chat/completions", CHAT | MANY | {"logprobs": True, "top_logprobs": 2}),
    "stop": ("/v1/chat/completions", CHAT | MANY | {"stop": [" the whale", "zzz"]}),
    "prompts": ("/v1/completions", {"prompt": ["One, two,", "Once upon a time"], "n": 2, "temperature": 0.8, "seed": 6, "echo": True,
                                    "logprobs": 1} | MANY),
    "responses": ("/v1/responses", {"input": TALE, "temperature": 0, "max_output_tokens": 120, "ignore_eos": True}),
    "messages": ("/v1/messages", CHAT | MANY),
}


def events(text):
    """Of a stream, without its comments."""
    assert text.endswith("\n\n"), text[-200:]
    blocks = [block for block in text[:-2].split("\n\n") if not block.startswith(":")]
    found = [json.loads(re.search(r"^data: (\{.*\})$", block, re.MULTILINE)[1]) for block in blocks if block != "data: [DONE]"]
    assert not any("error" in event or event.get("type") == "error" for event in found), found[-1]
    return found, blocks[-1]


def joined(one, more):
    """The log-probabilities of /v1/completions are lists side by side, those of a chat a list of objects."""
    if one is None or more is None:
        return one or more
    return {name: one[name] and one[name] + more[name] for name in one}


def choices_of(path, answer, streamed):
    """[(text, finish reason, log-probabilities)], and the usage, of either form."""
    if not streamed:
        answer = json.loads(answer)
        if path == "/v1/messages":
            return [(answer["content"][0]["text"], answer["stop_reason"], None)], answer["usage"]
        if path == "/v1/responses":
            return [(answer["output"][0]["content"][0]["text"], answer["status"], None)], answer["usage"]
        return [(choice["text"] if "text" in choice else choice["message"]["content"], choice["finish_reason"], choice["logprobs"])
                for choice in answer["choices"]], answer["usage"]
    found, last = events(answer)
    if path == "/v1/messages":
        text = "".join(event["delta"]["text"] for event in found if event["type"] == "content_block_delta")
        assert found[-1]["type"] == "message_stop"
        begin = found[0]["message"]["usage"]
        usage = found[-2]["usage"]
        assert begin["input_tokens"] == usage["input_tokens"] + usage["cache_read_input_tokens"] > 0
        return [(text, found[-2]["delta"]["stop_reason"], None)], usage
    if path == "/v1/responses":
        assert [event["sequence_number"] for event in found] == list(range(len(found)))
        text = "".join(event["delta"] for event in found if event["type"] == "response.output_text.delta")
        response = found[-1]["response"]
        assert response["output"][0]["content"][0]["text"] == text
        return [(text, response["status"], None)], response["usage"]
    assert last == "data: [DONE]"
    count = 1 + max(choice["index"] for event in found for choice in event["choices"])
    parts = [["", None, None] for _ in range(count)]
    for event in found:
        for choice in event["choices"]:
            part = parts[choice["index"]]
            part[0] += choice["text"] if "text" in choice else choice["delta"].get("content") or ""
            part[1] = part[1] or choice["finish_reason"]
            part[2] = joined(part[2], choice["logprobs"])
    return [tuple(part) for part in parts], found[-1]["usage"]


def counts(usage):
    """Without what depends on the cache."""
    if "cache_read_input_tokens" in usage:
        return usage["input_tokens"] + usage["cache_read_input_tokens"], usage["output_tokens"]
    return (usage.get("prompt_tokens", usage.get("input_tokens")), usage.get("completion_tokens", usage.get("output_tokens")))


class Call(threading.Thread):
    def __init__(self, address, path, body, streamed):
        super().__init__(daemon=True)
        self.path, self.streamed, self.text, self.status = path, streamed, "", None
        if streamed:
            body = body | {"stream": True}
            if path in ("/v1/chat/completions", "/v1/completions"):
                body["stream_options"] = {"include_usage": True}
        self.connection = http.client.HTTPConnection(address, timeout=120)
        self.connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        self.start()

    def run(self):
        response = self.connection.getresponse()
        self.status = response.status
        while data := response.read1(65536):
            self.text += data.decode("utf-8", "surrogateescape")

    def comments(self):
        return [line for line in self.text.splitlines() if line.startswith(":")] if self.streamed else []

    def outcome(self):
        self.join(150)
        assert self.status == 200, self.text[:500]
        choices, usage = choices_of(self.path, self.text, self.streamed)
        return choices, counts(usage)


def call_all(address):
    return {(name, streamed): Call(address, *CALLS[name], streamed) for name in CALLS for streamed in (False, True)}


def over_zmq(endpoint, fields):
    client = zmq.Context.instance().socket(zmq.DEALER)
    client.linger = 0
    client.connect(endpoint)
    client.send(json.dumps({"v": 1, "type": "chat", "id": "a"} | fields).encode())
    texts = {}
    while True:
        assert client.poll(120_000)
        frame = json.loads(client.recv())
        if frame["type"] == "delta":
            texts[frame.get("index", 0)] = texts.get(frame.get("index", 0), "") + frame["text"]
        elif frame["type"] in ("done", "error"):
            assert frame["type"] == "done", frame
            client.close()
            return [(texts[index], choice["finish_reason"]) for index, choice in enumerate(frame.get("choices", [frame]))]


def serve(start_server, *more, http_at="127.0.0.1:0"):
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", "tcp://127.0.0.1:*", "--http", http_at,
                          "--max-restarts", 1000, *more)
    return server, re.search(r"for clients of HTTP: http://(\S+)/v1", "".join(server.log))[1]


@pytest.fixture(scope="module")
def undisturbed():
    """Outcomes on a server to which nothing happens; each is known once."""
    return {}


def expected_of(undisturbed, start_server):
    if not undisturbed:
        server, address = serve(start_server)
        undisturbed |= {name: call.outcome() for name, call in call_all(address).items()}
        for name in ("chat", "three drawn answers", "stop"):
            choices = over_zmq(server.endpoint, CALLS[name][1])
            assert choices == [choice[:2] for choice in undisturbed[name, False][0]], name
        assert server.stop(signal.SIGINT) == 0
    return undisturbed


def test_whole_and_streamed_answers_are_equal_and_those_of_zeromq(start_server, undisturbed):
    expected = expected_of(undisturbed, start_server)
    for name in CALLS:
        assert expected[name, False] == expected[name, True], name
    assert len(expected["three drawn answers", True][0]) == 3 and len(expected["prompts", True][0]) == 4


@pytest.mark.parametrize("victim, deaths", [(0, 1), (1, 1), (1, 3)])
def test_answers_of_every_api_outlive_ranks(start_server, undisturbed, victim, deaths):
    expected = expected_of(undisturbed, start_server)
    server, address = serve(start_server)
    calls = call_all(address)
    for death in range(deaths):
        end = time.monotonic() + 60
        while not all(len(call.text) > 1000 * (death + 1) for call in calls.values() if call.streamed and call.is_alive()):
            assert time.monotonic() < end
            time.sleep(0.01)
        while len(server.ranks()) < 2:
            time.sleep(0.05)
        os.kill(server.ranks()[victim], signal.SIGKILL)
        time.sleep(1)
    for name, call in calls.items():
        assert call.outcome() == expected[name], name
        assert len(call.comments()) <= deaths and all("started again" in comment for comment in call.comments()), call.comments()
    assert any(call.comments() for call in calls.values())
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert_no_leftovers(server)


def test_what_comes_while_ranks_are_started_again_waits(start_server, undisturbed):
    expected = expected_of(undisturbed, start_server)
    server, address = serve(start_server)
    first = Call(address, *CALLS["chat"], True)
    while len(first.text) < 1000:
        time.sleep(0.01)
    os.kill(server.ranks()[0], signal.SIGKILL)
    while not first.comments():
        time.sleep(0.01)
    begin = time.monotonic()
    later = call_all(address)
    for method, path, status in (("GET", "/health", 200), ("GET", "/ready", 503), ("GET", "/v1/models", 200), ("POST", "/tokenize", 200)):
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request(method, path, '{"prompt":"Hi"}' if method == "POST" else None, {"Content-Type": "application/json"})
        assert connection.getresponse().status == status, path
    assert time.monotonic() - begin < 2
    gone = http.client.HTTPConnection(address, timeout=60)
    gone.request("POST", "/v1/messages", json.dumps(CALLS["messages"][1]), {"Content-Type": "application/json"})
    gone.close()
    assert first.outcome() == expected["chat", True]
    for name, call in later.items():
        assert call.outcome() == expected[name], name
    assert server.stop() == 0, server.rest_of_log()
    assert_no_leftovers(server)


def sockets_of(pid):
    found = set()
    for descriptor in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found |= set(re.findall(r"socket:\[\d+\]", os.readlink(descriptor)))
    return found


def test_ranks_have_no_client_of_the_server(start_server):
    """A connection that the server closes is closed, and a server that is killed leaves its port at once."""
    server, address = serve(start_server)
    host, port = address.split(":")
    clients = [socket.create_connection((host, int(port))) for _ in range(3)]
    os.kill(server.ranks()[1], signal.SIGKILL)
    next(line for line in server.following_lines() if "the ranks are there again" in line)
    others = [pid for pid, _ in session_processes(server.process.pid) if pid != server.process.pid]
    assert len(others) >= 3  # two ranks and mpirun
    for pid in others:
        assert not sockets_of(pid) & sockets_of(server.process.pid), pathlib.Path(f"/proc/{pid}/cmdline").read_bytes()
    server.process.kill()
    for client in clients:
        client.settimeout(5)
        assert client.recv(1) == b""
    again, _ = serve(start_server, http_at=address)
    assert again.stop() == 0


def test_stored_responses_go_on_over_a_death_and_a_restart(start_server, tmp_path):
    more = ["--state", tmp_path / "state", "--agent-ttl", 1]
    server, address = serve(start_server, *more)

    def ask(method, path, body=None):
        connection = http.client.HTTPConnection(address, timeout=120)
        connection.request(method, path, body and json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        return response.status, json.loads(response.read())

    turn = {"input": TALE, "temperature": 0, "max_output_tokens": 150, "ignore_eos": True}
    call = Call(address, "/v1/responses", turn, True)
    while len(call.text) < 5000:
        time.sleep(0.01)
    os.kill(server.ranks()[1], signal.SIGKILL)
    call.join(150)
    posted = events(call.text)[0][-1]["response"]
    status, told = ask("GET", f"/v1/responses/{posted['id']}")
    assert status == 200
    assert all(told[field] == posted[field] for field in ("output", "usage", "status", "incomplete_details", "created_at"))
    follow = {"input": "And then?", "previous_response_id": posted["id"], "temperature": 0, "max_output_tokens": 30, "store": False}
    after_death = ask("POST", "/v1/responses", follow)[1]["output"][0]["content"]
    assert ask("POST", "/v1/responses", follow | {"user": "somebody else"})[0] == 404
    assert server.stop(signal.SIGINT) == 0
    server, address = serve(start_server, *more)
    status, told = ask("GET", f"/v1/responses/{posted['id']}")
    assert status == 200 and told["output"][0]["content"] == posted["output"][0]["content"]
    assert told["usage"] is None, "it is not on disk"
    assert ask("POST", "/v1/responses", follow)[1]["output"][0]["content"] == after_death
    assert ask("GET", f"/v1/responses/{posted['id']}?user=other")[0] == 404
    assert server.stop(signal.SIGINT) == 0
