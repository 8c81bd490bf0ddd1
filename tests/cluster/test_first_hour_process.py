"""The first hour: what a process is given by whoever starts it: files that are none, outputs that are full or closed, few
descriptors, signals, other users' sockets."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import stat
import subprocess
import tempfile
import termios
import time
import urllib.request

import pytest

from conftest import GEMMA3, SMOLLM2, TANDEM, assert_no_leftovers, run, session_processes
from test_first_hour import Terminal, limited, pings, wrong_use
from test_first_hour_start import SERVE, ends_before_weights, fill, full, held, in_namespace
from test_state import Client, agents_of

GENERATE = [TANDEM, "generate", SMOLLM2, "-p", "Hi", "--max-tokens", 2]


@pytest.fixture
def device(tmp_path):
    """A device like /dev/full."""
    path = tmp_path / "full"
    try:
        os.mknod(path, stat.S_IFCHR | 0o666, os.makedev(1, 7))
        with contextlib.suppress(OSError), open(path, "wb", buffering=0) as file:
            file.write(b"x")
    except PermissionError:
        return pathlib.Path("/dev/full")
    return path


@pytest.fixture
def messages(tmp_path):
    path = tmp_path / "messages.json"
    path.write_text(json.dumps([{"role": "user", "content": "Hi"}]))
    return path


def test_10_files_that_are_none(tmp_path, messages):
    """A directory, a file without an end, a pipe into which nobody writes."""
    def commands(path):
        return ([TANDEM, "--config", path, *GENERATE[1:]], [*SERVE, "--chat-template", path], [TANDEM, "template", SMOLLM2, path],
                [TANDEM, "template", SMOLLM2, messages, "--chat-template", path], [TANDEM, "chat", SMOLLM2, "--chat-template", path])
    for command in commands("/tmp"):
        assert "/tmp: cannot be read: Is a directory" in wrong_use(*command), command
    for command in commands("/dev/zero"):
        assert "/dev/zero: it has more than 64 MiB, or no end" in wrong_use(*command), command
    os.mkfifo(tmp_path / "pipe")
    begin = time.monotonic()
    assert "nothing has come from it for 10 s" in wrong_use(TANDEM, "template", SMOLLM2, tmp_path / "pipe")
    assert time.monotonic() - begin < 20
    assert "--hostfile /tmp: it is a folder, and no file" in wrong_use(*GENERATE, "-n", 2, "--hostfile", "/tmp")
    assert "--hostfile /dev/null: it is a device, and no file" in wrong_use(*GENERATE, "-n", 2, "--hostfile", "/dev/null")
    folder = os.open("/tmp", os.O_RDONLY)
    for command in ([TANDEM, "tokenize", SMOLLM2], [TANDEM, "detokenize", SMOLLM2], [TANDEM, "template", SMOLLM2, "-"],
                    [TANDEM, "generate", SMOLLM2], [TANDEM, "chat", SMOLLM2]):
        assert "standard input: cannot be read: Is a directory" in wrong_use(*command, stdin=folder), command
    os.close(folder)
    # A shell's pipe can be read once.
    result = run(["bash", "-c", 'exec "$0" --config <(printf "[plan]\\nranks = 3\\n") plan "$1" --json', TANDEM, SMOLLM2])
    assert result.returncode == 0 and len(json.loads(result.stdout)["ranks"]) == 3, result
    result = run(["bash", "-c", 'exec "$0" --config <(printf "[plan]\\nrank = 3\\n") plan "$1"', TANDEM, SMOLLM2])
    assert result.returncode == 2 and "plan.rank is unknown; did you mean ranks?" in result.stderr, result


def fails_to_write(output, *command, why="No space left on device", **options):
    result = subprocess.run([str(word) for word in command], stdout=output, stderr=subprocess.PIPE, text=True, timeout=120,
                            check=False, **options)
    lines = [line for line in result.stderr.splitlines(keepends=True) if line.startswith("tandem: ")]
    assert result.returncode == 1 and lines == [f"tandem: standard output cannot be written: {why}\n"], (command, result)


def test_13_output_that_cannot_be_written(tmp_path, device, messages, start_server):
    server = start_server(*SERVE, "--listen", f"ipc://{tmp_path}/socket", "--state", tmp_path / "state", "--agent-ttl", 1)
    short_bench = [TANDEM, "bench", SMOLLM2, "--rounds", 1, "--prompt", 16, "--gen", 8, "--batch", 1]
    perplexity = [TANDEM, "perplexity", SMOLLM2, "-f", __file__, "--context", 64, "--chunks", 1]
    commands = [GENERATE, perplexity, [*perplexity, "--json"], [*GENERATE, "--json"], [*GENERATE, "-n", 2], [TANDEM, "tokenize", SMOLLM2, "Hi"],
                [TANDEM, "detokenize", SMOLLM2, "1000,1001"], [TANDEM, "template", SMOLLM2, messages], [TANDEM, "inspect", SMOLLM2],
                [TANDEM, "inspect", SMOLLM2, "--json"], [TANDEM, "plan", SMOLLM2, "-n", 2], [TANDEM, "plan", SMOLLM2, "-n", 2, "--json"],
                [TANDEM, "status", "--connect", server.endpoint], [TANDEM, "status", "--connect", server.endpoint, "--watch", "--json"],
                [TANDEM, "kv", "ls", "--state", tmp_path / "state"], [TANDEM, "kv", "verify", "--state", tmp_path / "state", "--json"],
                [TANDEM, "--help"], [TANDEM, "serve", "--help"], [TANDEM, "--version"], short_bench, [*short_bench, "-n", 2]]
    with open(device, "wb", buffering=0) as output:
        for command in commands:
            fails_to_write(output, *command)
        fails_to_write(output, TANDEM, "chat", "--connect", server.endpoint, input="Hi\nHo\n")
    # Of a part that is there, too.
    place = tmp_path / "place"
    place.mkdir()
    words = full(place, "8k") + f"exec >{place}/out; "
    fails_to_write(None, *in_namespace(words, TANDEM, "inspect", SMOLLM2, "--json"))
    # Whoever reads no more ends the program without a word.
    result = run(["bash", "-c", '"$0" inspect "$1" | head -c 1; exit ${PIPESTATUS[0]}', TANDEM, SMOLLM2])
    assert (result.stdout, result.stderr) == ("/", "") and result.returncode in (0, 128 + signal.SIGPIPE), result


def test_13_output_of_logits(tmp_path, device):
    result = run([*GENERATE, "--logits", device])
    assert result.returncode == 1 and f"{device}: cannot be written: No space left on device" in result.stderr, result
    assert stat.S_ISCHR(device.stat().st_mode), "a device is not replaced by a file"
    assert not list(tmp_path.glob("*.part"))
    place = tmp_path / "place"
    place.mkdir()
    result = run(in_namespace(full(place), *GENERATE, "--logits", place / "logits.npy"))
    assert result.returncode == 1 and "logits.npy: cannot be written: No space left on device" in result.stderr, result


def test_07_descriptors_that_are_closed(tmp_path):
    for closed in ("2>&- <&-", "<&-", "<&- >&- 2>&-", ">&-"):
        result = run(["sh", "-c", f'"$@" {closed}', "sh", *GENERATE, "-n", 2], timeout=60)
        assert result.returncode == (1 if " >&-" in f" {closed}" else 0), (closed, result)
    result = run(["sh", "-c", '"$@" >&-', "sh", TANDEM, "plan", SMOLLM2, "-n", 2])
    assert result.stderr == "tandem: standard output cannot be written: Bad file descriptor\n", result
    # What a command opens gets none of the three numbers.
    result = run(["sh", "-c", '"$@" <&- >&- 2>&-', "sh", TANDEM, "serve", SMOLLM2, "--listen", "nothing"])
    assert result.returncode == 2
    assert run([TANDEM, "reach"], stdin=subprocess.DEVNULL).returncode == 2


def test_09_dying_well_with_the_terminal(start_server, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for ranks in 1, 2:
        server = start_server(*SERVE, "-n", ranks, "--listen", f"ipc://{tmp_path}/socket")
        files = held(server.process.pid)
        assert files
        assert server.stop(signal.SIGHUP) == 0
        assert_no_leftovers(server)
        assert not list(tmp_path.iterdir()) and not [path for path in files if os.path.exists(path)]
    server = start_server("nohup", *SERVE, "--listen", f"ipc://{tmp_path}/socket")
    server.process.send_signal(signal.SIGHUP)
    assert run([TANDEM, "chat", "--connect", server.endpoint, "--max-tokens", 3], input="Hi\n").returncode == 0
    assert server.stop() == 0


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_09_dying_well_while_loading(tmp_path, signal_number):
    for ranks in 1, 2:
        command = [*SERVE, "-n", ranks, "--listen", f"ipc://{tmp_path}/socket", "--state", tmp_path / f"state{ranks}", "--agent-ttl", 1]
        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for line in process.stderr:
            if "loaded in" in line:
                process.send_signal(signal_number)
                break
        log = process.stderr.read()
        assert process.wait(30) == 1 and log.endswith("tandem: it was told to end before it was ready\n"), (process, log)
    process = subprocess.Popen([str(word) for word in (*GENERATE[:-1], 5000)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert process.stdout.read(1)
    process.send_signal(signal_number)
    assert process.wait(30) == -signal_number


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_09_dying_well_leaves_nothing(tmp_path, monkeypatch, signal_number):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    told = ["--log-level", "info"]
    bench = [TANDEM, "bench", SMOLLM2, "--context", 2048, *told]
    for command, times in ([*GENERATE[:-1], 5000, *told], ("loaded in", "answering")), (bench, ["loaded in"]):
        for when in times:
            words = [str(word) for word in (*command, "-n", 2)]
            process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                       text=True, start_new_session=True)
            if when == "answering":
                assert process.stdout.read(1)
            else:
                assert any("loaded in" in line for line in process.stderr)
            process.send_signal(signal_number)
            assert process.wait(30) == -signal_number
            assert not list(tmp_path.iterdir())
            while any(b"tandem" in text for _, text in session_processes(process.pid)):
                time.sleep(0.05)


def test_09_dying_well_without_a_reader(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for ranks in 1, 2:
        process = subprocess.Popen([str(word) for word in (*GENERATE[:-1], 5000, "-n", ranks)], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE)
        assert process.stdout.read(1)
        process.stdout.close()
        assert process.wait(30) == -signal.SIGPIPE and not list(tmp_path.iterdir())


def test_09_dying_well_of_a_chat(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for ranks in 1, 2:
        for signal_number in signal.SIGTERM, signal.SIGHUP:
            chat = Terminal(TANDEM, "chat", SMOLLM2, "-n", ranks)
            chat.shows("> ")
            folder = os.path.dirname(next(path for path in held(os.getsid(chat.pid)) if path.endswith("/server")))
            # Line editing shows what is typed by itself, from its first prompt on.
            deadline = time.monotonic() + 30
            while termios.tcgetattr(chat.fd)[3] & termios.ECHO:
                assert time.monotonic() < deadline
                time.sleep(0.05)
            os.kill(chat.pid, signal_number)
            assert os.waitstatus_to_exitcode(os.waitpid(chat.pid, 0)[1]) == -signal_number
            assert termios.tcgetattr(chat.fd)[3] & termios.ECHO
            assert not os.path.exists(folder) and not list(tmp_path.iterdir())
            os.close(chat.fd)


@pytest.mark.parametrize("http", ["off", "127.0.0.1:0"])
def test_07_descriptors_before_weights(start_server, tmp_path, http):
    command = [*SERVE, "--listen", f"ipc://{tmp_path}/socket", "--http", http, "--state", tmp_path / "state", "--agent-ttl", 1]
    for ranks in 1, 2:
        said = {ends_before_weights(1, *limited("-n", limit), *command, "-n", ranks).replace(f"have {limit} ", "")
                for limit in (20, 32, 40, 48, 64, 100)}
        assert len(said) == 1, said
        needed = int(re.fullmatch(r"tandem: this process may file descriptors .*, and needs (\d+): raise the limit\n", said.pop())[1])
        assert not agents_of(tmp_path)
        # That is how many suffice.
        server = start_server(*limited("-n", needed), *command, "-n", ranks)
        client = Client(server.endpoint)
        assert client.say("c", "Hi", max_tokens=3)["durable"]
        client.close()
        assert server.stop() == 0
        end = time.monotonic() + 20
        while agents_of(tmp_path) and time.monotonic() < end:
            time.sleep(0.1)
        shutil.rmtree(tmp_path / "state")
    # The number of ranks is checked first.
    for limit in 64, 4096:
        assert "the largest number that works is -n 9" in wrong_use(*limited("-n", limit), *GENERATE, "-n", 65536)


def ports_of(server):
    return [int(match[1]) for line in server.log if (match := re.search(r"(?:http|serving .*)://127\.0\.0\.1:(\d+)(?:/v1)?$", line))]


@pytest.mark.parametrize("limit", [80, 256, 300, 1024])
def test_07_descriptors_are_for_both_front_ends(start_server, limit):
    server = start_server(*limited("-n", limit), *SERVE, "--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0")
    port = ports_of(server)[0]
    clients = min(256, next((int(match[1]) for line in server.log if (match := re.search(r"(\d+) clients are served at most", line))), 256))
    connections = next(int(match[1]) for line in server.log if (match := re.search(r"(\d+) connections over HTTP at most", line)))
    assert clients >= 2 and connections >= 16 and (limit - 64) * 3 // 4 <= clients + connections <= limit, (clients, connections)
    with contextlib.ExitStack() as open_ones:
        for _ in range(connections - 1):
            open_ones.enter_context(socket.create_connection(("127.0.0.1", port), 5))
        assert pings(server.endpoint, min(clients, 100), 30) == min(clients, 100)
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=20) as answer:
            assert answer.status == 200
        for number in ports_of(server) * limit:  # they take no descriptors that the server itself needs
            open_ones.enter_context(socket.create_connection(("127.0.0.1", number), 20))
    assert server.stop() == 0
    assert "no file descriptors are left" not in server.rest_of_log()


def test_07_descriptors_of_clients(start_server, tmp_path):
    state = tmp_path / "state"
    server = start_server(*SERVE, "--listen", f"ipc://{tmp_path}/socket", "--state", state, "--agent-ttl", 600)
    try:
        for command in (["status", "--connect", server.endpoint], ["chat", "--connect", server.endpoint, "--max-tokens", 2],
                        ["kv", "ls", "--state", state], ["agent", "stop", "--state", state]):
            if command[0] == "agent":
                assert server.stop() == 0
            command = [TANDEM, *command]
            for limit in 5, 8, 12:
                result = run([*limited("-n", limit), *command], timeout=9)
                assert result.returncode == 1 and result.stderr.count("\n") == 1, result
                needed = int(re.search(rf"this process may have {limit} file descriptors .*, and needs (\d+)", result.stderr)[1])
            result = run([*limited("-n", needed), *command], input="Hi\n")
            assert result.returncode == 0 and result.stdout, (needed, result)
    finally:
        for pid in agents_of(tmp_path):
            os.kill(pid, signal.SIGKILL)


@pytest.mark.parametrize("ranks", [1, 2])
def test_13_full_disk_is_told_once(start_server, tmp_path, ranks):
    place = tmp_path / "place"
    place.mkdir()
    command = [*SERVE, "-n", ranks, "--listen", f"ipc://{tmp_path}/socket", "--state", place / "state", "--agent-ttl", 1]
    no_files = f"mount -t tmpfs -o size=64m,nr_inodes=8,mode=0700 none {place}; "
    for words, why in ((full(place) + fill(place), "its disk is full, 0 bytes are free"),
                       (no_files, "its disk is full, there is room for 7 files")):
        server = start_server(*in_namespace(words, *command))
        client = Client(server.endpoint)
        assert client.say("c", "Hi", max_tokens=3)["type"] == "done"
        client.close()
        assert server.stop() == 0
        warnings = [line for line in server.rest_of_log().splitlines() if "warning" in line]
        assert len(warnings) == 1 and why in warnings[0] and "make room" in warnings[0], warnings
    # Where no file can be, that is the reason.
    line = ends_before_weights(2, *SERVE, "--listen", f"ipc://{tmp_path}/socket", "--state", "/proc/state")
    assert "/proc/state" in line and "full" not in line and line.count("\n") == 1, line


def test_10_nobody_there_for_another_user(start_server):
    if os.geteuid() != 0:
        pytest.skip("only root can be somebody else")
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        os.chmod(place, 0o755)
        program = shutil.copy(TANDEM, place)
        server = start_server(*SERVE, "--listen", f"ipc://{place}/socket")
        os.chmod(f"{place}/socket", 0o600)
        result = run([program, "status", "--connect", server.endpoint], timeout=9, user=65534, group=65534, extra_groups=[])
        assert result.returncode == 1 and result.stderr.count("\n") == 1, result
        assert f'cannot connect to "ipc://{place}/socket": Permission denied' in result.stderr


def test_06_start_without_ssh(tmp_path):
    """Ranks of this host need none."""
    for name in ("mpirun", "orted"):
        (tmp_path / name).symlink_to(shutil.which(name))
    for environment in ({}, {"PATH": str(tmp_path)}):
        result = run([*GENERATE, "-n", 2], env=environment, timeout=60)
        assert result.returncode == 0 and result.stdout, result
    (tmp_path / "hosts").write_text("localhost slots=1\nfar-away slots=1\n")
    result = run([*GENERATE, "-n", 2, "--hostfile", tmp_path / "hosts"], env={"PATH": str(tmp_path)}, timeout=60)
    assert result.returncode == 1 and "cannot reach host far-away: ssh: No such file or directory" in result.stderr, result


def test_01_nothing_is_no_value(tmp_path):
    """What is empty is told: of a key without a name, nothing would be encrypted."""
    config = tmp_path / "tandem.toml"
    serve = [*SERVE, "--listen", f"ipc://{tmp_path}/socket", "--state", tmp_path / "state"]
    for flag in ("--state-key", "--recover", "--chat-template"):
        assert f"tandem: {flag}: it is empty" in wrong_use(*serve, flag, "")
        variable = "TANDEM_" + flag[2:].upper().replace("-", "_")
        assert f"tandem: {variable}: it is empty" in wrong_use(*serve, env={**os.environ, variable: ""})
        config.write_text(f'[serve]\n\n{flag[2:]} = ""\n')
        line = wrong_use(TANDEM, "--config", config, *serve[1:])
        assert f"config file {config}: line 3: serve.{flag[2:]}: it is empty" in line
    assert not (tmp_path / "state").exists()
    assert "tandem: --watch: it is empty" in wrong_use(TANDEM, "status", "--watch", "")
    for flag in ("--max-tokens", "--kv-memory", "--temperature", "--seed", "--isa", "--weights"):
        assert f"tandem: {flag}: it is empty" in wrong_use(*GENERATE, flag, "")
        variable = "TANDEM_" + flag[2:].upper().replace("-", "_")
        assert f"tandem: {variable}: it is empty" in wrong_use(*GENERATE[:-2], env={**os.environ, variable: ""})
    assert "--watch: '1e-320': expected seconds" in wrong_use(TANDEM, "status", "--watch", "1e-320")
    for command in ([TANDEM, "generate", SMOLLM2, "--tokens"], [TANDEM, "detokenize", SMOLLM2]):
        for tokens in ("1,,2", "1,", ",1", ","):
            assert "comma" in wrong_use(*command, tokens)


def test_10_messages_speak_of_flags(tmp_path):
    assert 'tandem: --listen: cannot listen on "nothing"' in wrong_use(*SERVE, "--listen", "nothing")
    environment = {**os.environ, "TANDEM_CONNECT": "nothing"}
    for command in ("status", "chat"):
        assert 'tandem: --connect: cannot connect to "nothing"' in wrong_use(TANDEM, command, "--connect", "nothing")
        assert 'tandem: TANDEM_CONNECT: cannot connect to "nothing"' in wrong_use(TANDEM, command, env=environment)
    assert "tandem: --tokens: token 49152 is not in the vocabulary" in wrong_use(TANDEM, "generate", SMOLLM2, "--tokens", "1,49152")
    for path, why in (("/no/such/logits.npy", "No such file or directory"), ("/", "it is a directory")):
        ends = wrong_use(*GENERATE, "--logits", path)
        assert f"tandem: --logits {path}: " in ends and why in ends
    assert "is one argument too many" in wrong_use(*GENERATE, "more")
    text = tmp_path / "text"
    text.write_bytes(b"caf\xe9")
    for command in ([TANDEM, "tokenize", SMOLLM2], [TANDEM, "generate", SMOLLM2]):
        with open(text, "rb") as file:
            assert "standard input: byte 3, 0xE9, is no UTF-8" in wrong_use(*command, stdin=file)
    text.write_bytes(b"/stats\ncaf\xe9\n\xff\n")
    with open(text, "rb") as file:
        result = run([TANDEM, "chat", SMOLLM2, "--max-tokens", 2], stdin=file)
    assert result.returncode == 0 and result.stderr.count("tandem: standard input is not all UTF-8") == 1, result


def test_10_what_stands_in_the_place_of_a_socket(tmp_path):
    """It is called by its name, and nobody waits for it."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "file")
    for name in "pipe", "file", "folder", "link":
        path = tmp_path / name
        result = run([*SERVE, "--listen", f"ipc://{path}"])
        assert result.returncode == 1 and f"{path} is a {name}, and no socket; name another path\n" in result.stderr, result
        kind = "file" if name == "link" else name
        for command in "status", "chat":
            line = wrong_use(TANDEM, command, "--connect", f"ipc://{path}", timeout=9)
            assert f"{path} is a {kind}, and no socket; name the one on which a server listens\n" in line
        if name == "folder":
            continue
        # Nor is it a state directory.
        for command in ([*SERVE, "--listen", f"ipc://{tmp_path}/socket"], [TANDEM, "kv", "ls"], [TANDEM, "agent", "stop"]):
            assert f"--state {path}: it is a {kind}, and no folder\n" in wrong_use(*command, "--state", path)


