"""Ranks that die while answers stream: the streams pause, and go on with the text that they would have had, byte for byte."""
import contextlib
import http.client
import json
import os
import pathlib
import random
import re
import signal
import threading
import time

import pytest
import zmq
from conftest import SMOLLM2, TANDEM, Server, assert_no_leftovers, run

HOST = os.uname().nodename
STORY = [{"role": "user", "content": "Tell me a long story about a lighthouse keeper and a whale."}]
# What every answer needs to be the same: what was drawn, what was said, what was guessed.
REQUESTS = [
    {"max_tokens": 400},
    {"max_tokens": 300, "temperature": 0.9, "seed": 7},
    {"max_tokens": 200, "temperature": 0.7, "top_p": 0.9, "repetition_penalty": 1.2, "seed": 8},
    {"max_tokens": 150, "n": 2, "temperature": 0.8, "seed": 9},
    {"max_tokens": 150, "logprobs": 2},
    {"max_tokens": 200, "presence_penalty": 0.6, "frequency_penalty": 0.4},
]


class Answer(threading.Thread):
    """A request, and what comes of it."""

    def __init__(self, endpoint, identity, fields, kind="chat"):
        super().__init__(daemon=True)
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.identity = identity.encode()
        self.socket.linger = 0
        self.socket.connect(endpoint)
        self.request = {"v": 1, "type": kind, "id": "a", **({"messages": STORY} if kind == "chat" else {}), **fields}
        self.texts, self.seqs, self.notices, self.last, self.times = {}, [], [], None, []
        self.logprobs = []
        self.cancelled = self.cancel_sent = False
        self.socket.send(json.dumps(self.request).encode())
        self.start()

    def run(self):
        end = time.monotonic() + 240
        while self.last is None and time.monotonic() < end:
            if self.cancelled and not self.cancel_sent:
                self.cancel_sent = True
                self.socket.send(json.dumps({"v": 1, "type": "cancel", "id": "a"}).encode())
            if not self.socket.poll(100):
                continue
            frame = json.loads(self.socket.recv())
            if frame["type"] == "delta":
                self.times.append(time.monotonic())
                self.seqs.append(frame["seq"])
                index = frame.get("index", 0)
                self.texts[index] = self.texts.get(index, "") + frame["text"]
                self.logprobs += frame.get("logprobs", [])
            elif frame["type"] == "notice":
                self.notices.append(frame["message"])
            elif frame["type"] in ("done", "error"):
                self.last = frame
        self.socket.close()

    def cancel(self):
        self.cancelled = True

    def wait_for_deltas(self, count, seconds=60):
        end = time.monotonic() + seconds
        while len(self.times) < count and self.last is None:
            assert time.monotonic() < end, "no deltas"
            time.sleep(0.002)

    def outcome(self, seconds=120):
        """What must be the same in a run that nothing disturbs."""
        self.join(seconds)
        assert self.last is not None, "no end came"
        assert self.last["type"] == "done", self.last
        choices = self.last.get("choices", [self.last])
        assert self.seqs == list(range(len(self.seqs)))  # nothing twice, nothing left out
        for index, choice in enumerate(choices):
            assert self.texts.get(index, "") == choice["text"]
        if "logprobs" in self.request:
            assert self.logprobs == self.last["logprobs"]
        usage = self.last["usage"]
        return ([(choice["text"], choice["finish_reason"], choice.get("logprobs")) for choice in choices],
                usage["prompt_tokens"], usage["completion_tokens"])

    def longest_silence(self):
        return max(later - earlier for earlier, later in zip(self.times, self.times[1:]))


def serve(start_server, *more, ranks=3, restarts=1000):
    return start_server(TANDEM, "serve", SMOLLM2, "-n", ranks, "--listen", "tcp://127.0.0.1:*", "--max-restarts", restarts,
                        *more)


