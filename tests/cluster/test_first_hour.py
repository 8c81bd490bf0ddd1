"""The first hour of somebody new: each test is named by the item of what once went wrong."""
import contextlib
import json
import os
import pathlib
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import sys
import time

import numpy
import pytest
import zmq

from conftest import MPIRUN, ROOT, SMOLLM2, TANDEM, Server, assert_no_leftovers, run, session_processes
from test_state import Client, agents_of

sys.path.insert(0, str(ROOT / "tests/bench"))
import random_model  # noqa: E402 (a script beside this folder)

GENERATE = [TANDEM, "generate", SMOLLM2, "-p", "Once upon a time", "--max-tokens", 3]


def wrong_use(*command, **options):
    """One line on stderr, status 2; the line."""
    result = run(command, **options)
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert result.stderr.startswith("tandem: ") and result.stderr.count("\n") == 1, result.stderr
    return result.stderr


@pytest.mark.parametrize("flag, value", [
    *((flag, value) for flag in ("--temperature", "--top-p", "--min-p", "--repetition-penalty") for value in ("nan", "inf", "-1")),
    ("--kv-memory", "1"), ("--kv-memory", "0"), ("--threads", "1000"), ("--threads", "0"), ("--seed", "-1")])
def test_01_numbers_that_are_none(flag, value):
    assert flag in wrong_use(*GENERATE, flag, value)
    if flag == "--kv-memory":
        assert flag in wrong_use(*GENERATE, flag, value, "-n", 2)


def test_02_typos(tmp_path):
    config = tmp_path / "tandem.toml"
    config.write_text("[generate]\nthread = 1\n")
    assert "generate.thread is unknown; did you mean threads?" in wrong_use(TANDEM, "--config", config, *GENERATE[1:])
    environment = {**os.environ, "TANDEM_THREADS": "two"}
    assert wrong_use(*GENERATE, env=environment).startswith("tandem: TANDEM_THREADS: ")


def tiny_model(path, keys=(), ffn=96, part=0, parts=1, drop=()):
    """A llama of two layers and four heads with random float32 weights; of several parts every tensor is in one of them.
    keys: more (key, type, bytes)."""
    random = numpy.random.default_rng(1)
    dim, vocab = 128, 50
    shapes = {"token_embd.weight": (vocab, dim), "output_norm.weight": (dim,)}
    for layer in range(2):
        shapes |= {f"blk.{layer}.{name}.weight": shape for name, shape in {
            "attn_norm": (dim,), "attn_q": (dim, dim), "attn_k": (dim // 2, dim), "attn_v": (dim // 2, dim), "attn_output": (dim, dim),
            "ffn_norm": (dim,), "ffn_gate": (ffn, dim), "ffn_up": (ffn, dim), "ffn_down": (dim, ffn)}.items()}
    tensors = {name: random.standard_normal(shape).astype(numpy.float32) / 8 for name, shape in shapes.items()}
    tensors = {name: values for i, (name, values) in enumerate(tensors.items()) if i % parts == part and name not in drop}
    numbers = {"block_count": 2, "context_length": 256, "embedding_length": dim, "feed_forward_length": ffn, "attention.head_count": 4,
               "attention.head_count_kv": 2}
    entries = [random_model.entry("general.architecture", random_model.STRING, random_model.text("llama")),
               random_model.entry("llama.attention.layer_norm_rms_epsilon", random_model.FLOAT, struct.pack("<f", 1e-5)),
               *(random_model.entry(f"llama.{key}", random_model.U32, struct.pack("<I", value)) for key, value in numbers.items()),
               *(random_model.entry(*key) for key in keys)]
    if parts > 1:
        entries += [random_model.entry(f"split.{key}", random_model.U32, struct.pack("<I", value))
                    for key, value in {"no": part, "count": parts, "tensors.count": len(shapes)}.items()]
    table, offset = b"", 0
    for name, values in tensors.items():
        table += random_model.text(name) + struct.pack("<I", values.ndim) + struct.pack(f"<{values.ndim}Q", *values.shape[::-1])
        table += struct.pack("<IQ", random_model.F32, offset)
        offset += values.nbytes + len(random_model.padding(values.nbytes))
    header = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries) + table
    data = b"".join(values.tobytes() + random_model.padding(values.nbytes) for values in tensors.values())
    path.write_bytes(header + random_model.padding(len(header)) + data)
    return path


def tokens_of(model, *arguments):
    result = run([TANDEM, "generate", model, "--tokens", "1,2,3", "--max-tokens", 5, "--json", *arguments])
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)["tokens"]


