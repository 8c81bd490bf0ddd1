"""The HTTP gateway of real servers: whole and streamed answers, keys, readiness, and the end."""
import http.client
import json
import re
import signal
import socket
import threading

import pytest
from conftest import MPIRUN, SMOLLM2, TANDEM, assert_no_leftovers, generate_json, run

LISTEN = ["--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0"]
HEADERS = {"Content-Type": "application/json", "Authorization": "Bearer k1"}


def serve(start_server, ranks, under_mpirun, *more):
    command = [TANDEM, "serve", SMOLLM2, *LISTEN, *more]
    server = start_server(*((*MPIRUN, "-n", ranks, *command) if under_mpirun else (*command, "-n", ranks)))
    return server, re.search(r"for clients of HTTP: http://(\S+)/v1", "".join(server.log))[1]


def ask(address, method, path, body=None, headers=None):
    connection = http.client.HTTPConnection(address, timeout=60)
    connection.request(method, path, body if body is None else json.dumps(body), HEADERS if headers is None else headers)
    response = connection.getresponse()
    return response.status, response.read().decode()


def events(text):
    return [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]


@pytest.mark.parametrize("ranks, under_mpirun", [(1, False), (2, False), (2, True)])
def test_answers_are_those_of_generate(start_server, tmp_path, ranks, under_mpirun):
    keys, log = tmp_path / "keys", tmp_path / "access.log"
    keys.write_text("k0\nk1\n")
    keys.chmod(0o600)
    server, address = serve(start_server, ranks, under_mpirun, "--api-key-file", keys, "--access-log", log,
                            "--served-name", "small, gpt-4o")
    expected = generate_json(SMOLLM2, "-p", "The capital of France is", "--max-tokens", 12, "--temperature", 0)
    complete = {"model": "gpt-4o", "prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
    status, text = ask(address, "POST", "/v1/completions", complete)
    assert status == 200, text
    answer = json.loads(text)
    assert answer["choices"][0]["text"] == expected["text"]
    assert answer["usage"]["completion_tokens"] == 12
    status, text = ask(address, "POST", "/v1/completions", complete | {"stream": True})
    assert status == 200 and text.endswith("data: [DONE]\n\n")
    assert "".join(event["choices"][0]["text"] for event in events(text)) == expected["text"]
    chat = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 8, "temperature": 0}
    status, text = ask(address, "POST", "/v1/chat/completions", chat)
    said = json.loads(text)["choices"][0]["message"]["content"]
    status, text = ask(address, "POST", "/v1/messages", chat)
    assert json.loads(text)["content"][0]["text"] == said
    status, text = ask(address, "POST", "/v1/responses", {"input": "Hi", "max_output_tokens": 8, "temperature": 0})
    assert json.loads(text)["output"][0]["content"][0]["text"] == said
    assert ask(address, "GET", "/ready", headers={})[0] == 200
    assert ask(address, "GET", "/v1/models", headers={})[0] == 401
    assert [entry["id"] for entry in json.loads(ask(address, "GET", "/v1/models")[1])["data"]] == ["small", "gpt-4o"]
    assert "tandem:engine_up" in ask(address, "GET", "/metrics")[1]
    assert ask(address, "POST", "/v1/chat/completions", chat | {"tools": [{"type": "function"}]})[0] == 400
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len(lines) == 10 and lines[0]["completion_tokens"] == 12 and "France" not in log.read_text()
    if not under_mpirun:
        assert server.stop() == 0, server.rest_of_log()
        assert_no_leftovers(server)


def test_stored_responses_outlive_the_server_and_make_room(start_server, tmp_path):
    more = ["--state", tmp_path / "state", "--agent-ttl", 1, "--max-conversations", 1]
    server, address = serve(start_server, 1, False, *more)
    ask_for = {"input": "Hi", "max_output_tokens": 4, "temperature": 0}
    ids = [json.loads(ask(address, "POST", "/v1/responses", ask_for)[1])["id"] for _ in range(2)]
    assert [ask(address, "GET", f"/v1/responses/{id_}")[0] for id_ in ids] == [404, 200]
    named = {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4, "conversation": "c"}
    assert ask(address, "POST", "/v1/chat/completions", named)[0] == 200, "a response made room"
    assert ask(address, "POST", "/v1/responses", ask_for)[0] == 429, "a conversation with a name does not"
    assert server.stop() == 0
    server, address = serve(start_server, 1, False, *more)
    assert ask(address, "GET", f"/v1/responses/{ids[1]}")[0] == 404
    assert ask(address, "POST", "/v1/chat/completions", named)[0] == 200
    assert server.stop() == 0