@pytest.fixture(scope="module")
def undisturbed():
    """outcomes(requests) of a server to which nothing happens."""
    known = {}

    def outcomes(requests, *form):
        names = [json.dumps([fields, *form]) for fields in requests]
        missing = [(name, fields) for name, fields in zip(names, requests) if name not in known]
        if missing:
            server = Server([TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", "tcp://127.0.0.1:*", *form]).wait_until_ready()
            try:
                answers = [(name, Answer(server.endpoint, f"u{i}", fields)) for i, (name, fields) in enumerate(missing)]
                for name, answer in answers:
                    known[name] = answer.outcome()
            finally:
                server.stop(signal.SIGINT)
        return [known[name] for name in names]

    return outcomes


def ask(endpoint, kind, seconds=30, **fields):
    with contextlib.closing(zmq.Context.instance().socket(zmq.DEALER)) as client:
        client.linger = 0
        client.connect(endpoint)
        client.send(json.dumps({"v": 1, "type": kind, "id": "q", **fields}).encode())
        assert client.poll(seconds * 1000), f"no answer to {kind}"
        return json.loads(client.recv())


def mpirun_of(server):
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[0].endswith(b"mpirun") and os.getsid(int(entry.name)) == os.getsid(server.process.pid):
                return int(entry.name)
    raise AssertionError("no mpirun")


def wait_for_restarts(server, count, seconds=60):
    end = time.monotonic() + seconds
    while True:
        recovery = ask(server.endpoint, "status")["recovery"]
        if recovery["restarts"] >= count and not recovery["down"]:
            return recovery
        assert time.monotonic() < end, recovery
        time.sleep(0.05)


def victims_of(server, victim):
    if victim == "mpirun":
        return [mpirun_of(server)]
    ranks = server.ranks()
    return ranks if victim == "all" else [ranks[victim]]


@pytest.mark.parametrize("ranks,victim", [(3, 0), (3, 1), (3, 2), (3, "mpirun"), (3, "all"), (2, 1), (5, 3)])
def test_streams_go_on_after_a_kill(start_server, undisturbed, ranks, victim):
    server = serve(start_server, ranks=ranks)
    requests = REQUESTS if ranks == 3 else REQUESTS[:2]
    answers = [Answer(server.endpoint, f"c{i}", fields) for i, fields in enumerate(requests)]
    answers[0].wait_for_deltas(20)
    for pid in victims_of(server, victim):
        os.kill(pid, signal.SIGKILL)
    outcomes = [answer.outcome() for answer in answers]
    assert outcomes == undisturbed(requests)
    for answer in answers:
        assert len(answer.notices) == 1, answer.notices
        assert "started again" in answer.notices[0]
    if isinstance(victim, int):
        assert f"rank {victim} on host {HOST}" in answers[0].notices[0]
    recovery = ask(server.endpoint, "status")["recovery"]
    assert recovery["epoch"] == 2 and recovery["restarts"] == 1 and not recovery["down"], recovery
    assert recovery["last"][0]["reason"] in answers[0].notices[0]
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert_no_leftovers(server)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_stopped_rank_is_replaced(start_server, undisturbed, victim):
    server = serve(start_server, "--collective-timeout", 4, ranks=2)
    answers = [Answer(server.endpoint, f"c{i}", fields) for i, fields in enumerate(REQUESTS[:2])]
    answers[0].wait_for_deltas(10)
    pid = server.ranks()[victim]
    os.kill(pid, signal.SIGSTOP)
    begin = time.monotonic()
    recovery = wait_for_restarts(server, 1)
    assert time.monotonic() - begin < 4 + 12  # --collective-timeout, and what a start takes on a machine in use
    assert f"rank {victim} on host {HOST}" in recovery["reason"]
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)  # it comes too late
    assert [answer.outcome() for answer in answers] == undisturbed(REQUESTS[:2])
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert_no_leftovers(server)


def test_ranks_start_again_beside_a_stopped_agent(start_server, undisturbed, tmp_path):
    state = tmp_path / "state"
    server = serve(start_server, "--state", state, "--agent-ttl", 5)
    answer = Answer(server.endpoint, "c", REQUESTS[0])
    answer.wait_for_deltas(10)
    agent, = agents_of(state)
    os.kill(agent, signal.SIGSTOP)
    try:
        os.kill(server.ranks()[1], signal.SIGKILL)
        assert answer.outcome() == undisturbed(REQUESTS[:1])[0]
        assert ask(server.endpoint, "status")["recovery"]["last"][0]["seconds"] < 25, "it is not waited for that long"
    finally:
        os.kill(agent, signal.SIGCONT)
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()


def test_a_long_prompt_is_read_again(start_server, undisturbed):
    words = " ".join(f"Rule {i}: a book of shelf {i} is lent for {i + 3} days." for i in range(1, 150))
    fields = {"messages": [{"role": "user", "content": words + " For how long is a book of shelf 24 lent?"}], "max_tokens": 40}
    server = serve(start_server)
    answer = Answer(server.endpoint, "c", fields)
    for _ in range(2):
        time.sleep(0.3)  # it is read
        os.kill(server.ranks()[1], signal.SIGKILL)
        wait_for_restarts(server, 1)
    assert answer.outcome() == undisturbed([fields])[0]
    assert server.stop(signal.SIGINT) == 0


def test_a_rank_that_dies_while_ranks_are_started_again(start_server, undisturbed):
    server = serve(start_server)
    answer = Answer(server.endpoint, "c", REQUESTS[0])
    answer.wait_for_deltas(10)
    before = server.ranks()
    os.kill(before[1], signal.SIGKILL)
    end = time.monotonic() + 30
    killed = 0
    while killed < 3 and time.monotonic() < end:  # of the new ones, as soon as they are there
        fresh = [pid for pid in server.ranks() if pid not in before]
        if fresh:
            before += fresh
            with contextlib.suppress(ProcessLookupError):
                os.kill(fresh[-1], signal.SIGKILL)
            killed += 1
        time.sleep(0.02)
    assert killed == 3
    assert answer.outcome() == undisturbed(REQUESTS[:1])[0]
    assert ask(server.endpoint, "ping")["ready"]
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert_no_leftovers(server)


def test_requests_that_come_meanwhile_wait(start_server, undisturbed):
    server = serve(start_server)
    for pid in server.ranks():
        os.kill(pid, signal.SIGKILL)
    time.sleep(0.2)
    answers = [Answer(server.endpoint, f"c{i}", fields) for i, fields in enumerate(REQUESTS)]
    pong = ask(server.endpoint, "ping")
    assert pong["type"] == "pong"
    assert [answer.outcome() for answer in answers] == undisturbed(REQUESTS)
    assert server.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("stopped", [False, True])
def test_ctrl_c_after_a_death_leaves_no_shared_memory(start_server, stopped):
    """Ranks that are killed remove nothing themselves, and nobody comes after the last ones."""
    server = serve(start_server)
    Answer(server.endpoint, "c", {"max_tokens": 4000}).wait_for_deltas(5)
    ranks = server.ranks()
    folders = {found for pid in ranks
               for found in re.findall(r"/dev/shm/tandem-rank-\w+", pathlib.Path(f"/proc/{pid}/maps").read_text())}
    assert folders and all(map(os.path.exists, folders)), folders
    os.kill(ranks[1], signal.SIGSTOP if stopped else signal.SIGKILL)
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert not any(map(os.path.exists, folders)), folders
    assert_no_leftovers(server)


def test_deadlines_and_ctrl_c_while_there_are_no_ranks(start_server, tmp_path):
    # mpirun that cannot start keeps them away.
    broken = tmp_path / "bin"
    broken.mkdir()
    fake = broken / "mpirun"
    real = run(["sh", "-c", "command -v mpirun"]).stdout.strip()
    fake.write_text(f"#!/bin/sh\n[ -e {tmp_path}/broken ] && exit 1\nexec {real} \"$@\"\n")
    fake.chmod(0o755)
    path = os.environ["PATH"]
    os.environ["PATH"] = f"{broken}:{path}"
    try:
        server = serve(start_server)
    finally:
        os.environ["PATH"] = path
    waiting = Answer(server.endpoint, "c1", {"max_tokens": 4000})
    late = Answer(server.endpoint, "c2", {"max_tokens": 4000, "deadline": 3})
    waiting.wait_for_deltas(3)
    (tmp_path / "broken").touch()
    os.kill(server.ranks()[0], signal.SIGKILL)
    end = time.monotonic() + 20
    while not waiting.notices and time.monotonic() < end:
        time.sleep(0.01)
    pong = ask(server.endpoint, "ping")
    assert pong["ready"] is False
    status = ask(server.endpoint, "status")
    assert status["recovery"]["down"] and status["recovery"]["reason"], status["recovery"]
    told = run([TANDEM, "status", "--connect", server.endpoint])
    assert "the ranks are being started again" in told.stdout, told
    late.join(20)
    assert late.last["code"] == "deadline_exceeded", late.last
    server.process.send_signal(signal.SIGINT)
    assert server.process.wait(20) == 0, server.rest_of_log()
    assert_no_leftovers(server)


def test_too_many_deaths_end_the_server_with_the_reason(start_server, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    server = serve(start_server, restarts=2)
    answer = Answer(server.endpoint, "c", {"max_tokens": 4000})
    for restart in (1, 2):
        answer.wait_for_deltas(5 * restart)
        os.kill(server.ranks()[1], signal.SIGKILL)
        wait_for_restarts(server, restart)
    time.sleep(0.2)
    os.kill(server.ranks()[2], signal.SIGKILL)
    answer.join(60)
    assert answer.last["type"] == "error" and answer.last["code"] == "unavailable", answer.last
    assert "rank 2" in answer.last["message"] and "--max-restarts" in answer.last["message"], answer.last
    assert server.process.wait(20) == 1
    assert_no_leftovers(server)
    assert not os.listdir(tmp_path), "files that nobody was told of"


def test_kept_kv_is_used_and_conversations_go_on(start_server, tmp_path):
    """With a state directory the long prompt comes back from the agent; also when the agent dies, too."""
    words = " ".join(f"Rule {i}: a book of shelf {i} is lent for {i + 3} days." for i in range(1, 60))
    texts = []
    for disturbed in (False, True):
        state = tmp_path / f"{disturbed}"
        server = serve(start_server, "--state", state)
        turn = Answer(server.endpoint, "c", {"messages": [{"role": "user", "content": words}], "conversation": "talk",
                                             "max_tokens": 24})
        texts.append(turn.outcome()[0])
        if disturbed:
            os.kill(server.ranks()[1], signal.SIGKILL)
        turn = Answer(server.endpoint, "d", {"messages": [{"role": "user", "content": "And a book of shelf 24?"}],
                                             "conversation": "talk", "max_tokens": 300, "temperature": 0.9, "seed": 3})
        if disturbed:
            turn.wait_for_deltas(20)
            agents = list(agents_of(state))
            assert agents
            os.kill(agents[0], signal.SIGKILL)
            turn.wait_for_deltas(40)
            os.kill(server.ranks()[0], signal.SIGKILL)
        texts.append(turn.outcome()[0])
        if disturbed:
            assert turn.last["usage"]["reused_tokens"] > 700, turn.last["usage"]
            assert turn.last["durable"] is True
        turn = Answer(server.endpoint, "e", {"messages": [{"role": "user", "content": "Thank you."}], "conversation": "talk",
                                             "max_tokens": 24})
        texts.append(turn.outcome()[0])
        assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
        run([TANDEM, "agent", "stop", "--state", state])
    assert texts[:3] == texts[3:]


def agents_of(state):
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if b"agent" in words and any(word.startswith(str(state).encode()) for word in words):
                yield int(entry.name)


def test_streams_over_http_go_on_too(start_server):
    server = serve(start_server, "--http", "127.0.0.1:0")
    address = re.search(r"for clients of HTTP: http://(\S+)/v1", "".join(server.log))[1]
    body = json.dumps({"messages": STORY, "max_tokens": 300, "temperature": 0, "stream": True})

    def stream():
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        assert response.status == 200
        return response

    def text_of(lines):
        events = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
        assert lines[-2:] == ["data: [DONE]", ""], lines[-3:]
        return "".join(event["choices"][0]["delta"].get("content") or "" for event in events if event["choices"])

    undisturbed_lines = stream().read().decode().splitlines() + [""]
    response = stream()
    lines = [response.readline().decode().rstrip("\n") for _ in range(40)]
    os.kill(server.ranks()[1], signal.SIGKILL)
    lines += response.read().decode().splitlines() + [""]
    assert text_of(lines[:-1]) == text_of(undisturbed_lines[:-1])
    comments = [line for line in lines if line.startswith(":")]
    assert len(comments) == 1 and f"rank 1 on host {HOST}" in comments[0] and "started again" in comments[0], comments

    def get(path):
        connection = http.client.HTTPConnection(address, timeout=60)
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()

    metrics = get("/metrics")[1]
    assert re.search(r'^tandem:restarts_total\{.*\} 1$', metrics, re.MULTILINE), metrics
    assert re.search(r'^tandem:epoch\{.*\} 2$', metrics, re.MULTILINE)
    assert re.search(r'^tandem:engine_up\{.*\} 1$', metrics, re.MULTILINE)
    assert float(re.search(r'^tandem:recovery_seconds_total\{.*\} (\S+)$', metrics, re.MULTILINE)[1]) > 0.1
    assert get("/ready")[0] == 200
    assert server.stop(signal.SIGINT) == 0


def test_without_restarts_a_death_ends_the_server(start_server):
    server = serve(start_server, restarts=0)
    answer = Answer(server.endpoint, "c", {"max_tokens": 4000})
    answer.wait_for_deltas(5)
    os.kill(server.ranks()[1], signal.SIGKILL)
    answer.join(30)
    assert answer.last["code"] == "unavailable" and not answer.notices
    assert server.process.wait(20) == 1


def test_full_places_for_temporary_files_are_waited_for(start_server, undisturbed, tmp_path):
    """No room for what a job keeps: the ranks come back once there is some."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    assert run(["mount", "-t", "tmpfs", "-o", "size=64M", "tmpfs", disk]).returncode == 0
    before = os.environ.get("TMPDIR")
    os.environ["TMPDIR"] = str(disk)
    try:
        # The other place is full, too: /dev/shm of the server's own mount namespace.
        server = start_server("unshare", "-m", "sh", "-c",
                              f"mount -t tmpfs -o size=64M tmpfs /dev/shm && exec {TANDEM} serve {SMOLLM2} -n 2 "
                              f"--listen tcp://127.0.0.1:* --max-restarts 1000")
        answer = Answer(server.endpoint, "c", REQUESTS[0])
        answer.wait_for_deltas(10)
        inside = f"/proc/{server.process.pid}/root/dev/shm/fill"
        for path in (disk / "fill", pathlib.Path(inside)):
            with contextlib.suppress(OSError), open(path, "wb", 0) as file:
                while file.write(b"x" * 4096):
                    pass
        os.kill(server.ranks()[1], signal.SIGKILL)
        end = time.monotonic() + 30
        while "room" not in (ask(server.endpoint, "status")["recovery"]["reason"] or ""):
            assert time.monotonic() < end, ask(server.endpoint, "status")["recovery"]
            time.sleep(0.05)
        (disk / "fill").unlink()
        pathlib.Path(inside).unlink()
        assert answer.outcome() == undisturbed(REQUESTS[:1])[0]
        assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    finally:
        if before is None:
            del os.environ["TMPDIR"]
        else:
            os.environ["TMPDIR"] = before
        run(["umount", disk])


FORMS = ["dense", "sparse:window=256,global=64", "infini:segment=128"]


@pytest.mark.parametrize("attention", FORMS)
def test_random_faults(start_server, undisturbed, request, tmp_path, attention):
    """Whatever dies or is stopped, whenever: every answer is that of an undisturbed run. Short form: 5 faults a form."""
    faults = request.config.getoption("--faults") // len(FORMS)
    seed = int(os.environ.get("TANDEM_FAULT_SEED", time.time_ns() % 2**32))
    print(f"TANDEM_FAULT_SEED={seed}")
    chance = random.Random(seed)
    requests = REQUESTS + [{"max_tokens": 30 + 40 * i, "temperature": 0.1 * (i % 3), "seed": i} for i in range(10)]
    form = ["--attention", attention]
    expected = undisturbed(requests, *form)
    more = ["--collective-timeout", 3, "--speculate", *form]
    state = tmp_path / "state"
    if chance.random() < 0.5:
        more += ["--state", state, "--agent-ttl", 5]
    server = serve(start_server, *more, ranks=chance.choice([2, 3, 5]), restarts=100000)
    open_files = len(os.listdir(f"/proc/{server.process.pid}/fd"))
    done, answers, count = 0, [], 0
    while done < faults:
        while len(answers) < 32:
            at = chance.randrange(len(requests))
            count += 1
            # A conversation of its own gives the same answer, and its KV is saved.
            talk = {"conversation": f"t{count}"} if chance.random() < 0.3 else {}
            if "n" in requests[at]:
                talk = {}
            answers.append((at, Answer(server.endpoint, f"r{count}", requests[at] | talk)))
            if chance.random() < 0.1:
                answers.pop()[1].cancel()
        time.sleep(chance.random() * 1.2)
        fault = chance.choice(["kill", "kill", "kill", "several", "stop", "mpirun", "agent"])
        with contextlib.suppress(ProcessLookupError, AssertionError):  # they may be dead already
            victims = {"mpirun": lambda: [mpirun_of(server)], "agent": lambda: list(agents_of(state))}.get(fault, server.ranks)()
            if fault not in ("mpirun", "agent") and victims:
                victims = chance.sample(victims, chance.randint(1, len(victims)) if fault == "several" else 1)
            for pid in victims:
                os.kill(pid, signal.SIGSTOP if fault == "stop" else signal.SIGKILL)
            done += bool(victims)
        if chance.random() < 0.8:  # else the next fault finds ranks that are just being started, again and again
            time.sleep(0.3)
            wait_for_restarts(server, 0)
        for at, answer in [one for one in answers if one[1].last is not None]:
            assert answer.outcome() == expected[at], f"seed {seed}, request {requests[at]}"
            answers.remove((at, answer))
    for at, answer in answers:
        assert answer.outcome() == expected[at], f"seed {seed}, request {requests[at]}"
    wait_for_restarts(server, 0)
    assert len(os.listdir(f"/proc/{server.process.pid}/fd")) < open_files + 64, "descriptors are left open"
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    run([TANDEM, "agent", "stop", "--state", state])
    assert_no_leftovers(server)