def test_04_metadata(tmp_path):
    whole = tokens_of(tiny_model(tmp_path / "whole.gguf"))
    number, real = random_model.U32, random_model.FLOAT
    for key, kind, value, seen in (("llama.pooling_type", number, struct.pack("<I", 1), "embeddings"),
                                   ("llama.attention.sliding_window", number, struct.pack("<I", 100), "sliding windows"),
                                   ("llama.logit_scale", real, struct.pack("<f", 0.5), "0.5"),
                                   ("llama.use_parallel_residual", random_model.BOOL, b"\1", "true")):
        model = tiny_model(tmp_path / "key.gguf", [(key, kind, value)])
        result = run([TANDEM, "inspect", model])
        assert result.returncode == 1 and f"key '{key}' is" in result.stderr and seen in result.stderr, result
    assert tokens_of(tiny_model(tmp_path / "key.gguf", [("llama.pooling_type", number, struct.pack("<I", 0))])) == whole
    # Of several files the first is given.
    parts = [tiny_model(tmp_path / f"m-{part + 1:05}-of-00003.gguf", part=part, parts=3) for part in range(3)]
    assert tokens_of(parts[0]) == tokens_of(parts[0], "-n", 2) == whole
    assert f"this is part 2 of 3; give the first part, {parts[0]}" in wrong_use(TANDEM, "inspect", parts[1])
    parts[2].unlink()
    result = run([TANDEM, "inspect", parts[0]])
    assert result.returncode == 1 and "(part 3 of 3)" in result.stderr and str(parts[2]) in result.stderr


@pytest.mark.parametrize("ffn", [33, 65, 100])
def test_05_a_rank_with_nothing_to_own(tmp_path, ffn):
    model = tiny_model(tmp_path / "tiny.gguf", ffn=ffn)
    alone = tokens_of(model)
    for ranks in 2, 3, 4:
        assert tokens_of(model, "-n", ranks) == alone
class Asker:
    """A client of the protocol."""

    def __init__(self, endpoint):
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)

    def ask(self, frame, seconds=60):
        """The last frame of the answer."""
        self.socket.send(frame if isinstance(frame, bytes) else json.dumps({"v": 1, **frame}).encode())
        while True:
            assert self.socket.poll(seconds * 1000), frame
            answer = json.loads(self.socket.recv())
            if answer["type"] not in ("accepted", "delta"):
                return answer

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()


