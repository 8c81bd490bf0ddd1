"""tests/bench/serve and what it is made of, against servers that only answer as the real ones do, at a pace that is known."""
import json
import sys
import xml.etree.ElementTree

import pytest
from conftest import ROOT, run

sys.path.insert(0, str(ROOT / "tests/bench"))
import serve_clients  # noqa: E402  (the folder of the scripts is not on the path before)
import serve_load  # noqa: E402
import serve_scenarios  # noqa: E402
import svg_plot  # noqa: E402

SERVE = [sys.executable, ROOT / "tests/bench/serve"]

# One token a byte; the end token is 2. The first text comes 50 ms after a request, the others 4 ms after one another.
FAKE_TANDEM = f"#!{sys.executable}" + '''
import heapq, http.server, json, os, sys, threading, time
if sys.argv[1] == "tokenize":
    text = sys.stdin.read()
    print(json.dumps({"tokens": [2] if text == "<|im_end|>" and "--special" in sys.argv else [ord(c) % 256 for c in text]}))
    sys.exit()
if sys.argv[1] == "detokenize":
    print(json.dumps({"text": "".join(chr(int(token)) for token in sys.stdin.read().split(","))}))
    sys.exit()
import zmq
FIRST, GAP = 0.05, 0.004
flags = dict(zip(sys.argv[3:-1], sys.argv[4:]))
assert flags["-n"] == "1" and int(flags["--max-running"]) >= 1
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def do_GET(self):
        assert self.path == "/health"
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def chunk(self, data):
        self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(data), data))
    def event(self, choices, usage=None):
        self.chunk(b"data: " + json.dumps({"choices": choices, "usage": usage}).encode() + b"\\n\\n")
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/v1/completions" and request["stream"] and request["stream_options"] == {"include_usage": True}
        assert request["temperature"] == 0 and (len(request["prompt"]) < 20 or request["logit_bias"] == {"2": -100} or not request["cache"])
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        count = request["max_tokens"]
        for i in range(count):
            time.sleep(FIRST if i == 0 else GAP)
            self.event([{"index": 0, "text": 'a"', "finish_reason": None}])
        self.event([{"index": 0, "text": "", "finish_reason": "length"}])
        self.event([], {"prompt_tokens": len(request["prompt"]), "completion_tokens": count})
        self.chunk(b"data: [DONE]\\n\\n")
        self.wfile.write(b"0\\r\\n\\r\\n")
class Server(http.server.ThreadingHTTPServer):
    daemon_threads, request_queue_size = True, 100
if os.environ["TANDEM_HTTP"] != "off":
    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(f"info: for clients of HTTP: http://127.0.0.1:{server.server_port}/v1", file=sys.stderr, flush=True)
router = zmq.Context().socket(zmq.ROUTER)
port = router.bind_to_random_port("tcp://127.0.0.1")
print(f"info: serving fake on tcp://127.0.0.1:{port}", file=sys.stderr, flush=True)
due, steps, running, known, number = [], 0, 0, {}, 0
def send(client, frame):
    router.send_multipart([client, json.dumps(frame, separators=(",", ":")).encode()])
while True:
    if router.poll(max(0, due[0][0] - time.monotonic()) * 1000 if due else None):
        client, raw = router.recv_multipart()
        frame = json.loads(raw)
        if frame["type"] == "status":
            send(client, {"v": 1, "id": frame["id"], "type": "status", "pages": {"total": 100, "used": 2 * running, "cached": 0},
                          "totals": {"steps": steps}})
        elif frame["type"] in ("complete", "chat"):
            if "tokens" in frame:
                read = prompt = len(frame["tokens"])
            else:
                before = known.get(frame.get("conversation"), 0)
                prompt = before + sum(len(message["content"]) for message in frame["messages"]) + 1
                read = prompt - before
            known[frame.get("conversation")] = prompt + frame["max_tokens"]
            if known[frame.get("conversation")] > 20:
                assert frame.get("logit_bias") == {"2": -100} or not frame["cache"], frame
            usage = {"prompt_tokens": prompt, "completion_tokens": frame["max_tokens"], "reused_tokens": 0,
                     "computed_tokens": read + frame["max_tokens"] + 3}
            send(client, {"v": 1, "id": frame["id"], "type": "accepted"})
            now, running = time.monotonic(), running + 1
            for i in range(frame["max_tokens"]):
                number += 1
                heapq.heappush(due, (now + FIRST + i * GAP, number, client,
                                     {"v": 1, "id": frame["id"], "type": "delta", "seq": i, "text": 'a"'}))
            number += 1
            heapq.heappush(due, (now + FIRST + (frame["max_tokens"] - 1) * GAP, number, client,
                                 {"v": 1, "id": frame["id"], "type": "done", "text": "aa", "usage": usage}))
    while due and due[0][0] <= time.monotonic():
        _, _, client, frame = heapq.heappop(due)
        steps, running = steps + (frame["type"] == "delta"), running - (frame["type"] == "done")
        send(client, frame)
'''
FAKE_LLAMA = f"#!{sys.executable}" + '''
import http.server, json, sys, time
flags = dict(zip(sys.argv[1::2], sys.argv[2::2]))
assert int(flags["-c"]) % (256 * int(flags["-np"])) == 0
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def log_message(self, *_):
        pass
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")
    def event(self, **event):
        data = b"data: " + json.dumps(event).encode() + b"\\n\\n"
        self.wfile.write(b"%x\\r\\n%b\\r\\n" % (len(data), data))
    def do_POST(self):
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/completion" and request["ignore_eos"] and request["stream"]
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        count = request["n_predict"]
        for i in range(count):
            time.sleep(0.1 if i == 0 else 0.008)
            self.event(content="b", stop=False)
        self.event(content="", stop=True, tokens_predicted=count, tokens_evaluated=len(request["prompt"]))
        self.wfile.write(b"0\\r\\n\\r\\n")
        self.close_connection = True
http.server.ThreadingHTTPServer(("127.0.0.1", int(flags["--port"])), Handler).serve_forever()
'''


