"""The first hour: how a server starts, which ports it opens, how it ends, and what full disks do to that."""
import contextlib
import os
import pathlib
import re
import select
import shutil
import signal
import socket
import subprocess
import tempfile
import time

import pytest
import zmq

from conftest import MPIRUN, ROOT, SMOLLM2, TANDEM, assert_no_leftovers, run, session_processes
from test_first_hour import Terminal, wrong_use
from test_state import Client, agents_of

SERVE = [TANDEM, "serve", SMOLLM2]


def ends_before_weights(status, *command):
    result = run(command, timeout=60, env={**os.environ, "TANDEM_LOG_LEVEL": "info"})
    assert result.returncode == status, result
    assert "loaded in" not in result.stderr and "engine ready" not in result.stderr, result.stderr
    return result.stderr


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("wrong, words", [
    (["--tokens", "1,49152"], "--tokens: token 49152 is not in the vocabulary"),
    (["--tokens", ",".join(["504"] * 8193)], "the prompt has 8193 tokens"),
    (["--tokens", ",".join(["504"] * 8000), "--min-tokens", "200"], "--min-tokens: 200 is more than the context has"),
])
def test_06_a_prompt_is_checked_before_weights(ranks, wrong, words):
    for command in ([TANDEM, "generate", SMOLLM2], [*MPIRUN, "-n", ranks, TANDEM, "generate", SMOLLM2]):
        ranks_of = ["-n", ranks] if command[0] == TANDEM else []
        assert words in ends_before_weights(2, *command, *wrong, *ranks_of)


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