def serve(start_server, *more, prefix=()):
    return start_server(*prefix, TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", *more)


def test_03_fields(start_server):
    server = serve(start_server)
    question = {"type": "chat", "messages": [{"role": "user", "content": "Name the planets."}], "max_tokens": 12}
    count = iter(range(1000))
    with Asker(server.endpoint) as client:
        def ask(**fields):
            return client.ask({**question, "id": f"r{next(count)}", **fields})

        plain = ask()
        assert plain["usage"]["completion_tokens"] == 12
        # The case: refused by the name of the first such field.
        case = ask(messages=[*question["messages"], {"role": "assistant", "content": "They are"}], continue_final_message=True,
                   add_generation_prompt=False)
        assert case["code"] == "unimplemented" and "add_generation_prompt" in case["message"]
        for name, value in {"json_schema": {"type": "object"}, "guided_json": {}, "chat_template_kwargs": {"a": 1}, "mirostat": 2,
                            "dry_multiplier": 0.8, "xtc_probability": 0.5, "continue_final_message": True, "min_tokens": 5,
                            "presence_penalty": 0.1, "response_format": {"type": "json_object"}, "samplers": ["top_k"]}.items():
            refused = ask(**{name: value})
            assert refused["type"] == "error" and refused["code"] == "unimplemented" and name in refused["message"], refused
        # Honoured, under names of other servers too.
        assert ask(max_tokens=None, max_completion_tokens=2)["usage"]["completion_tokens"] == 2
        assert ask(max_completion_tokens=3)["code"] == "invalid_argument"
        assert ask(repeat_penalty=1.8)["text"] == ask(repetition_penalty=1.8)["text"] != plain["text"]
        tokens = [token["token"] for token in ask(logprobs=0)["logprobs"]]
        stopped = ask(stop_token_ids=[tokens[5]])
        assert stopped["finish_reason"] == "stop" and stopped["usage"]["completion_tokens"] == tokens.index(tokens[5])
        assert ask(stop_token_ids=[10**6])["code"] == "invalid_argument"
        short = {"messages": [{"role": "user", "content": "Say only: yes"}], "max_tokens": 60}
        assert ask(**short)["finish_reason"] == "stop"
        assert ask(**short, ignore_eos=True)["usage"]["completion_tokens"] == 60
        # At the values at which they ask for nothing, and those that change no answer.
        neutral = ask(model="m", user="u", metadata={}, store=True, service_tier="auto", stream=True, stream_options={}, n=1, tools=[],
                      tool_choice="auto", presence_penalty=0, frequency_penalty=0.0, response_format={"type": "text"}, mirostat=0,
                      mirostat_tau=5.0, typical_p=1, repeat_last_n=64, repeat_penalty=1.0, xtc_probability=0, ignore_eos=False,
                      stop_token_ids=[], chat_template_kwargs={}, add_generation_prompt=True, continue_final_message=False, top_k=-1)
        assert neutral["text"] == plain["text"]
        # Nobody's: counted, and told once.
        for _ in range(2):
            assert ask(**{"max_tokenz": 5, "\x1b[2J" + "x" * 100: 1})["text"] == plain["text"]
        status = client.ask({"type": "status", "id": "s"})
        assert status["unknown_fields"] == 4
        assert status["refused"] == {"invalid_argument": 2, "unimplemented": 12} and status["refused_frames"] == 14
        text = run([TANDEM, "status", "--connect", server.endpoint]).stdout
        assert "14 frames refused (2 invalid_argument, 12 unimplemented)" in text
        assert "4 fields that nobody knows" in text
    server.stop()
    log = server.rest_of_log()
    assert log.count("max_tokenz") == 1 and "\x1b" not in log and "x" * 65 not in log


def pings(endpoint, clients, seconds):
    """How many of so many clients, all there at once, are answered."""
    sockets = [Asker(endpoint) for _ in range(clients)]
    for asker in sockets:
        asker.socket.send(b'{"v":1,"id":"p","type":"ping"}')
    end = time.monotonic() + seconds
    answered = set()
    while len(answered) < clients and time.monotonic() < end:
        for number, asker in enumerate(sockets):
            if number not in answered and asker.socket.poll(5):
                if json.loads(asker.socket.recv())["type"] == "pong":
                    answered.add(number)
    for asker in sockets:
        asker.socket.close()
    return len(answered)


def limited(*limit):
    return ["sh", "-c", f'ulimit {" ".join(map(str, limit))}; exec "$0" "$@"']


def test_07_descriptors(start_server):
    # A soft limit is raised.
    server = serve(start_server, prefix=limited("-Sn", 48))
    assert pings(server.endpoint, 60, 30) == 60
    server.stop()
    assert "descriptor" not in server.rest_of_log()
    # A hard one is for fewer clients, which is told.
    server = serve(start_server, prefix=limited("-n", 48))
    assert 1 <= pings(server.endpoint, 60, 3) < 48
    assert any(pings(server.endpoint, 1, 1) for _ in range(20))  # once those are gone
    server.stop()
    log = server.rest_of_log()
    assert re.search(r"\d+ clients are served at most, instead of 256: this process may have 48 file descriptors", log), log
    # One that is too small for any is refused, in one line.
    for ranks, needed in ((1, 32), (2, 72)):
        result = run([*limited("-n", 24), TANDEM, "serve", SMOLLM2, "-n", ranks, "--listen", "tcp://127.0.0.1:*"], timeout=20)
        assert result.returncode == 1
        assert result.stderr == ("tandem: this process may have 24 file descriptors (ulimit -Hn), and needs "
                                 f"{needed}: raise the limit\n")
    # Where they run out all the same, clients wait, the server rests, and says so once.
    server = serve(start_server)
    descriptors = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    run(["prlimit", "--pid", server.process.pid, f"--nofile={descriptors + 5}:{descriptors + 5}"])
    sockets = [Asker(server.endpoint) for _ in range(20)]
    time.sleep(1)
    before = cpu_seconds(server.process.pid)
    time.sleep(2)
    assert cpu_seconds(server.process.pid) - before < 0.5
    for asker in sockets:
        asker.socket.close()
    assert any(pings(server.endpoint, 3, 2) == 3 for _ in range(20))
    server.stop()
    log = server.rest_of_log()
    assert log.count(f"no file descriptors are left for more clients: this process may have {descriptors + 5}") == 1, log


def cpu_seconds(pid):
    words = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def test_10_frames_that_are_too_large(start_server):
    server = serve(start_server, "--max-message", "64KiB")
    with Asker(server.endpoint) as client:
        text = "x" * 1_000_000
        for frame in ({"id": "first", "type": "ping", "more": text}, {"type": "chat", "id": "second", "messages": [text]},
                      {"type": "ping", "some": {"id": "no"}, "id": "third", "more": text}):
            refused = client.ask(frame)
            assert (refused["code"], refused["id"]) == ("too_large", frame["id"])
        # It comes behind what was received by then, or it is none.
        for frame in ({"type": "ping", "more": text, "id": "late"}, {"id": 7, "more": text}, {"more": {"id": "no", "x": text}}):
            refused = client.ask(frame)
            assert (refused["code"], refused["id"]) == ("too_large", None)
        assert client.ask({"id": "p", "type": "ping"})["type"] == "pong"
        status = client.ask({"type": "status", "id": "s"})
        assert status["refused"] == {"too_large": 6}


def test_10_nobody_there(tmp_path):
    for command in ("chat", "status"):
        with open(tmp_path / "errors", "w+b") as errors:
            begin = time.monotonic()
            process = subprocess.Popen([TANDEM, command, "--connect", "tcp://127.0.0.1:1"], stdin=subprocess.DEVNULL, stderr=errors)
            first = b"tandem: no answer from tcp://127.0.0.1:1 yet; trying for 10 s\n"
            path = pathlib.Path(errors.name)
            while path.read_bytes() != first and time.monotonic() < begin + 5:
                time.sleep(0.05)
            assert path.read_bytes() == first
            assert process.wait(20) == 1
            assert path.read_bytes().count(b"\n") == 2
            assert b"is a server running there?" in path.read_bytes()


def test_10_flags(tmp_path):
    assert "--nonsense is unknown" in wrong_use(TANDEM, "generate", "--nonsense")
    assert "--max-token is unknown (did you mean --max-tokens?)" in wrong_use(TANDEM, "generate", "--max-token", 5)
    assert "--nonsense is unknown" in wrong_use(TANDEM, "--nonsense")
    assert "MODEL is required" in wrong_use(TANDEM, "generate")


def test_10_plurals(start_server, tmp_path):
    """Nothing says 1 ranks."""
    wrong = re.compile(r"(?<![\d.])1 (?:[a-z]+ )?(?:rank|client|answer|conversation|frame|field|time|token|record|block|step|thread|"
                       r"request|tensor|layer|round|sequence|KV head|processor)s\b|(?<![\d.])1 \w+ are\b")
    server = serve(start_server, "--max-clients", 1, "--max-conversations", 1, "--state", tmp_path / "state")
    shown = []
    with Asker(server.endpoint) as client:
        chat = {"type": "chat", "messages": [{"role": "user", "content": "Hi " * 80}], "max_tokens": 1}
        assert client.ask({**chat, "id": "a", "conversation": "one"})["type"] == "done"
        shown.append(client.ask({**chat, "id": "b", "conversation": "two"})["message"])
        with Asker(server.endpoint) as surplus:
            shown.append(surplus.ask({"type": "ping", "id": "p"})["message"])
    time.sleep(0.5)
    shown.append(run([TANDEM, "status", "--connect", server.endpoint]).stdout)
    shown.append(run([TANDEM, "kv", "ls", "--state", tmp_path / "state"]).stdout)
    server.stop()
    shown.append(server.rest_of_log())
    shown.append(run([TANDEM, "kv", "verify", "--state", tmp_path / "state"]).stdout)
    shown.append(run([TANDEM, "bench", SMOLLM2, "--threads", 1, "--rounds", 1, "--prompt", 8, "--gen", 4, "--batch", 1, "--read-memory",
                      "1MiB"]).stdout)
    shown.append(run([TANDEM, "plan", SMOLLM2, "-n", 1]).stdout)
    for command in (["generate", SMOLLM2, "-p", "x", "-n", 2], ["plan", SMOLLM2, "-n", 2, "--weights", "1"]):
        shown.append(run([TANDEM, *command]).stderr)
    for text in shown:
        assert not wrong.search(text), text
    assert "1 client is connected" in shown[1] and "1 conversation is kept" in shown[0] and "state      1 conversation in" in shown[2]


def test_10_readme(start_server):
    """The lines that begin a server work as typed, for root and on few cores, too."""
    readme = (ROOT / "README.md").read_text()
    lines = [line.split("  #")[0].strip() for line in readme.split("## Serving")[1].split("## The parts")[0].splitlines()
             if re.match("    (mpirun .*)?tandem serve MODEL.gguf", line) and "--state" not in line]
    assert len(lines) == 2 and "mpirun" in lines[1]
    folder = pathlib.Path(TANDEM).parent
    for line in lines:
        command = re.sub(r"\bMODEL\.gguf", SMOLLM2, line.split("      ")[0])
        server = start_server("sh", "-c", f"PATH={folder}:$PATH exec {command} --listen 'tcp://127.0.0.1:*'")
        with Asker(server.endpoint) as client:
            assert len(client.ask({"type": "status", "id": "s"})["ranks"]) == 4
        server.stop()


SERVE = [TANDEM, "serve", SMOLLM2]


def ends_before_weights(status, *command):
    result = run(command, timeout=60)
    assert result.returncode == status, result
    assert "loaded in" not in result.stderr and "engine ready" not in result.stderr, result.stderr
    return result.stderr


def test_06_start_checks_before_weights(tmp_path):
    template = tmp_path / "wrong.jinja"
    template.write_text("{% if %}")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        endpoint = f"tcp://127.0.0.1:{taken.getsockname()[1]}"
        for command in (SERVE, [*SERVE, "-n", 2], [*MPIRUN, "-n", 2, *SERVE]):
            assert f"cannot listen on {endpoint}: " in ends_before_weights(1, *command, "--listen", endpoint)
    for command in (SERVE, [*SERVE, "-n", 2], [*MPIRUN, "-n", 2, *SERVE]):
        listen = ["--listen", f"ipc://{tmp_path}/socket"]
        ends_before_weights(2, *command, "--listen", "tcp://127.0.0.1")
        ends_before_weights(2, *command, *listen, "--state", "/dev/null/state")
        assert "wrong.jinja" in ends_before_weights(2, *command, *listen, "--chat-template", template)
        assert not (tmp_path / "socket").exists()
    for ranks in ([], ["-n", 2]):
        assert "wrong.jinja" in ends_before_weights(2, TANDEM, "chat", SMOLLM2, *ranks, "--chat-template", template)


def test_06_start_says_how_to_connect(start_server):
    server = start_server(*SERVE, "--listen", "tcp://localhost:*")
    assert run([TANDEM, "chat", "--connect", server.endpoint, "--max-tokens", 3], input="Hi\n").returncode == 0
    assert server.stop() == 0
    assert f"to chat: tandem chat --connect {server.endpoint}\n" in server.rest_of_log()


@pytest.fixture
def ssh(tmp_path):
    """ssh(script) gives an environment in which that is ssh, and a hostfile with a host that only it reaches."""
    def make(script):
        program = tmp_path / "ssh"
        program.write_text("#!/bin/sh\n" + script)
        program.chmod(0o755)
        (tmp_path / "hosts").write_text("localhost slots=1\nfar-away slots=1\n")
        return {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path)}, tmp_path / "hosts"
    return make