@pytest.fixture
def fakes(tmp_path):
    for name, source in {"tandem": FAKE_TANDEM, "llama-server": FAKE_LLAMA}.items():
        (tmp_path / name).write_text(source)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "model.gguf").touch()
    return tmp_path


def serve(fakes, *arguments):
    return run([*SERVE, "--program", fakes / "tandem", "--model", fakes / "model.gguf", "--llama-server", fakes / "llama-server",
                "--llama-models", fakes / "model.gguf", "--even-if-busy", "--json", fakes / "out.json", *arguments])


def test_chats_are_replayed_against_both_servers(fakes):
    result = serve(fakes, "--rounds", 2, "--chats", 5, "--prompt", 40, "--gen", 60, "--arrival", 0.2, "--plot", fakes / "out.svg")
    assert result.returncode == 0, result.stderr
    assert "| 5 chats of 40 + 60 tokens, arriving within 0.2 s | Tandem | llama.cpp, model.gguf | Tandem / llama.cpp, model.gguf |" \
        in result.stdout
    assert "of 100 pages used at most (all chats have 500 tokens in the end), 300 steps" in result.stdout
    document = json.loads((fakes / "out.json").read_text())
    assert {name: len(rounds) for name, rounds in document["samples"].items()} == {"Tandem": 2, "llama.cpp, model.gguf": 2}
    for name, first, gap in (("Tandem", 0.05, 0.004), ("llama.cpp, model.gguf", 0.1, 0.008)):
        for sample in document["samples"][name]:
            assert sample["tokens"] == 300 and sample["prompt_tokens"] == 200
            assert sample["first_p50"] >= first
            assert [len(chat["pieces"]) for chat in sample["timeline"]] == [60] * 5
            assert all(chat["end"] - chat["sent"] >= first + 59 * gap for chat in sample["timeline"])
            # The load is the same for both, and what it takes at least follows from it.
            sent = [chat["sent"] for chat in sample["timeline"]]
            assert all(late >= due for late, due in zip(sent, serve_load.arrivals(5, 0.2, 1)))
            assert sample["tokens_per_second"] <= 300 / (first + 59 * gap)
    used = [pages for sample in document["samples"]["Tandem"] for _, pages in sample["pages"]["by_time"]]
    assert 2 <= max(used) <= 10 and set(used) <= {0, 2, 4, 6, 8, 10}
    drawn = xml.etree.ElementTree.parse(fakes / "out.svg")
    words = {element.text for element in drawn.iter("{http://www.w3.org/2000/svg}text")}
    assert {"Answers", "Time to first token", "Time between tokens", "KV cache", "Tandem", "llama.cpp, model.gguf"} <= words