@contextlib.contextmanager
def starting(environment, hosts):
    """A server of two ranks, of which one is to be on a host that only ssh reaches."""
    process = subprocess.Popen([*map(str, SERVE), "--listen", "tcp://127.0.0.1:*", "-n", "2", "--hostfile", hosts], env=environment,
                               stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        yield process
    finally:
        kill_all(process.pid)
        process.wait()


def assert_leaves_nothing(process, signal_number):
    process.send_signal(signal_number)
    assert process.wait(15) != 0
    end = time.monotonic() + 15
    while (left := session_processes(process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not left


def next_line(process, seconds):
    return process.stderr.readline() if select.select([process.stderr], [], [], seconds)[0] else "silence"


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_06_start_names_a_host_that_is_silent(ssh, signal_number):
    with starting(*ssh("exec sleep 600\n")) as process:
        assert "host far-away has not answered for 12 s" in next_line(process, 15)
        assert any(b"sleep\0600" in text or b"sleep 600" in text for _, text in session_processes(process.pid))
        assert_leaves_nothing(process, signal_number)


def test_06_start_names_a_host_that_does_not_call_back(ssh):
    with starting(*ssh("exit 0\n")) as process:
        line = next_line(process, 20)
        assert "mpirun waits for far-away to call back" in line and "oob_tcp_if_include" in line
        assert "no rank has started within 60 s: mpirun waited for far-away; " in next_line(process, 80)
        assert process.wait(15) == 1
        assert not session_processes(process.pid)


def test_06_start_tells_hosts_by_their_whole_names(ssh):
    environment, hosts = ssh("echo 'no way' >&2; exit 255\n")
    hosts.write_text("far-away.invalid\n")
    result = run([*SERVE, "-n", 2, "--hostfile", hosts], env=environment, timeout=60)
    assert result.returncode == 1 and "cannot reach host far-away.invalid: no way" in result.stderr


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGKILL])
def test_06_start_leaves_nothing_of_the_agent(ssh, signal_number):
    with starting(*ssh("sleep 1234; true\n")) as process:
        end = time.monotonic() + 20
        while not any(b"sleep 1234" in text or b"sleep\x001234" in text for _, text in session_processes(process.pid)):
            assert time.monotonic() < end
            time.sleep(0.1)
        assert_leaves_nothing(process, signal_number)


def test_06_start_checks_flags_before_weights(tmp_path):
    for command in (SERVE, [*SERVE, "-n", 2], [*MPIRUN, "-n", 2, *SERVE]):
        listen = ["--listen", f"ipc://{tmp_path}/socket"]
        assert "--kv-memory: 1 byte is too little" in ends_before_weights(2, *command, *listen, "--kv-memory", 1)
        said = ends_before_weights(1, *command, *listen, "--kv-memory", "1PiB")
        assert "--kv-memory: 1024.0 TiB of KV cache for " in said and said.count("tandem: ") == 1, said
    for command in ([*SERVE, "-n", 2], [*MPIRUN, "-n", 2, *SERVE], [TANDEM, "bench", SMOLLM2, "-n", 2]):
        assert "--control-interface eth77: " in ends_before_weights(2, *command, "--control-interface", "eth77")
    for command in ([*SERVE, "-n", 2], [TANDEM, "chat", SMOLLM2, "-n", 2], [TANDEM, "bench", SMOLLM2, "-n", 2]):
        for path in ("/no/such/hosts", "/tmp"):
            assert f"--hostfile {path}: " in ends_before_weights(2, *command, "--hostfile", path)


def test_06_start_says_whole_sentences_of_mpirun(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    hosts = tmp_path / "hosts"
    for text, why in (("", "due to a failure to allocate nodes to the job, or"), ("localhost slots=many", f"in the hostfile: {hosts}")):
        hosts.write_text(text)
        [line] = ends_before_weights(1, *SERVE, "-n", 2, "--hostfile", hosts, "--listen", f"ipc://{tmp_path}/socket").splitlines()
        assert why in line and "; what mpirun said is kept in " in line, line


def test_06_start_tells_a_log_of_the_build_as_it_goes(tmp_path):
    for folder in "launcher", "build/release", "bin":
        (tmp_path / folder).mkdir(parents=True)
    shutil.copy(ROOT / "launcher/build", tmp_path / "launcher")
    (tmp_path / "build/release/build.ninja").touch()
    cmake = tmp_path / "bin/cmake"
    cmake.write_text("#!/bin/sh\necho '-- found'; echo '[1/20] one'; echo '[2/20] two'; echo 'a warning'\n"
                     "while ! [ -e told ]; do sleep 0.05; done; echo '[20/20] all'; echo 'ninja: no work to do.'; exit 3\n")
    cmake.chmod(0o755)
    process = subprocess.Popen([tmp_path / "launcher/build", "release"], stderr=subprocess.PIPE, text=True,
                               env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}"})
    assert [process.stderr.readline() for _ in range(3)] == ["built 1 of 20\n", "built 2 of 20\n", "a warning\n"]
    (tmp_path / "told").touch()
    assert process.stderr.read() == "built 20 of 20\n" and process.wait(20) == 3


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
            assert not keys_in(text), text


def keys_in(variables):
    """Values of 40 characters of Z85, as CURVE keys are, but for this test's own variables and paths of temporary files."""
    found = re.findall(rb"=([0-9A-Za-z.:+=^!/*?&<>()\[\]{}@%$#-]{40})(?=\0|$)", variables)
    return [each for each in found if not each.startswith(tempfile.gettempdirb() + b"/") and each not in os.environb.values()]


def test_08_ports_a_key_in_an_environment_is_found():
    key = zmq.curve_keypair()[1]
    assert keys_in(b"A=b\0KEY=" + key + b"\0") == keys_in(b"--key=" + key) == [key]
    path = (tempfile.gettempdirb() + b"/tandem-job-ONC7w6/ompi.vm.0/pid.816").ljust(len(key), b"0")  # Open MPI's, where pids are short
    assert not keys_in(b"OMPI_FILE_LOCATION=" + path + b"\0B=c\0")


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
        assert re.match(r"\d{4}-\d\d-\d\d \S+ info: |tandem: ", line), line
    # The death, and where to read more, in one line.
    [file] = re.findall(r"^tandem: rank 1 on host \S+ (?:was ended by signal 9|died) [^;]*; what mpirun said is kept in (\S+)$",
                        log, re.MULTILINE)
    assert "exited on signal 9" in pathlib.Path(file).read_text()


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
