"""The first hour of somebody new: each test is named by the item of what once went wrong."""
import json
import os
import pathlib
import pty
import re
import select
import subprocess
import time

import pytest
import zmq

from conftest import MPIRUN, ROOT, SMOLLM2, TANDEM, run

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
    assert f"tandem: config file {config}: line 2: generate.thread is unknown; did you mean threads?" in wrong_use(TANDEM, "--config", config, *GENERATE[1:])
    environment = {**os.environ, "TANDEM_THREADS": "two"}
    assert wrong_use(*GENERATE, env=environment).startswith("tandem: TANDEM_THREADS: ")


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
        # Refused by name.
        for name, value in {"json_schema": {"type": "object"}, "guided_json": {}, "mirostat": 2, "dry_multiplier": 0.8,
                            "xtc_probability": 0.5, "min_length": 5, "response_format": {"type": "json_object"},
                            "samplers": ["top_k"]}.items():
            refused = ask(**{name: value})
            assert refused["type"] == "error" and refused["code"] == "unimplemented" and name in refused["message"], refused
        # An answer goes on with its beginning, or with what the chat says before one.
        said = plain["text"].rindex(",")  # where a token ends
        begun = [*question["messages"], {"role": "assistant", "content": plain["text"][:said]}]
        assert ask(messages=begun, continue_final_message=True)["text"].startswith(plain["text"][said:])
        assert ask(messages=begun, continue_final_message=True)["usage"]["prompt_tokens"] \
            < ask(messages=begun, add_generation_prompt=False)["usage"]["prompt_tokens"] \
            < ask(messages=begun)["usage"]["prompt_tokens"]
        assert ask(chat_template_kwargs={"a": 1})["text"] == plain["text"]
        assert ask(chat_template_kwargs={"messages": []})["code"] == "invalid_argument"
        repeats = {"max_tokens": 80, "ignore_eos": True}
        assert len({ask(**repeats, **{name: 2})["text"] for name in ("seed", "frequency_penalty", "presence_penalty")}) == 3
        assert ask(frequency_penalty=2.5)["code"] == "invalid_argument"
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
        longer = ask(**short, min_tokens=20)
        assert 20 <= longer["usage"]["completion_tokens"] and longer["text"] == ask(**short, min_new_tokens=20)["text"]
        assert ask(**short, min_tokens=61)["message"] == "min_tokens: 61 is more than max_tokens, 60"
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
        assert status["refused"] == {"invalid_argument": 5, "unimplemented": 8} and status["refused_frames"] == 13
        text = run([TANDEM, "status", "--connect", server.endpoint]).stdout
        assert "13 frames refused (5 invalid_argument, 8 unimplemented)" in text
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


def test_10_flags_have_one_range_everywhere(start_server):
    server = serve(start_server)
    for flags in (["--top-p", 0], ["--top-k", -1], ["--top-k", 2**31 - 1], ["--max-tokens", 2**31 - 1, "--stop", "\n"], ["--min-p", 1],
                  ["--repetition-penalty", 0.01], ["--repetition-penalty", 100], ["--presence-penalty", -2], ["--frequency-penalty", 2], ["--temperature", 100], ["--seed", 2**64 - 1]):
        flags = ["--temperature", 1, "--seed", 1, "--max-tokens", 3, *flags]
        flags = [word for name, value in dict(zip(flags[::2], flags[1::2])).items() for word in (name, value)]  # the last one counts
        assert run([TANDEM, "generate", SMOLLM2, "-p", "Hi", *flags]).returncode == 0
        assert run([TANDEM, "chat", "--connect", server.endpoint, *flags], input="Hi\n").returncode == 0
    with Asker(server.endpoint) as client:
        answer = client.ask({"type": "complete", "id": "a", "prompt": "Hi", "top_p": 0, "top_k": -1, "temperature": 1, "max_tokens": 1})
        assert answer["type"] == "done"
    server.stop()


def test_10_nobody_has_that_name():
    begin = time.monotonic()
    for command in ("chat", "status"):
        result = run([TANDEM, command, "--connect", "tcp://no-such-host.invalid:5555"], timeout=20)
        assert result.returncode == 1 and "the name no-such-host.invalid has no address" in result.stderr, result
        assert result.stderr.count("\n") == 1
    assert time.monotonic() - begin < 9  # of the 10 s for which a server that is not there is tried


def test_01_memory_that_is_limited(tmp_path):
    """The KV cache takes a part of what this process may have, and says what it could not have."""
    assert run([*limited("-v", 1_000_000), *GENERATE]).returncode == 0
    refused = run([*limited("-v", 1_000_000), *GENERATE, "--kv-memory", "4GiB"])
    assert refused.returncode == 1 and "--kv-memory: 4.0 GiB of KV cache" in refused.stderr and "available there" in refused.stderr, refused


def test_02_typos_in_config_files(tmp_path):
    config = tmp_path / "tandem.toml"
    config.write_text("[generate]\nmax-tokens = 1\nMODEL = \"/no/such\"\n")
    by_flag = run([TANDEM, "--config", config, *GENERATE[1:-2]])
    by_variable = run(GENERATE[:-2], env={**os.environ, "TANDEM_CONFIG": str(config)})
    assert by_flag.returncode == by_variable.returncode == 0
    assert by_flag.stdout == by_variable.stdout != run(GENERATE).stdout
    config.write_text("[generate]\nisa = \"sse\"\n")
    assert f"tandem: config file {config}: line 2: generate.isa sse: " in wrong_use(TANDEM, "--config", config, *GENERATE[1:])
    config.write_text("[generate]\nkv-memory = 1\n")
    assert f"tandem: config file {config}: line 2: generate.kv-memory: " in wrong_use(TANDEM, "--config", config, *GENERATE[1:], "-n", 2)
    assert "TANDEM_RANKS: 10 ranks" in wrong_use(*GENERATE, env={**os.environ, "TANDEM_RANKS": "10"})


def test_10_plurals(start_server, tmp_path):
    """Nothing says 1 ranks."""
    wrong = re.compile(r"(?<![\d.])1 (?:[a-z]+ )?(?:byte|file|host|rank|client|answer|conversation|frame|field|time|token|record|block|step|thread|"
                       r"request|tensor|layer|round|sequence|KV head|processor)s\b|(?<![\d.])1 \w+ are\b")
    server = serve(start_server, "--max-clients", 1, "--max-conversations", 1, "--state", tmp_path / "state", "--agent-ttl", 1)
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
    for command in (["generate", SMOLLM2, "-p", "x", "--max-tokens", 2, "-n", 2], ["serve", SMOLLM2, "--kv-memory", 1],
                    ["plan", SMOLLM2, "-n", 2, "--weights", "1"]):
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
                ["template", "MODEL", "-"], ["plan", "MODEL", "-n", 2], ["bench", "MODEL"], ["perplexity", "MODEL", "-f", __file__], ["chat", "MODEL"], ["chat", "MODEL", "-n", 2],
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
    # A hard link is not written to, either: a file of one's own takes its place.
    for path in (state / "lock", agent_log):
        kept = path.rename(tmp_path / "kept")
        path.hardlink_to(victim)
        run([TANDEM, "agent", "stop", "--state", state])
        assert start_server(*serve(state)).stop() == 0
        assert path.stat().st_nlink == 1 and victim.read_text() == "precious"
        path.unlink()
        kept.rename(path)
    (state / "lock").unlink()
    os.mkfifo(state / "lock")
    assert "it is no regular file" in wrong_use(*serve(state), timeout=20)
    assert victim.read_text() == "precious"