def test_chats_go_over_http_too(fakes):
    result = serve(fakes, "--http", "--rounds", 2, "--chats", 4, "--prompt", 30, "--gen", 20, "--arrival", 0.1)
    assert result.returncode == 0, result.stderr
    assert "| Tandem, HTTP | Tandem | Tandem, HTTP / Tandem | llama.cpp, model.gguf | Tandem, HTTP / llama.cpp, model.gguf |" \
        in result.stdout
    samples = json.loads((fakes / "out.json").read_text())["samples"]
    assert {name: len(rounds) for name, rounds in samples.items()} == \
        {"Tandem, HTTP": 2, "Tandem": 2, "llama.cpp, model.gguf": 2}
    for sample in samples["Tandem, HTTP"]:
        assert sample["tokens"] == 80 and sample["prompt_tokens"] == 120 and sample["pages"]["total"] == 100
        assert sample["first_p50"] >= 0.05
        assert [len(chat["pieces"]) for chat in sample["timeline"]] == [20] * 4


def test_first_tokens_come_in_turn_over_both(fakes):
    result = serve(fakes, "--scenario", "first-token", "--rounds", 1, "--chats", 6)
    assert result.returncode == 0, result.stderr
    assert "| 6 prompts of 32 tokens, one after the other | ZeroMQ | HTTP | HTTP - ZeroMQ |" in result.stdout
    sample = json.loads((fakes / "out.json").read_text())["samples"]["Tandem, HTTP"][0]
    assert len(sample["zeromq"]) == len(sample["http"]) == 6
    assert min(sample["zeromq"] + sample["http"]) >= 0.05


def test_connections_that_wait_are_weighed(fakes):
    result = serve(fakes, "--scenario", "connections", "--rounds", 1, "--chats", 50)
    assert result.returncode == 0, result.stderr
    assert "| 50 connections over HTTP that wait: bytes of each | |" in result.stdout
    sample = json.loads((fakes / "out.json").read_text())["samples"]["Tandem, HTTP"][0]
    assert sample["connections"] == 50 and sample["process"] > 0, "a thread each, of this server"


def test_figures_of_known_first_tokens():
    rounds = [{"zeromq": [0.010, 0.020, 0.030], "http": [0.011, 0.022, 0.030]}, {"zeromq": [0.010], "http": [0.013]}]
    figures = serve_scenarios.first_token_figures(rounds)
    assert figures == {"zeromq": pytest.approx(0.015), "http": pytest.approx(0.0175), "difference": pytest.approx(0.0015)}


def test_memory_is_that_of_proc():
    found = serve_scenarios.memory("self")
    assert set(found) == {"process", "buffers", "kernel"}
    assert found["process"] > 1 << 20 and found["kernel"] > 1 << 20 and found["buffers"] >= 0


def test_further_formats_are_tried_once(fakes):
    (fakes / "other.gguf").touch()
    result = serve(fakes, "--rounds", 2, "--chats", 1, "--prompt", 10, "--gen", 20, "--llama-models",
                   f"{fakes / 'model.gguf'},{fakes / 'other.gguf'}")
    assert result.returncode == 0, result.stderr
    rounds = {name: len(rounds) for name, rounds in json.loads((fakes / "out.json").read_text())["samples"].items()}
    assert sorted(rounds.values()) == [1, 2, 2]
    assert "not its best format" in result.stdout


