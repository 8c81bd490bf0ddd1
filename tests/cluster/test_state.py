"""Conversations, and their KV, that outlive processes: kill -9 at random points, restarts on other rank counts, full
disks, keys.

`python -m pytest tests/cluster/test_state.py --kills 200` is the long form of the test that kills.
"""
import contextlib
import json
import os
import pathlib
import random
import signal
import threading
import time

import pytest
import zmq
from conftest import (SMOLLM2, TANDEM, Server, assert_no_leftovers, files_in, remove_abandoned_weights, run,
                      session_processes)

TURNS = 5
CONVERSATIONS = 3


class Client:
    """A DEALER socket that gives up when the server is gone."""

    def __init__(self, endpoint, stop=None):
        self.stop = stop or threading.Event()  # set: nobody will answer any more
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.connect(endpoint)
        self.number = 0

    def close(self):
        self.socket.close()

    def ask(self, type_, seconds=60, **fields):
        """The frame that ends the answer; None if none came in time."""
        self.number += 1
        request = {"v": 1, "type": type_, "id": f"r{self.number}", **fields}
        self.socket.send(json.dumps(request).encode())
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self.stop.is_set():
            if not self.socket.poll(50):
                continue
            frame = json.loads(self.socket.recv())
            if frame.get("id") == request["id"] and frame["type"] not in ("accepted", "delta"):
                return frame
        return None

    def say(self, conversation, content, **fields):
        fields.setdefault("max_tokens", 12)
        return self.ask("chat", messages=[{"role": "user", "content": content}],
                        conversation=conversation, logprobs=0, **fields)


def said(conversation, turn):
    return f"Turn {turn} of {conversation}: name a thing that is blue, and say why."


def tokens_of(done):
    return [token["token"] for token in done["logprobs"]]


@contextlib.contextmanager
def client_of(server):
    client = Client(server.endpoint)
    try:
        yield client
    finally:
        client.close()


