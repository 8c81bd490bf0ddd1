"""What the tests with real processes share: the program, the models, servers that end with their test."""
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import stat
import struct
import subprocess
import threading
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
# Servers of several tests would want one port for HTTP; test_http.py says where.
os.environ.setdefault("TANDEM_HTTP", "off")
# What a dead rank does where nobody starts it again; test_recovery.py and others of its kind say otherwise.
os.environ.setdefault("TANDEM_MAX_RESTARTS", "0")
TANDEM = os.environ.get("TANDEM_PROGRAM", str(ROOT / "build/release/bin/tandem"))
MPIRUN = ["mpirun", "--allow-run-as-root", "--oversubscribe", "--bind-to", "none"]
LAB = str(ROOT / "cluster/lab")


def pytest_addoption(parser):
    parser.addoption("--kills", type=int, default=10,
                     help="how often test_state.py kills everything (default 10; its long form is 200)")
    parser.addoption("--faults", type=int, default=15,
                     help="how many random faults test_recovery.py makes (default 15; its long form is 500)")


def model(file):
    folder = os.environ.get("TANDEM_MODELS") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tandem/models")
    path = os.path.join(folder, file)
    assert os.path.exists(path), f"{path} is missing: run tests/run, which fetches it"
    return path


SMOLLM2 = model("SmolLM2-135M-Instruct.Q4_1.gguf")
GEMMA3 = model("gemma-3-270m-q4_k_m.gguf")


def run(command, timeout=300, **options):
    """Runs to the end; the result has text stdout and stderr."""
    options.setdefault("stdin", subprocess.DEVNULL if "input" not in options else None)
    if options["stdin"] is None:
        del options["stdin"]
    return subprocess.run([str(word) for word in command], capture_output=True, text=True,
                          timeout=timeout, check=False, **options)


def files_in(folder):
    """Files and folders in a folder that is in use: [path, permissions, bytes]; what goes away meanwhile is left out."""
    for parent, folders, files in os.walk(folder):
        for path in (pathlib.Path(parent, name) for name in folders + files):
            with contextlib.suppress(FileNotFoundError):
                facts = path.stat()
                yield path, stat.S_IMODE(facts.st_mode), path.read_bytes() if stat.S_ISREG(facts.st_mode) else b""


def generate(*arguments, prefix=()):
    result = run([*prefix, TANDEM, "generate", *arguments])
    assert result.returncode == 0, result.stderr
    return result.stdout


def generate_json(*arguments, prefix=()):
    return json.loads(generate(*arguments, "--json", prefix=prefix))


class Server:
    """A running `tandem serve` and the endpoint that it told in its log. log: what was looked at of it."""

    def __init__(self, command):
        self.command = [str(word) for word in command]
        self.log = []
        self.endpoint = None
        self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                                        start_new_session=True)
        self.lines = queue.SimpleQueue()  # of the log, then None; it is read whether somebody looks at it or not
        threading.Thread(target=self.read_log, daemon=True).start()

    def read_log(self):
        for line in self.process.stderr:
            self.lines.put(line)
        self.process.stderr.close()
        self.lines.put(None)

    def following_lines(self):
        """Those that nobody has looked at, up to the last one."""
        while (line := self.lines.get()) is not None:
            self.log.append(line)
            yield line
        self.lines.put(None)

    def wait_until_ready(self):
        for line in self.following_lines():
            if match := re.search(r"serving .* on (\S+)$", line):
                self.endpoint = match[1]
                return self
        raise AssertionError(f"{self.command} ended before it served:\n{''.join(self.log)}")

    def ranks(self):
        """Process ids of the ranks, whoever started them."""
        found = []
        for entry in pathlib.Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                environment = (entry / "environ").read_bytes()
                if words[0].endswith((b"tandem", b"tandem_emulated")) and b"OMPI_COMM_WORLD_RANK=" in environment \
                        and os.getsid(int(entry.name)) == os.getsid(self.process.pid):
                    rank = int(re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", environment)[1])
                    found.append((rank, int(entry.name)))
        return [pid for _, pid in sorted(found)]

    def rest_of_log(self):
        for _ in self.following_lines():
            pass
        return "".join(self.log)

    def stop(self, signal_number=signal.SIGTERM, timeout=20):
        if self.process.poll() is None:
            self.process.send_signal(signal_number)
        return self.process.wait(timeout)


def session_processes(session):
    """Processes of a session that are alive, for tests that look for leftovers."""
    alive = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            state = (entry / "stat").read_text().rsplit(")", 1)[1].split()
            if int(state[3]) == session and state[0] != "Z":
                alive.append((int(entry.name), (entry / "cmdline").read_bytes().replace(b"\0", b" ")))
    return alive


def assert_no_leftovers(server, seconds=10):
    end = time.monotonic() + seconds
    while (alive := session_processes(server.process.pid)) and time.monotonic() < end:
        time.sleep(0.1)
    assert not alive


def remove_abandoned_weights(folder):
    """Packed weights in memory of killed agents of states below a folder. (Other tests' agents may be followed by others.)"""
    def is_free(path):
        with contextlib.suppress(OSError):
            file = os.open(path, os.O_RDONLY)
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return True
            finally:
                os.close(file)
        return False

    for lock in folder.rglob("agent.lock"):
        place = lock.parent.stat()
        name = hashlib.blake2b(struct.pack("<QQ", place.st_dev, place.st_ino), digest_size=16).hexdigest()[:16]
        weights = pathlib.Path(f"/dev/shm/tandem-weights-{name}")
        if weights.is_dir() and is_free(weights) and all(is_free(file) for file in weights.iterdir()):
            shutil.rmtree(weights, ignore_errors=True)


@pytest.fixture
def start_server(tmp_path):
    """start_server(*command) gives a ready server; all of them are gone after the test."""
    servers = []

    def start(*command):
        servers.append(Server(command))
        return servers[-1].wait_until_ready()

    yield start
    for server in servers:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, signal.SIGINT)  # at once: SIGTERM would drain
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(10)
        for pid, _ in session_processes(server.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.process.wait()
    remove_abandoned_weights(tmp_path)


@pytest.fixture
def lab(tmp_path):
    """Three hosts; lab("exec", 2, ...) gives the command line."""
    up = run([LAB, "up", 3])
    assert up.returncode == 0, up.stderr
    yield lambda *words: [LAB, *map(str, words)]
    run([LAB, "down"])
    remove_abandoned_weights(tmp_path)


@pytest.fixture(scope="module", autouse=True)
def endpoint_of_protocol_test(request):
    """test_protocol.py knows nothing of how servers are started: it finds one in TANDEM_ENDPOINT."""
    if request.module.__name__ != "test_protocol" or "TANDEM_ENDPOINT" in os.environ:
        yield
        return
    server = Server([TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", "tcp://127.0.0.1:*"])
    os.environ["TANDEM_ENDPOINT"] = server.wait_until_ready().endpoint
    yield
    del os.environ["TANDEM_ENDPOINT"]
    status = server.stop()
    assert status == 0, server.rest_of_log()