def test_long_prompt_tells_times_beside_and_alone(fakes):
    result = serve(fakes, "--scenario", "long-prompt", "--rounds", 1, "--prompt", 500, "--gen", 20)
    assert result.returncode == 0, result.stderr
    for sample in (rounds[0] for rounds in json.loads((fakes / "out.json").read_text())["samples"].values()):
        assert len(sample["alone"]) >= 19 and len(sample["beside"]) >= 2
        assert sum(sample["beside"]) >= sample["seconds"] - 0.1
    assert "| beside over alone, p99 | " in result.stdout


def test_turns_tell_what_was_computed_over_what_was_new(fakes):
    result = serve(fakes, "--scenario", "turns", "--rounds", 1, "--chats", 3, "--prompt", 30, "--gen", 10)
    assert result.returncode == 0, result.stderr
    turns = json.loads((fakes / "out.json").read_text())["samples"]["Tandem"][0]["turns"]
    assert len(turns) == 3
    assert all(turn["computed"] == turn["new"] + 3 for turn in turns)
    assert turns[2]["prompt"] > turns[1]["prompt"] + turns[1]["answer"]


@pytest.mark.parametrize("arguments, message", [
    (["--threads", 3, "--ranks", 2], "--threads 3 is no multiple of --ranks 2"),
    (["--rounds", 0], "must be at least 1"),
    (["--model", "nothing"], "'nothing' is neither a file nor one of"),
    (["--scenario", "turns", "--plot", "x.svg"], "--plot draws chats and many only"),
    (["--scenario", "turns", "--http"], "--http is for chats and many only"),
    (["--program", "/nowhere/tandem"], "/nowhere/tandem is missing"),
    (["--prompt", 10000000], "is longer than all of"),
])
def test_serve_refuses_wrong_arguments(fakes, arguments, message):
    result = serve(fakes, *arguments)
    assert result.returncode in (1, 2)
    assert message in result.stderr


def test_a_server_that_does_not_start_is_told(fakes):
    (fakes / "llama-server").write_text("#!/bin/sh\necho no such flag; exit 3\n")
    result = serve(fakes, "--rounds", 1, "--chats", 1, "--gen", 2)
    assert result.returncode == 1
    assert "no such flag" in result.stderr and "ended with status 3 before it served" in result.stderr


def test_serve_explains_itself():
    result = run([ROOT / "tests/bench/serve", "--help"])
    assert result.returncode == 0
    assert "usage:" in result.stdout


def test_quantiles():
    assert serve_scenarios.quantile([], 0.5) is None
    assert serve_scenarios.quantile([7], 0.99) == 7
    assert serve_scenarios.quantile([3, 1, 2], 0.5) == 2
    assert serve_scenarios.quantile(range(1, 101), 0.99) == 99
    assert serve_scenarios.quantile(range(1, 201), 0.99) == 198


def test_summary_of_known_times():
    answers = [{"sent": 10.0, "pieces": [10.5, 10.6, 10.8], "end": 10.8, "tokens": 3, "usage": {"prompt_tokens": 5}},
               {"sent": 11.0, "pieces": [12.5], "end": 13.0, "tokens": 2, "usage": {"prompt_tokens": 6}}]
    summary = serve_scenarios.summary(answers, 9.0)
    assert summary == {"first_p50": 0.5, "first_p99": 1.5, "between_p50": pytest.approx(0.1), "between_p99": pytest.approx(0.2),
                       "seconds": 4.0, "tokens": 5, "tokens_per_second": 1.25, "prompt_tokens": 11}


def test_long_prompt_figures_of_known_gaps():
    first = {"alone": [0.01] * 99 + [0.02], "beside": [0.03] * 100, "seconds": 2.0}
    second = {"alone": [0.01] * 100, "beside": [0.02] * 98 + [0.05] * 2, "seconds": 4.0}
    figures = serve_scenarios.long_prompt_figures([first, second])
    assert figures["alone_p50"] == 0.01 and figures["beside_p99"] == 0.03 and figures["seconds"] == 3.0
    assert figures["ratio_p50"] == pytest.approx(2.5) and figures["ratio_p99"] == pytest.approx(4.0)