def test_06_start_names_a_host_that_cannot_be_reached(ssh):
    environment, hosts = ssh("echo 'connect to far-away port 22: Connection timed out' >&2; exit 255\n")
    for command in (SERVE, [TANDEM, "chat", SMOLLM2], [TANDEM, "bench", SMOLLM2]):
        result = run([*command, "-n", 2, "--hostfile", hosts], env=environment, timeout=60)
        assert result.returncode == 1
        assert "cannot reach host far-away: connect to far-away port 22: Connection timed out" in result.stderr
        assert result.stderr.count("\n") == 1, result.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_06_start_names_a_host_that_is_silent(ssh, signal_number):
    environment, hosts = ssh("exec sleep 600\n")
    begin = time.monotonic()
    process = subprocess.Popen([*map(str, SERVE), "-n", "2", "--hostfile", hosts], env=environment, stdin=subprocess.DEVNULL,
                               stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        line = process.stderr.readline() if select.select([process.stderr], [], [], 15)[0] else "silence"
        assert "host far-away has not answered for 12 s" in line and time.monotonic() - begin < 15, line
        assert any(b"sleep\0600" in text or b"sleep 600" in text for _, text in session_processes(process.pid))
        process.send_signal(signal_number)
        assert process.wait(15) != 0
        end = time.monotonic() + 15
        while (left := session_processes(process.pid)) and time.monotonic() < end:
            time.sleep(0.1)
        assert not left
    finally:
        for pid, _ in session_processes(process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def descriptors(pid):
    """What the descriptors of a process are: paths, socket:[INODE] and others."""
    for entry in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            yield os.readlink(entry)


def listening(session):
    """(address, port) of all TCP sockets on which processes of a session listen."""
    inodes = {match[1] for pid, _ in session_processes(session) for each in descriptors(pid)
              if (match := re.fullmatch(r"socket:\[(\d+)\]", each))}
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in pathlib.Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            words = line.split()
            if words[3] != "0A" or words[9] not in inodes:  # TCP_LISTEN
                continue
            address, port = words[1].split(":")
            packed = b"".join(bytes.fromhex(address[i:i + 8])[::-1] for i in range(0, len(address), 8))
            yield socket.inet_ntop(family, packed), int(port, 16)


def test_08_ports_are_of_this_host_alone(start_server):
    server = start_server(*SERVE, "-n", 2, "--listen", "tcp://127.0.0.1:*")
    found = list(listening(server.process.pid))
    assert len(found) >= 2 and {address for address, _ in found} <= {"127.0.0.1", "::1"}, found


def test_08_ports_strangers_cost_no_line_each(start_server):
    server = start_server(*SERVE, "-n", 2, "--listen", "tcp://127.0.0.1:*")
    for address, port in listening(server.process.pid):
        here = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
        for number in range(200):
            with contextlib.suppress(OSError), socket.create_connection((here, port), 5) as stranger:
                stranger.sendall(bytes(256) if number % 2 else b"GET / HTTP/1.0\r\n\r\n")
    assert run([TANDEM, "chat", "--connect", server.endpoint, "--max-tokens", 3], input="Hi\n").returncode == 0
    assert server.stop() == 0
    before = len(server.log)
    server.rest_of_log()
    assert len(server.log) - before < 10, server.log


def test_08_ports_no_secret_in_the_environment(start_server):
    server = start_server(*SERVE, "-n", 2, "--listen", "tcp://127.0.0.1:*")
    processes = session_processes(server.process.pid)
    assert len(processes) >= 4, processes
    for pid, command in processes:
        for text in (command, pathlib.Path(f"/proc/{pid}/environ").read_bytes()):
            assert b"TANDEM_LINK" not in text
            assert not re.search(rb"=[0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40}\0", text), text


def held(session):
    """Paths in /tmp and /dev/shm that processes of a session have open or mapped, or listen at."""
    unix = {words[6]: words[7] for line in pathlib.Path("/proc/net/unix").read_text().splitlines() if len(words := line.split()) == 8}
    paths = set()
    for pid, _ in session_processes(session):
        for each in descriptors(pid):
            paths.add(unix.get(each.removeprefix("socket:[").removesuffix("]"), each))
        paths |= set(re.findall(r" (/.*)$", pathlib.Path(f"/proc/{pid}/maps").read_text(), re.MULTILINE))
    return {path for path in paths if path.startswith(("/tmp/", "/dev/shm/")) and os.path.exists(path)}


def kill_all(session):
    for pid, _ in session_processes(session):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def test_08_ports_the_next_start_removes_what_was_left(start_server, monkeypatch, tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    monkeypatch.setenv("TMPDIR", str(place))
    command = [*SERVE, "-n", 2, "--listen", "tcp://127.0.0.1:*"]
    beside = start_server(*command)
    of_beside = held(beside.process.pid)
    server = start_server(*command)
    left = held(server.process.pid) - of_beside
    kill_all(server.process.pid)
    server.process.wait()
    assert_no_leftovers(server)
    assert {path for path in left if os.path.exists(path)}, left
    server = start_server(*command)
    assert not {path for path in left if os.path.exists(path)}
    assert all(os.path.exists(path) for path in of_beside)
    assert run([TANDEM, "chat", "--connect", beside.endpoint, "--max-tokens", 3], input="Hi\n").returncode == 0
    assert server.stop() == 0 and beside.stop() == 0
    assert not list(place.iterdir())
    assert not {path for path in of_beside if os.path.exists(path)}


def test_08_ports_the_next_chat_removes_what_was_left():
    def socket_of(chat):
        return next(path for path in held(os.getsid(chat.pid)) if path.endswith("/server"))
    chat = Terminal(TANDEM, "chat", SMOLLM2)
    chat.shows("> ")
    left = socket_of(chat)
    os.kill(chat.pid, signal.SIGKILL)
    os.waitpid(chat.pid, 0)
    assert os.path.exists(left)
    chat = Terminal(TANDEM, "chat", SMOLLM2)
    chat.shows("> ")
    mine = socket_of(chat)
    assert os.path.exists(mine) and not os.path.exists(os.path.dirname(left))
    chat.end()
    assert not os.path.exists(os.path.dirname(mine))


def test_09_dying_well_mpiruns_words_go_to_a_file(start_server, monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = start_server(*SERVE, "-n", 2, "--listen", "tcp://127.0.0.1:*")
    os.kill(server.ranks()[1], signal.SIGKILL)
    assert server.process.wait(30) == 1
    log = server.rest_of_log()
    for line in log.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d |tandem: ", line), line
    [file] = re.findall(r"warning: what mpirun said is kept in (\S+)$", log, re.MULTILINE)
    assert "exited on signal 9" in pathlib.Path(file).read_text()
    assert re.search(r"rank 1 on host \S+ (was ended by signal 9|died)", log)


def test_09_dying_well_the_agent(start_server, tmp_path):
    state = tmp_path / "state"
    stop = [TANDEM, "agent", "stop", "--state", state]
    command = [*SERVE, "--listen", "tcp://127.0.0.1:*", "--state", state]
    assert re.search(r"^  agent ", run([TANDEM, "--help"]).stdout, re.MULTILINE)
    assert "state" in wrong_use(*stop)
    try:
        server = start_server(*command)
        client = Client(server.endpoint)
        assert client.say("c", "Tell me a long story of a blue bird that flies over the sea.", max_tokens=80)["durable"]
        client.close()
        refused = run(stop)
        assert refused.returncode == 1 and "in use by process" in refused.stderr, refused
        assert server.stop() == 0
        for how_long in ("after its last use", "more"):
            assert f"stays for 600 s {how_long}; end it with: tandem agent stop --state {state}\n" in server.rest_of_log()
        assert len(agents_of(tmp_path)) == 1
        ended = run(stop)
        assert ended.returncode == 0 and "has written what it held" in ended.stdout, ended
        assert not agents_of(tmp_path)
        assert "c" in run([TANDEM, "kv", "ls", "--state", state]).stdout
        ended = run(stop)
        assert ended.returncode == 0 and "no agent keeps KV in " in ended.stdout, ended
    finally:
        for pid in agents_of(tmp_path):
            os.kill(pid, signal.SIGKILL)


def test_10_words(tmp_path):
    # A prompt from a pipe, with and without -p -, in one process and under mpirun.
    text = run(GENERATE).stdout
    for command in ([TANDEM, "generate", SMOLLM2], [TANDEM, "generate", SMOLLM2, "-p", "-"],
                    [*MPIRUN, "-n", 2, TANDEM, "generate", SMOLLM2]):
        assert run([*command, "--max-tokens", 3], input="Once upon a time\n").stdout == text
    assert "needs a prompt" in wrong_use(TANDEM, "generate", SMOLLM2)
    # A seed that was drawn is told, and gives the same text.
    drawn = run([*GENERATE, "--temperature", 1.5])
    seed = re.fullmatch(r"tandem: drew --seed (\d+)\n", drawn.stderr)[1]
    again = run([*GENERATE, "--temperature", 1.5, "--seed", seed])
    assert (again.stdout, again.stderr) == (drawn.stdout, "")
    # What tokenize writes can be read, and piped back.
    words = "Hello \"wörld\" 😀\n\\ 17 \x01"
    table = run([TANDEM, "tokenize", SMOLLM2, words]).stdout
    assert '"Hello"' in table and " 😀" not in table.splitlines()[0]
    assert run([TANDEM, "detokenize", SMOLLM2], input=table).stdout == words
    # Exit status 2: there is no model at that path. 1: its contents are wrong.
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(pathlib.Path(SMOLLM2).read_bytes()[:30_000_000])
    commands = (["generate", "MODEL", "-p", "x"], ["inspect", "MODEL"], ["tokenize", "MODEL", "x"], ["detokenize", "MODEL", "1"],
                ["template", "MODEL", "-"], ["plan", "MODEL", "-n", 2], ["bench", "MODEL"], ["chat", "MODEL"], ["chat", "MODEL", "-n", 2],
                ["serve", "MODEL", "--listen", "tcp://127.0.0.1:*"], ["serve", "MODEL", "-n", 2, "--listen", "tcp://127.0.0.1:*"])
    for command in commands:
        for path, status in (("/no/such.gguf", 2), (__file__, 2), ("/tmp", 2), (damaged, 1)):
            result = run([TANDEM, *(path if word == "MODEL" else word for word in command)])
            assert result.returncode == status, (command, path, result)
            assert str(path) in result.stderr


def test_12_jinja(tmp_path):
    messages = json.dumps([{"role": "user", "content": "x"}])
    template = tmp_path / "template.jinja"
    template.write_text("{{ 'a'*4000000+'b' in 'a'*8000000 }}")
    result = run([TANDEM, "template", SMOLLM2, "-", "--chat-template", template], input=messages, timeout=60)
    assert result.stdout == "False", result
    template.write_bytes(b"one\ntwo \xff")
    assert "line 2: byte 8 of the template, 0xFF, is no UTF-8" in wrong_use(
        TANDEM, "template", SMOLLM2, "-", "--chat-template", template, input=messages)


def full(place, size="64k"):
    """A shell's words that mount a file system there, with nothing free but `size` less what is copied into it."""
    return f"mount -t tmpfs -o size={size},mode=0700 none {place}; "


def fill(place):
    return f"head -c 1G /dev/zero >{place}/fill 2>&-; "


def in_namespace(words, *command):
    if run(["unshare", "-m", "true"]).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    return ["unshare", "-m", "sh", "-c", words + 'exec "$@"', "sh", *command]


@pytest.mark.parametrize("ranks", [1, 2])
def test_13_full_disk_of_the_state(start_server, tmp_path, ranks):
    place = tmp_path / "place"
    place.mkdir()
    command = [*SERVE, "-n", ranks, "--listen", f"ipc://{tmp_path}/socket", "--state", place / "state", "--agent-ttl", 1]
    begin = time.monotonic()
    server = start_server(*in_namespace(full(place) + f"mkdir -m 700 {place}/state; " + fill(place), *command))
    assert time.monotonic() - begin < 15
    log = "".join(server.log)
    assert re.search(r"warning: --state \S+: its disk is full, 0 bytes are free: .*; make room, at least 1 MiB", log), log
    client = Client(server.endpoint)
    done = client.say("c", "Hi")
    assert done["type"] == "done" and not done.get("durable"), done
    client.close()
    assert server.stop() == 0
    # Conversations that are there must not look as if they were gone.
    other = tmp_path / "other"
    server = start_server(*SERVE, "--listen", f"ipc://{tmp_path}/socket", "--state", other, "--agent-ttl", 1)
    client = Client(server.endpoint)
    assert client.say("c", "Hi")["durable"]
    client.close()
    assert server.stop() == 0
    refused = run(in_namespace(full(place, "64m") + f"cp -a {other} {place}/state; rm -f {place}/state/kv/*/agent.sock; " + fill(place), *command))
    assert refused.returncode == 1 and "loaded in" not in refused.stderr, refused.stderr
    assert "conversations that are there cannot be opened" in refused.stderr and "make room" in refused.stderr


def test_13_full_disk_of_temporary_files(start_server, monkeypatch, tmp_path):
    place = tmp_path / "place"
    place.mkdir()
    monkeypatch.setenv("TMPDIR", str(place))
    command = [*SERVE, "-n", 2, "--listen", f"ipc://{tmp_path}/socket"]
    memory = full("/dev/shm") + fill("/dev/shm")
    temporary = full(place) + fill(place)
    for words in (memory, temporary):
        server = start_server(*in_namespace(words, *command))
        client = Client(server.endpoint)
        assert client.say("c", "Hi")["type"] == "done"
        client.close()
        assert server.stop() == 0
        assert not re.search(r"PMIX|ORTE|\[[a-z0-9-]+:\d+\]", server.rest_of_log())
    refused = run(in_namespace(memory + temporary, *command), timeout=60)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused.stderr
    assert f"{place}: No space left on device" in refused.stderr and "make room" in refused.stderr


class Terminal:
    """A program whose standard streams are a terminal."""

    def __init__(self, *command):
        self.seen = ""
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execv(command[0], [str(word) for word in command])

    def shows(self, text, seconds=60):
        end = time.monotonic() + seconds
        while text not in self.seen and time.monotonic() < end:
            if select.select([self.fd], [], [], 0.2)[0]:
                try:
                    self.seen += os.read(self.fd, 1 << 16).decode(errors="replace")
                except OSError:
                    break
        assert text in self.seen, self.seen
        self.seen = self.seen.split(text, 1)[1]

    def types(self, text):
        os.write(self.fd, text.encode())

    def end(self):
        self.types("/quit\n")
        end = time.monotonic() + 20
        while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
            assert time.monotonic() < end
            time.sleep(0.05)
        os.close(self.fd)


def test_14_first_words():
    chat = Terminal(TANDEM, "chat", SMOLLM2, "-n", 2, "--max-tokens", 20)
    chat.shows("on 2 ranks, context 8192 tokens. /help shows the commands")
    chat.types("What is the capital of France?\n")
    chat.shows("> ")
    chat.shows("> ")
    chat.types("/stats\n")
    chat.shows("seed ")  # only what is sampled has one
    chat.end()
    # Greedily this model gets stuck under the template's own system message.
    chat = Terminal(TANDEM, "chat", SMOLLM2, "--temperature", 0)
    chat.shows("> ")
    chat.types("What is the capital of France?\n")
    chat.shows("[stopped: the answer only repeats itself")
    chat.end()
    # A pipe stays as it was: greedy, and the same for everybody.
    answers = {run([TANDEM, "chat", SMOLLM2, "--max-tokens", 20], input="What is the capital of France?\n").stdout
               for _ in range(2)}
    assert len(answers) == 1


def test_11_links_in_the_state_directory(tmp_path, start_server):
    def serve(state):
        return [TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--state", state, "--agent-ttl", 1]

    victim = tmp_path / "victim"
    victim.write_text("precious")
    for name in ("lock", "conversations", "conversations.witness", "kv"):
        state = tmp_path / f"state-{name}"
        state.mkdir(mode=0o700)
        (state / name).symlink_to(victim)
        line = wrong_use(*serve(state))
        assert f"{state / name}: it is a symbolic link" in line
    # Of a state that was in use, and of files that others put there.
    state = tmp_path / "state"
    start_server(*serve(state)).stop()
    (agent_log,) = state.glob("kv/*/agent.log")
    for path in (agent_log, state / "lock", agent_log.with_name("agent.lock"), state / "conversations" / "CURRENT"):
        kept = path.rename(tmp_path / "kept")
        path.symlink_to(victim)
        assert f"{path}: it is a symbolic link" in wrong_use(*serve(state))
        path.unlink()
        if os.geteuid() == 0:
            path.write_text("")
            os.chown(path, 4321, -1)
            assert f"{path}: it belongs to user 4321" in wrong_use(*serve(state))
            path.unlink()
        kept.rename(path)
    (state / "lock").unlink()
    os.mkfifo(state / "lock")
    assert "it is no regular file" in wrong_use(*serve(state), timeout=20)
    assert victim.read_text() == "precious"