def test_sigterm_completes_a_stream_that_has_begun(start_server):
    server, address = serve(start_server, 1, False)
    begun, result = threading.Event(), {}

    def stream():
        connection = http.client.HTTPConnection(address, timeout=60)
        body = {"prompt": "One, two,", "max_tokens": 200, "ignore_eos": True, "stream": True}
        connection.request("POST", "/v1/completions", json.dumps(body), HEADERS)
        response = connection.getresponse()
        first = response.readline()
        begun.set()
        result["text"] = (first + response.read()).decode()

    client = threading.Thread(target=stream)
    client.start()
    assert begun.wait(60)
    server.process.send_signal(signal.SIGTERM)
    client.join(60)
    assert result["text"].endswith("data: [DONE]\n\n")
    assert server.process.wait(15) == 0, server.rest_of_log()


def test_where_the_default_address_is_taken_it_goes_on_without(start_server):
    """It listens there by itself; a second server warns, and one that was told to does not start."""
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", 8080))
            taken.listen()
        except OSError:
            pass  # somebody has it already
        server = start_server("env", "-u", "TANDEM_HTTP", TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*")
        assert "goes on without HTTP" in "".join(server.log)
        assert server.stop() == 0
        told = run([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:8080"])
        assert told.returncode == 1 and "--http 127.0.0.1:8080: cannot listen there" in told.stderr, told.stderr


def test_keys_that_others_may_read_are_refused(tmp_path):
    keys = tmp_path / "keys"
    keys.write_text("k\n")
    keys.chmod(0o644)
    result = run([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0", "--api-key-file", keys])
    assert result.returncode == 2 and f"chmod 600 {keys}" in result.stderr, result.stderr


@pytest.mark.parametrize("more, message", [
    (["--http", "nowhere"], "--http nowhere: expected ADDRESS:PORT"),
    (["--http", "127.0.0.1:0", "--api-key-file", "/nonexistent"], "--api-key-file: "),
    (["--http", "127.0.0.1:0", "--access-log", "/nonexistent/log"], "--access-log /nonexistent/log: it cannot"),
])
def test_wrong_options_are_told_before_weights_are_read(more, message):
    result = run([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", *more])
    assert result.returncode == 2 and message in result.stderr, result.stderr


def test_requests_that_can_never_be_answered_are_not_to_be_sent_again(start_server):
    """Of many long prompts each one is too long; and messages may be more than a template works with."""
    _, address = serve(start_server, 1, False)
    for path, body in [("/v1/completions", {"prompt": ["word and other " * 7000] * 64, "max_tokens": 1}),
                       ("/v1/chat/completions", {"messages": [{"role": "user", "content": ""}] * 200_000, "max_tokens": 1}),
                       ("/apply-template", {"messages": [{"role": "user", "content": ""}] * 200_000})]:
        status, text = ask(address, "POST", path, body)
        assert status == 400 and json.loads(text)["error"]["message"], (path, status, text)


def test_long_texts_delay_nobody_else(start_server):
    _, address = serve(start_server, 1, False)
    text = "word and other " * 500_000
    long = [("/tokenize", {"content": text}), ("/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": 1,
                                                                       "context_policy": "shift"})]
    alone = ask(address, "POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 1})
    assert alone[0] == 200
    for path, body in long:
        over = threading.Event()
        client = threading.Thread(target=lambda: (ask(address, "POST", path, body), over.set()))
        client.start()
        answered = 0
        while not over.is_set():
            assert ask(address, "POST", "/v1/completions", {"prompt": "Hi", "max_tokens": 1})[0] == 200
            assert ask(address, "POST", "/tokenize", {"content": "Hi"})[0] == 200
            answered += 1
        client.join()
        assert answered > 1, path