def http_stream(*reads, kind=serve_clients.LlamaStream):
    stream = kind.__new__(kind)
    stream.sent, stream.reads = 0.0, list(reads)
    return stream


def test_events_of_a_stream_have_the_time_at_which_they_were_whole():
    stream = http_stream((1.0, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1e\r\ndata: {\"content\": \"a\"}\n\n\r\n"
                               b"20\r\ndata: {\"con"),
                         (2.0, b"tent\": \"b}\"}\n\n\r\n"),
                         (3.0, b"40\r\ndata: {\"content\": \"\", \"stop\": true, \"tokens_predicted\": 2, \"tokens_evaluated\": 9}\n\n\r\n"))
    assert stream.answer() == {"sent": 0.0, "pieces": [1.0, 2.0], "end": 3.0, "text": "ab}", "tokens": 2,
                               "usage": {"prompt_tokens": 9}}


def test_completions_are_those_of_the_openai_api():
    stream = http_stream((1.0, b"HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\": [{\"text\": \"a\"}], \"usage\": null}\n\n: comment\n\n"),
                         (2.0, b"data: {\"choices\": [{\"text\": \"\", \"finish_reason\": \"stop\"}]}\n\n"
                               b"data: {\"choices\": [], \"usage\": {\"prompt_tokens\": 3, \"completion_tokens\": 1}}\n\n"),
                         (3.0, b"data: [DONE]\n\n"), kind=serve_clients.CompletionStream)
    assert stream.answer() == {"sent": 0.0, "pieces": [1.0], "end": 3.0, "text": "a", "tokens": 1,
                               "usage": {"prompt_tokens": 3, "completion_tokens": 1}}
    broken = http_stream((1.0, b"HTTP/1.1 200 OK\r\n\r\ndata: {\"choices\": [{\"text\": \"a\"}]}\n\n"),
                         kind=serve_clients.CompletionStream)
    with pytest.raises(serve_clients.Failed, match="did not end"):
        broken.answer()


@pytest.mark.parametrize("read, message", [
    (b"HTTP/1.1 503 Service Unavailable\r\n\r\nbusy", "503"),
    (b"HTTP/1.1 200 OK\r\n\r\ndata: {\"error\": {\"message\": \"too long\"}}\n\n", "too long"),
    (b"HTTP/1.1 200 OK\r\n\r\ndata: {\"content\": \"a\"}\n\n", "did not end"),
])
def test_broken_answers_are_failures(read, message):
    with pytest.raises(serve_clients.Failed, match=message):
        http_stream((1.0, read)).answer()


def test_loads_repeat_and_pieces_differ():
    text = list(range(1000))
    load = serve_load.chats(text, 20, 100, 7, 3.0, 5)
    assert load == serve_load.chats(text, 20, 100, 7, 3.0, 5)
    assert load != serve_load.chats(text, 20, 100, 7, 3.0, 6)
    assert [chat.arrival for chat in load] == sorted(chat.arrival for chat in load)
    assert load[0].arrival == 0 and load[-1].arrival <= 3
    assert len({chat.prompt[0] for chat in load}) == 20
    assert all(chat.prompt == list(range(chat.prompt[0], chat.prompt[0] + 100)) for chat in load)


def test_dense_panels_are_lines_over_even_ticks():
    panel = svg_plot.Panel("T", "x", "y", {"A": [(index / 10, index) for index in range(98)]}, dense=True)
    drawn = xml.etree.ElementTree.fromstring(svg_plot.draw([panel]))
    svg = "{http://www.w3.org/2000/svg}"
    assert list(drawn.iter(f"{svg}circle")) == []
    assert len(next(drawn.iter(f"{svg}polyline")).get("points").split()) == 98
    assert {"0", "2", "4", "6", "8", "10"} <= {element.text for element in drawn.iter(f"{svg}text")}