def test_10_plan_takes_as_many_ranks_as_it_is_told_of():
    def ranks(*arguments):
        return len(json.loads(run([TANDEM, "plan", SMOLLM2, "--json", *arguments]).stdout)["ranks"])

    assert ranks() == ranks("-n", 1) == 1
    assert ranks("--weights", "1,1,2") == ranks("--memory", "1GiB,1GiB,1GiB") == ranks("-n", 3) == 3
    assert "2 ranks" in wrong_use(TANDEM, "plan", SMOLLM2, "-n", 2, "--weights", "1,1,2")
    assert wrong_use(TANDEM, "plan", SMOLLM2, "-n", 10).startswith("tandem: ")


def test_10_more_tokens_at_least_than_there_can_be():
    for command in ([TANDEM, "generate", SMOLLM2, "-p", "Hi"], [TANDEM, "chat", SMOLLM2, "--max-tokens", 99999999]):
        line = wrong_use(*command, "--min-tokens", 9999999)
        assert "--min-tokens: 9999999 is more than the context has for an answer: 8192 of its 8192 tokens" in line
    assert "(--max-tokens is 99999999)" in line
    # Of which the prompt takes some.
    line = wrong_use(TANDEM, "generate", SMOLLM2, "--tokens", "1,2,3", "--min-tokens", 8190)
    assert "--min-tokens: 8190 is more than the context has for an answer: 8189 of its 8192 tokens" in line