def serve(start_server, state, *more):
    return start_server(TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--state", state, *more)


def agents_of(folder):
    """Process ids of the agents that keep KV below a folder."""
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, IndexError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            if words[1:3] == [b"agent", b"run"] and words[3].startswith(os.fsencode(folder)):
                found.append(int(entry.name))
    return found


@pytest.fixture(autouse=True)
def no_agents_left(tmp_path):
    """Agents outlive their servers; not the test, though."""
    yield
    end_agents(tmp_path)


def end_agents(folder):
    for pid in agents_of(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while agents_of(folder):
        time.sleep(0.02)
    remove_abandoned_weights(folder)


def kill_all(server, agents_below=None):
    """kill -9 of the server, mpirun, every rank, and the agents below a folder, at once."""
    pids = [pid for pid, _ in session_processes(server.process.pid)]
    for pid in pids + (agents_of(agents_below) if agents_below else []):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait(20)
    assert_no_leftovers(server)


@pytest.fixture(scope="module")
def undisturbed():
    """What each conversation's turns are answered with when nothing happens: [tokens, text] a turn."""
    server = Server([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*"]).wait_until_ready()
    with client_of(server) as client:
        answers = {}
        for number in range(CONVERSATIONS):
            name = f"c{number}"
            answers[name] = []
            for turn in range(TURNS):
                done = client.say(name, said(name, turn))
                assert done["type"] == "done" and "durable" not in done, done
                answers[name].append((tokens_of(done), done["text"]))
    assert server.stop() == 0
    return answers


def messages_of(client, name):
    got = client.ask("conversation.get", conversation=name)
    return got["messages"] if got["type"] == "conversation.get" else []


def check_and_go_on(client, undisturbed, acknowledged, asked=None):
    """Every acknowledged turn is there, in order; gives the number of turns of each conversation."""
    # One more may have been written without anybody having been told.
    asked = asked or {name: turns + 1 for name, turns in acknowledged.items()}
    turns = {}
    for name, answers in undisturbed.items():
        messages = messages_of(client, name)
        assert len(messages) % 2 == 0
        turns[name] = len(messages) // 2
        assert acknowledged[name] <= turns[name] <= asked[name], (name, turns, acknowledged, asked)
        for turn in range(turns[name]):
            assert messages[2 * turn] == {"role": "user", "content": said(name, turn)}
            assert messages[2 * turn + 1] == {"role": "assistant", "content": answers[turn][1]}
    return turns


def converse(endpoint, name, first, answers, acknowledged, stop, wrong, asked=None):
    """`asked`: notes how many turns were asked for; then one that is not durable may be lost, but not be wrong."""
    client = Client(endpoint, stop)
    try:
        for turn in range(first, len(answers)):
            if asked is not None:
                asked[name] = turn + 1
            done = client.say(name, said(name, turn), seconds=60)
            if done is None:
                return
            if done["type"] != "done":
                return  # the ranks died first
            durable = done["durable"] is True
            if (tokens_of(done), done["text"]) != answers[turn] or (asked is None and not durable):
                wrong.append((name, turn, done, answers[turn]))
                return
            if durable:
                acknowledged[name] = turn + 1
    finally:
        client.close()


def test_kill_9_of_everything_loses_no_acknowledged_turn(start_server, tmp_path, undisturbed, request):
    kills = request.config.getoption("--kills")
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    state = tmp_path / "state"
    acknowledged = dict.fromkeys(undisturbed, 0)
    reached = dict.fromkeys(undisturbed, 0)
    restored = 0
    for kill in range(kills + 1):
        ranks = kill % 3 + 1
        server = serve(start_server, state, "-n", ranks)
        with client_of(server) as client:
            reached = check_and_go_on(client, undisturbed, acknowledged)
            acknowledged.update(reached)  # what conversation.get has told is known
            restored += sum(reached.values())
            for name in undisturbed:  # those that are complete begin again, under the same name
                if reached[name] == TURNS and chance.random() < 0.7:
                    assert client.ask("conversation.delete", conversation=name)["type"] == "conversation.delete"
                    reached[name] = acknowledged[name] = 0
        stop = threading.Event()
        wrong = []
        threads = [threading.Thread(target=converse, args=(server.endpoint, name, reached[name],
                                                           undisturbed[name], acknowledged, stop,
                                                           wrong))
                   for name in undisturbed]
        for thread in threads:
            thread.start()
        if kill == kills:
            for thread in threads:
                thread.join()
            assert not wrong, wrong
            assert all(turns == TURNS for turns in acknowledged.values()), acknowledged
            assert server.stop() == 0
            break
        time.sleep(chance.uniform(0.05, 1.5))
        if chance.random() < 0.3:  # the agent alone, first
            end_agents(state)
            time.sleep(chance.uniform(0.05, 1.5))
        stop.set()
        kill_all(server, agents_below=state if chance.random() < 0.5 else None)
        for thread in threads:
            thread.join()
        assert not wrong, wrong
    assert restored > 0


@pytest.mark.parametrize("ranks", [1, 2, 3, 5])
@pytest.mark.parametrize("tier", ["disk", "host"])
def test_the_next_answer_is_that_of_an_undisturbed_run_on_any_number_of_ranks(
        start_server, tmp_path, undisturbed, ranks, tier):
    state = tmp_path / "state"
    server = serve(start_server, state, "-n", 2)
    with client_of(server) as client:
        for turn in range(TURNS - 1):
            done = client.say("c0", said("c0", turn))
            assert done["durable"] is True
    read = done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"]
    kill_all(server, agents_below=state if tier == "disk" else None)
    server = serve(start_server, state, "-n", ranks)
    with client_of(server) as client:
        done = client.say("c0", said("c0", TURNS - 1))
    assert (tokens_of(done), done["text"]) == undisturbed["c0"][TURNS - 1]
    usage = done["usage"]
    assert usage["reused_from"][tier] == usage["reused_tokens"] >= read - 2, usage
    assert server.stop() == 0


def test_an_agent_that_dies_is_replaced(start_server, tmp_path):
    state = tmp_path / "state"
    server = serve(start_server, state)
    with client_of(server) as client:
        client.say("c", "Hello")
        assert len(agents_of(state)) == 1
        end_agents(state)
        assert client.say("c", "Hello again")["durable"] is True, "KV is not needed for that"
        end = time.monotonic() + 20
        while not agents_of(state) and time.monotonic() < end:
            time.sleep(0.1)
        assert len(agents_of(state)) == 1
    assert server.stop() == 0


def test_an_agent_ends_when_nobody_needs_it(start_server, tmp_path):
    state = tmp_path / "state"
    server = serve(start_server, state, "--agent-ttl", 1)
    time.sleep(3)
    assert len(agents_of(state)) == 1, "a server that is idle needs it"
    assert server.stop() == 0
    end = time.monotonic() + 20
    while agents_of(state) and time.monotonic() < end:
        time.sleep(0.1)
    assert not agents_of(state)


def test_an_agent_is_bound_to_no_core_and_a_tenant_to_its_share(start_server, tmp_path):
    state = tmp_path / "state"
    server = start_server("taskset", "-c", min(os.sched_getaffinity(0)), TANDEM, "serve", SMOLLM2, "--listen",
                          "tcp://127.0.0.1:*", "--state", state, "--kv-tenant", "5MiB")
    [agent] = agents_of(state)
    assert os.sched_getaffinity(agent) >= os.sched_getaffinity(0)
    with client_of(server) as client:
        for number in range(3):  # more than 3 MiB each
            client.say(f"c{number}", f"{number}! " + said("a conversation", number) * 8, tenant="t")
    assert server.stop() == 0
    end_agents(state)
    server = serve(start_server, state)
    with client_of(server) as client:
        kept, gone = [client.say(f"c{number}", "Why?", tenant="t")["usage"]["reused_from"]["disk"] for number in (2, 0)]
    assert kept > gone == 0, (kept, gone)
    assert server.stop() == 0


def test_a_second_server_is_refused_by_the_name_of_the_first(start_server, tmp_path):
    first = serve(start_server, tmp_path / "state")
    for more in ([], ["-n", "2"]):
        second = run([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--state",
                      tmp_path / "state", *more], timeout=60)
        assert second.returncode == 1, second.stderr
        assert str(first.process.pid) in second.stderr and first.endpoint in second.stderr
        assert os.uname().nodename in second.stderr
        assert second.stderr.count("\n") == 1, second.stderr
    with client_of(first) as client:
        assert client.say("c", "Hello")["durable"] is True
    first.stop(signal.SIGKILL)
    again = serve(start_server, tmp_path / "state")
    with client_of(again) as client:
        assert len(messages_of(client, "c")) == 2


def test_files_are_for_their_owner_only_and_status_tells_of_them(start_server, tmp_path):
    state = tmp_path / "state"
    server = serve(start_server, state)
    with client_of(server) as client:
        client.say("c", "Hello")
        status = client.ask("status")["state"]
    assert status["directory"] == str(state) and status["conversations"] == 1
    assert status["trouble"] is None and status["encrypted"] is False
    shown = run([TANDEM, "status", "--connect", server.endpoint])
    assert f"state      1 conversation in {state}" in shown.stdout
    assert state.stat().st_mode & 0o077 == 0
    for path, permissions, _ in files_in(state):
        assert permissions & 0o077 == 0, path


def files_with(folder, text):
    return [path for path, _, content in files_in(folder) if text.encode() in content]


def test_what_is_deleted_is_in_no_file(start_server, tmp_path):
    state = tmp_path / "state"
    server = serve(start_server, state)
    secret = "Xylophonic zebras quietly juggle kumquats"
    long_secret = (secret + ". ") * 20
    with client_of(server) as client:
        client.say("stays", "What stays stays. " * 20)
        client.say("goes", long_secret)
        client.ask("conversation.fork", conversation="goes", to="fork")
    server.stop()
    assert files_with(state, secret)
    server = serve(start_server, state)
    with client_of(server) as client:
        client.say("goes", "And more of " + secret)
        assert client.ask("conversation.delete", conversation="goes")["type"] == "conversation.delete"
        assert files_with(state, secret), "the fork is a conversation of its own"
        assert len(messages_of(client, "fork")) == 2
        assert client.ask("conversation.delete", conversation="fork")["type"] == "conversation.delete"
        assert not files_with(state, secret)
        assert files_with(state, "What stays stays")
    server.stop()
    server = serve(start_server, state)
    assert not files_with(state, secret)
    with client_of(server) as client:
        listed = client.ask("conversation.list")["conversations"]
        # Nor is its KV there, but for what a conversation that stays has too.
        again = client.say("again", long_secret)["usage"]
        kept = client.say("stays", "Go on")["usage"]
    assert [entry["conversation"] for entry in listed] == ["stays"]
    shared = 25  # the template's own beginning
    assert again["reused_tokens"] <= shared, again
    assert kept["reused_from"]["host"] + kept["reused_from"]["disk"] > shared, kept


def write_key(path, fill):
    path.write_bytes(bytes([fill]) * 32)
    path.chmod(0o600)
    return path


def test_encrypted_conversations_need_their_key(start_server, tmp_path):
    state = tmp_path / "state"
    key = write_key(tmp_path / "key", 1)
    wrong = write_key(tmp_path / "wrong", 2)
    server = serve(start_server, state, "--state-key", key)
    with client_of(server) as client:
        client.say("the-name", "A secret question " * 30, tenant="the-tenant")
        assert client.ask("status")["state"]["encrypted"] is True
    kill_all(server, agents_below=state)
    for text in ("A secret question", "the-name", "the-tenant"):
        assert not files_with(state, text)
    for more in ([], ["--state-key", wrong]):
        refused = run([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--state", state, *more])
        assert refused.returncode == 1 and "--state-key" in refused.stderr, refused.stderr
        assert refused.stderr.count("\n") == 1, refused.stderr
    key.chmod(0o644)
    refused = run([TANDEM, "serve", SMOLLM2, "--state", state, "--state-key", key])
    assert refused.returncode == 2 and "chmod 600" in refused.stderr, refused.stderr
    key.chmod(0o600)
    server = serve(start_server, state, "--state-key", key)
    with client_of(server) as client:
        got = client.ask("conversation.get", conversation="the-name", tenant="the-tenant")
        assert got["messages"][0]["content"] == "A secret question " * 30
        usage = client.say("the-name", "And another", tenant="the-tenant")["usage"]
        assert usage["reused_from"]["disk"] == usage["reused_tokens"] > 30, usage


def test_flags_come_from_the_environment_and_a_config_file_too(start_server, tmp_path, monkeypatch):
    config = tmp_path / "tandem.toml"
    config.write_text(f'[serve]\nstate = "{tmp_path}/from-file"\n')
    start_server(TANDEM, "--config", config, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*")
    assert (tmp_path / "from-file/conversations").is_dir()
    monkeypatch.setenv("TANDEM_STATE", str(tmp_path / "from-environment"))
    start_server(TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*")
    assert (tmp_path / "from-environment/conversations").is_dir()


@pytest.fixture
def small_disk(tmp_path, request):
    if os.geteuid() != 0:
        pytest.skip("mounting a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = run(["mount", "-t", "tmpfs", "-o", f"size={getattr(request, 'param', '3m')},mode=700", "tmpfs", disk])
    if mounted.returncode != 0:
        pytest.skip(f"no tmpfs here: {mounted.stderr}")
    yield disk
    run(["umount", "-l", disk])


def test_a_full_disk_ends_nothing_and_is_recovered_from(start_server, small_disk):
    server = serve(start_server, small_disk / "state")
    filler = small_disk / "filler"
    with client_of(server) as client:
        assert client.say("c", "Before")["durable"] is True
        fill(filler)
        for turn in range(3):
            done = client.say("c", f"Meanwhile {turn} " + "and so on " * 300)
            assert done["type"] == "done", done
        assert done["durable"] is False
        trouble = client.ask("status")["state"]
        assert trouble["trouble"] and trouble["unwritten_changes"] >= 1, trouble
        assert "not durable" in run([TANDEM, "status", "--connect", server.endpoint]).stdout
        filler.unlink()
        end = time.monotonic() + 20
        while client.ask("status")["state"]["trouble"] and time.monotonic() < end:
            time.sleep(0.2)
        assert client.ask("status")["state"]["unwritten_changes"] == 0
        assert client.say("c", "After")["durable"] is True
        expected = messages_of(client, "c")
    kill_all(server)
    assert "make room" in server.rest_of_log()
    server = serve(start_server, small_disk / "state")
    with client_of(server) as client:
        assert messages_of(client, "c") == expected and len(expected) == 10


def fill(path):
    with open(path, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def ready_again(server, client, restarts=1):
    end = time.monotonic() + 60
    while client.ask("status").get("recovery", {}).get("restarts", 0) < restarts or not client.ask("ping")["ready"]:
        assert time.monotonic() < end and server.process.poll() is None
        time.sleep(0.05)


@pytest.mark.parametrize("small_disk", ["24m"], indirect=True)
def test_an_agent_that_has_no_room_comes_once_there_is_some(start_server, small_disk):
    """Ranks that start again on a full disk save KV later, and what is deleted meanwhile is destroyed."""
    state = small_disk / "state"
    server = serve(start_server, state, "-n", 2, "--max-restarts", 1000)
    with client_of(server) as client:
        for talk in ("kept", "deleted"):
            assert client.say(talk, "Before " + "and so on " * 60)["durable"] is True
        fill(small_disk / "filler")
        for pid in [*agents_of(state), *server.ranks()]:
            os.kill(pid, signal.SIGKILL)
        ready_again(server, client)
        assert client.ask("conversation.delete", conversation="deleted")["code"] == "unavailable"
        assert not list(agents_of(state))
        (small_disk / "filler").unlink()
        end = time.monotonic() + 30
        while not list(agents_of(state)) or client.ask("status")["state"]["trouble"]:
            assert time.monotonic() < end, client.ask("status")["state"]
            time.sleep(0.1)
        assert client.ask("status")["state"]["unfinished_erasures"] == 0
        assert client.say("kept", "After")["durable"] is True
        for pid in server.ranks():
            os.kill(pid, signal.SIGKILL)
        ready_again(server, client, 2)
        usage = client.say("kept", "And again")["usage"]
        assert usage["reused_from"]["host"] + usage["reused_from"]["disk"] > 60, usage
    assert server.stop(signal.SIGINT) == 0
    assert "KV is not saved for now: no agent keeps KV" in server.rest_of_log()


@pytest.mark.parametrize("small_disk", ["24m"], indirect=True)
def test_a_server_that_goes_without_its_state_keeps_no_kv_there_later(start_server, small_disk):
    """Nobody would destroy it when its conversation is deleted."""
    state = small_disk / "state"
    fill(small_disk / "filler")
    server = serve(start_server, state, "-n", 2, "--max-restarts", 1000)
    (small_disk / "filler").unlink()
    with client_of(server) as client:
        os.kill(server.ranks()[0], signal.SIGKILL)
        ready_again(server, client)
        assert client.say("c", "Before " + "and so on " * 60)["type"] == "done"
        assert not list(agents_of(state)) and not state.exists()
    assert server.stop(signal.SIGINT) == 0


def test_plain_mpirun_keeps_conversations_too(start_server, tmp_path):
    from conftest import MPIRUN
    command = [*MPIRUN, "-n", 2, TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--state",
               tmp_path / "state"]
    server = start_server(*command)
    with client_of(server) as client:
        assert client.say("c", "Hello")["durable"] is True
    kill_all(server)
    server = start_server(*command)
    with client_of(server) as client:
        assert len(messages_of(client, "c")) == 2