def test_10_an_answer_without_an_end():
    """Who watches is told how long it can be, and ends it with its figures; who does not, is not."""
    command = [TANDEM, "generate", SMOLLM2, "-p", "Once upon a time"]
    for more in [], ["-n", 2]:
        terminal = Terminal(*command, *more)
        terminal.shows("tandem: the answer may have 8188 tokens (--max-tokens); Ctrl-C ends it\r\n")
        terminal.shows("the city")
        terminal.types("\x03")
        terminal.shows("tandem: stopped after ")
        terminal.shows(" a second\r\n")
        assert os.WTERMSIG(os.waitpid(terminal.pid, 0)[1]) == signal.SIGINT
        os.close(terminal.fd)
    terminal = Terminal(*command, "--max-tokens", 3)
    assert os.waitstatus_to_exitcode(os.waitpid(terminal.pid, 0)[1]) == 0
    assert "tandem: " not in os.read(terminal.fd, 1 << 16).decode()
    os.close(terminal.fd)
    with subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as alone:
        assert alone.stdout.read(10)
        alone.send_signal(signal.SIGINT)
        assert alone.stderr.read() == b"" and alone.wait(20) == -signal.SIGINT


def test_10_a_raw_prompt_needs_no_chat_template():
    result = run([TANDEM, "generate", GEMMA3, "-p", "Hi", "--max-tokens", 2])
    assert result.returncode == 0 and "template" not in result.stderr, result


def test_10_messages_are_for_a_terminal(tmp_path, messages):
    """What a model's template says is shown, and not obeyed."""
    template = tmp_path / "template.jinja"
    template.write_text("{{ raise_exception('a\x1b[2Jb\\nc') }}")
    line = wrong_use(TANDEM, "template", SMOLLM2, messages, "--chat-template", template)
    assert line.endswith("the template refuses these messages: a\\x1b[2Jb\\nc\n")


def test_10_a_drawn_seed_of_a_chat_is_told(start_server, tmp_path):
    server = start_server(*SERVE, "--listen", f"ipc://{tmp_path}/socket")
    for command in ([TANDEM, "chat", "--connect", server.endpoint], [TANDEM, "chat", SMOLLM2]):
        command += ["--max-tokens", 8, "--temperature", 1.5]
        drawn = run(command, input="Hi\n")
        [seed] = re.findall(r"^tandem: drew --seed (\d+)$", drawn.stderr, re.MULTILINE)
        again = run([*command, "--seed", seed], input="Hi\n")
        assert again.stdout == drawn.stdout and "seed" not in again.stderr


def test_10_the_log_level_is_that_of_all_ranks(start_server, tmp_path):
    for command in (GENERATE, [TANDEM, "chat", SMOLLM2, "--max-tokens", 2],
                    [TANDEM, "bench", SMOLLM2, "--prompt", 8, "--gen", 2, "--batch", 1, "--rounds", 1, "--read-memory", "1MiB"],
                    [TANDEM, "perplexity", SMOLLM2, "-f", __file__, "--context", 8, "--chunks", 1]):
        # Of the answer of one command, nobody wants to hear who computed it.
        assert " info: " not in run([*command, "-n", 2], input="Hi\n").stderr
        told = run([*command, "-n", 2, "--log-level", "info"], input="Hi\n").stderr
        assert "info: rank 0 of 2" in told and "info: rank 1 of 2" in told, told
    server = subprocess.Popen([str(word) for word in (*SERVE, "-n", 2, "--log-level", "error", "--listen", f"ipc://{tmp_path}/socket")],
                              stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    assert run([TANDEM, "chat", "--connect", f"ipc://{tmp_path}/socket", "--max-tokens", 2], input="Hi\n").returncode == 0
    server.terminate()
    assert server.stderr.read() == "" and server.wait(20) == 0


def test_10_a_model_that_is_cut_anywhere_is_damaged(tmp_path):
    model = tmp_path / "cut.gguf"
    with open(SMOLLM2, "rb") as whole:
        for size in (4, 5, 7, 8, 24, 1000):
            whole.seek(0)
            model.write_bytes(whole.read(size))
            result = run([TANDEM, "inspect", model])
            assert result.returncode == 1 and f"{model}: truncated: " in result.stderr, result
        whole.seek(0)
        model.write_bytes(whole.read(3))
    assert "is not a GGUF model" in wrong_use(TANDEM, "inspect", model)


def test_09_dying_well_mpirun_takes_no_such_flag(monkeypatch, tmp_path):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    result = run([*GENERATE, "-n", 2, "--mpirun-arguments=--no-such-flag"])
    assert result.returncode == 1 and 'unknown option "--no-such-flag"' in result.stderr
    for line in result.stderr.splitlines():
        assert re.match(r"\d{4}-\d\d-\d\d |tandem: ", line), result
