"""Damage of every file of a state directory: a flipped bit, a cut, a deletion. After each of them the server starts, and the
next turn of a conversation has the right text, or the client is told that the conversation is damaged."""
import concurrent.futures
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
from conftest import ROOT, TANDEM, Server, files_in, run, session_processes
from test_state import Client, end_agents

TURNS = 3
NAMES = ["a", "b", "c"]
AT_A_TIME = 2


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Small, with random weights: what it says means nothing, but its log-probabilities depend on all that it reads."""
    path = tmp_path_factory.mktemp("model") / "tiny.gguf"
    subprocess.run([sys.executable, ROOT / "tests/bench/random_model.py", path, "--layers", "2", "--dim", "64", "--ffn", "128",
                    "--heads", "2", "--kv-heads", "1", "--vocab", "2000"], check=True, capture_output=True)
    return path


@contextlib.contextmanager
def served(model, state, *more):
    """A client of a server that ends with kill -9, and its agents with it. client.log: what the server said at its start."""
    server = Server([TANDEM, "serve", model, "--listen", "tcp://127.0.0.1:*", "--state", state, *more])
    try:
        server.wait_until_ready()
        client = Client(server.endpoint)
        client.log = "".join(server.log)
        client.server = server
        try:
            yield client
        finally:
            client.close()
    finally:
        for pid, _ in session_processes(server.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        server.process.wait(20)
        end_agents(state)


def said(name, turn):
    return f"Turn {turn} of {name}: " + "what is blue? " * 5


def say(client, name, turn, **fields):
    return client.say(name, said(name, turn), max_tokens=4, **fields)


def answer_of(done):
    """What depends on all that the model has read."""
    return done["text"], done["usage"]["prompt_tokens"], [token["logprob"] for token in done["logprobs"]]


def converse(model, state, opened_before):
    """Conversations as a server leaves them; `opened_before`: they are in tables, and not only in a log."""
    for turn in range(TURNS):
        with served(model, state) as client:
            for name in NAMES:
                for now in [turn] if opened_before else range(TURNS):
                    assert say(client, name, now)["durable"] is True
            if turn == TURNS - 1 or not opened_before:
                if opened_before:  # closed in order, at the end
                    assert client.server.stop() == 0
                return
    raise AssertionError


@pytest.fixture(scope="module", params=["killed", "closed"])
def kept(request, model, tmp_path_factory):
    """A state directory, and how its conversations go on: [messages, next answer] by name."""
    state = tmp_path_factory.mktemp(request.param) / "state"
    converse(model, state, request.param == "closed")
    undisturbed = state.with_name("undisturbed")
    shutil.copytree(state, undisturbed, ignore=lambda folder, names: [name for name in names if name.endswith(".sock")])
    with served(model, undisturbed) as client:
        known = {name: (client.ask("conversation.get", conversation=name)["messages"],
                        answer_of(say(client, name, TURNS))) for name in NAMES}
        assert client.ask("status")["state"]["damage"] is None
    assert all(len(messages) == 2 * TURNS for messages, _ in known.values())
    return state, known


def flip(part):
    def change(path):
        content = bytearray(path.read_bytes())
        if content:
            content[int(part * (len(content) - 1))] ^= 0x10
            path.write_bytes(content)
    return change


def cut(part):
    return lambda path: os.truncate(path, int(part * path.stat().st_size))


KINDS = {"deleted": os.remove, "emptied": cut(0), "cut": cut(0.5), "torn": cut(0.97), "first": flip(0), "middle": flip(0.5),
         "late": flip(0.9), "last": flip(1)}
KINDS_OF_KV = ["deleted", "cut", "middle"]  # tests/kv_store tries more: KV is never needed


def cases_of(state):
    """(file, kind) of all files; of many files alike in KV, two."""
    seen = {}
    for path in sorted(state.rglob("*")):
        if not path.is_file() or path.name in ("LOCK", "agent.lock"):
            continue
        file = path.relative_to(state)
        is_kv = file.parts[0] == "kv"
        alike = (file.parent, re.sub(r"\d+", "N", file.name))
        seen[alike] = seen.get(alike, 0) + 1
        if is_kv and seen[alike] > 2:
            continue
        for kind in KINDS_OF_KV if is_kv else KINDS:
            yield file, kind


def check(model, state, known):
    """Starts a server on a directory that something happened to; the names that are damaged."""
    damaged = set()
    with served(model, state) as client:
        for name, (messages, answer) in known.items():
            done = say(client, name, TURNS)
            if done["type"] == "done":
                assert answer_of(done) == answer and done["durable"] is True, (name, done)
                continue
            assert done["code"] == "damaged" and "accept_damage" in done["message"], (name, done, client.log)
            damaged.add(name)
            got = client.ask("conversation.get", conversation=name)
            count = got["damaged"]["kept_messages"]
            assert got["messages"] == messages[:count] and count <= len(messages), (name, got)
            assert f"{count} messages are kept" in done["message"]
        status = client.ask("status")["state"]
        assert status["damaged"] == len(damaged), (status, client.log)
        listed = client.ask("conversation.list")["conversations"]
        assert {entry["conversation"] for entry in listed if "damaged" in entry} == damaged
        if damaged:
            assert status["damage"], client.log
            aside = re.search(r"kept as they were in (\S+\.damaged-\d+)", status["damage"])
            assert aside is None or os.path.isdir(aside[1]), status
            assert aside or not (state / "conversations.damaged-1").is_dir(), status
        for name in damaged:  # what is left of them goes on
            done = say(client, name, TURNS, accept_damage=True)
            assert done["type"] == "done" and done["durable"] is True, done
            assert say(client, name, TURNS + 1)["type"] == "done"
        assert client.ask("status")["state"]["damaged"] == 0
    return damaged


def test_damage_of_any_file_is_told_or_costs_nothing(model, kept, tmp_path):
    state, known = kept
    cases = list(cases_of(state))

    def run_case(number):
        file, kind = cases[number]
        copy = tmp_path / f"{number}" / "state"
        shutil.copytree(state, copy, ignore=lambda folder, names: [name for name in names if name.endswith(".sock")])
        KINDS[kind](copy / file)
        try:
            damaged = check(model, copy, known)
        except Exception as error:
            raise AssertionError(f"{file}, {kind}: {error}") from error
        # Neither KV nor what only says who is there is needed, and a witness takes nothing with it.
        assert not damaged or file.parts[0] == "conversations", (file, kind, damaged)
        shutil.rmtree(copy)
        return file.parts[0], len(damaged)

    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        results = list(pool.map(run_case, range(len(cases))))
    told = sum(count > 0 for _, count in results)
    print(f"{len(results)} cases, {told} of them with damage that was told")
    assert told > 0
    assert {where for where, _ in results} >= {"conversations", "conversations.witness", "kv", "lock"}


def copy_of(state, to):
    for _ in range(20):
        try:
            return shutil.copytree(state, to, ignore=lambda folder, names: [name for name in names if name.endswith(".sock")])
        except shutil.Error:  # a file of a running server went while it was copied
            shutil.rmtree(to)
            time.sleep(0.1)
    raise AssertionError(f"{state} does not hold still")


def test_folders_that_are_gone_are_told(model, kept, tmp_path):
    state, known = kept
    copy = copy_of(state, tmp_path / "conversations")
    shutil.rmtree(copy / "conversations")
    assert check(model, copy, known) == set(NAMES)
    copy = copy_of(state, tmp_path / "all")
    shutil.rmtree(copy / "conversations")
    os.remove(copy / "conversations.witness")
    with served(model, copy) as client:
        assert "there is KV, but no conversations" in client.ask("status")["state"]["damage"]
        assert "there is KV, but no conversations" in client.log
    copy = copy_of(state, tmp_path / "kv")
    shutil.rmtree(copy / "kv")
    assert check(model, copy, known) == set()


def prefixes(state):
    listed = run([TANDEM, "kv", "ls", "--state", state, "--json"])
    assert listed.returncode == 0, listed.stderr
    return json.loads(listed.stdout)["prefixes"]


@pytest.mark.parametrize("found_by", ["a server", "a command"])
def test_saved_kv_that_is_put_back_alone_brings_back_nothing_that_was_deleted(model, tmp_path, found_by):
    state, older = tmp_path / "state", tmp_path / "older"
    with served(model, state) as client:
        for name in "ab":
            client.say(name, 5 * said(name, 0), max_tokens=100)
    kept = prefixes(state)
    assert kept
    copy_of(state / "kv", older)
    with served(model, state) as client:
        # Nothing was deleted: what is there is used.
        assert prefixes(state) == kept
        assert client.ask("conversation.delete", conversation="b")["type"] == "conversation.delete"
        left = prefixes(state)
        assert 0 < len(left) < len(kept)
    assert prefixes(state) == left
    shutil.rmtree(state / "kv")
    copy_of(older, state / "kv")
    if found_by == "a command":
        assert prefixes(state) == []
    with served(model, state) as client:
        assert prefixes(state) == []
        assert say(client, "a", 1)["usage"]["reused_tokens"] == 0  # computed again, to the same bits
        say(client, "a", 2)
    assert prefixes(state), "what is kept from then on stays"
    assert "older than what was deleted" in "".join(path.read_text() for path in state.glob("kv/*/agent.log")) or \
        found_by == "a command"


def test_damage_stays_until_it_is_accepted_or_deleted(model, kept, tmp_path):
    state, known = kept
    copy = copy_of(state, tmp_path / "state")
    shutil.rmtree(copy / "conversations")
    for _ in range(3):
        with served(model, copy) as client:
            assert client.ask("status")["state"]["damaged"] == len(NAMES)
            assert say(client, "a", TURNS)["code"] == "damaged"
            assert client.ask("conversation.fork", conversation="a", to="d")["code"] == "damaged"
    with served(model, copy) as client:
        assert client.ask("conversation.delete", conversation="b")["type"] == "conversation.delete"
        assert client.ask("conversation.get", conversation="b")["code"] == "not_found"
        assert say(client, "a", 0, accept_damage=True)["durable"] is True
        assert client.ask("status")["state"]["damaged"] == 1
    with served(model, copy) as client:
        assert client.ask("status")["state"]["damaged"] == 1
        assert len(client.ask("conversation.get", conversation="a")["messages"]) == 2
        assert say(client, "b", 0)["type"] == "done"
        assert say(client, "c", 0)["code"] == "damaged"
    # Another key, or a newer program, is still refused.
    key = tmp_path / "key"
    key.write_bytes(bytes(32))
    key.chmod(0o600)
    with pytest.raises(AssertionError, match="--state-key"), served(model, copy, "--state-key", key):
        pass


def test_what_was_deleted_does_not_come_back_with_older_files(model, kept, tmp_path):
    """The folder of conversations alone is put back to an earlier time, again and again."""
    state, known = kept
    copy = copy_of(state, tmp_path / "state")
    backup = copy_of(state / "conversations", tmp_path / "backup")
    secret = said("b", 0).split(":")[0].encode()

    def put_back():
        shutil.rmtree(copy / "conversations")
        copy_of(backup, copy / "conversations")
        assert secret in b"".join(path.read_bytes() for path in backup.iterdir())

    with served(model, copy) as client:
        assert client.ask("conversation.delete", conversation="b")["type"] == "conversation.delete"
        assert say(client, "a", TURNS)["durable"] is True
    for restart_between in (False, True):
        if restart_between:
            with served(model, copy) as client:
                assert client.ask("status")["state"]["damage"] is None
        put_back()
        with served(model, copy) as client:
            assert client.ask("conversation.get", conversation="b")["code"] == "not_found"
            assert [entry["conversation"] for entry in client.ask("conversation.list")["conversations"]] == ["a", "c"]
            assert "1 conversation that had been erased was in it" in client.ask("status")["state"]["damage"]
            # What else is missing is told, and what is not is there.
            assert say(client, "a", TURNS + 1)["code"] == "damaged"
            assert client.ask("conversation.get", conversation="a")["messages"] == known["a"][0]
            assert client.ask("conversation.get", conversation="c")["messages"] == known["c"][0]
            end = time.monotonic() + 20
            while client.ask("status")["state"]["unfinished_erasures"] and time.monotonic() < end:
                time.sleep(0.05)
            assert not [path for path, _, content in files_in(copy) if secret in content]
            done = say(client, "c", TURNS)  # which is said before the files are put back again
            assert done["code"] == "damaged" if restart_between else answer_of(done) == known["c"][1]
            # The name is free.
            assert client.ask("conversation.get", conversation="b")["code"] == "not_found"


def test_older_files_among_newer_ones_bring_nothing_back(model, kept, tmp_path):
    """`cp -r older/conversations S/`: files of two times, of which RocksDB makes what it can."""
    state, known = kept
    secret = said("b", 0).split(":")[0].encode()
    for rounds in range(1, 4):
        copy = copy_of(state, tmp_path / f"{rounds}" / "state")
        older = copy_of(state / "conversations", tmp_path / f"{rounds}" / "older")
        for number in range(rounds):  # each start makes files of new numbers
            with served(model, copy) as client:
                if number == 0:
                    assert client.ask("conversation.delete", conversation="b")["type"] == "conversation.delete"
                assert say(client, f"new{number}", 0)["durable"] is True
        shutil.copytree(older, copy / "conversations", dirs_exist_ok=True)
        for restart in range(3):
            with served(model, copy) as client:
                assert client.ask("conversation.get", conversation="b")["code"] == "not_found", client.log
                status = client.ask("status")["state"]
                for name in ["a", "c", *(f"new{number}" for number in range(rounds))]:
                    got = client.ask("conversation.get", conversation=name)
                    whole = known[name][0] if name in known else None
                    assert "damaged" in got or whole is None or got["messages"] == whole, (name, got)
                    assert restart or "damaged" not in got or "lack" in status["damage"], (name, status)
                if restart == 0 and status["damage"]:
                    aside = re.search(r"kept as they were in (\S+\.damaged-\d+)", status["damage"])
                    assert aside is None or os.path.isdir(aside[1]), status
                    shutil.rmtree(aside[1] if aside else tmp_path / "none", ignore_errors=True)
                end = time.monotonic() + 20
                while client.ask("status")["state"]["unfinished_erasures"] and time.monotonic() < end:
                    time.sleep(0.05)
                assert not [path for path, _, content in files_in(copy) if secret in content]


def put_in_the_way(path, kind):
    """Somebody's own things where a file or a folder of ours was."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    if kind == "folder":
        path.mkdir()
        (path / "mine").write_text("mine")
    elif kind == "file":
        path.write_text("mine")
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "socket":
        folder = os.open(path.parent, os.O_RDONLY)
        with socket.socket(socket.AF_UNIX) as plain:
            plain.bind(f"/proc/self/fd/{folder}/{path.name}")  # whose length is bounded
        os.close(folder)
    else:
        path.symlink_to("/no/such/place")


def aside_of(path):
    """Where it is kept; what is in a database's folder is kept beside that."""
    if path.parent.name in ("conversations", "records"):
        path = path.parent.with_name(f"{path.parent.name}.{path.name}")
    return path.with_name(path.name + ".damaged-1")


def is_kept(path, kind):
    aside = aside_of(path)
    return {"folder": lambda: (aside / "mine").read_text() == "mine", "file": lambda: aside.read_text() == "mine",
            "pipe": aside.is_fifo, "socket": aside.is_socket, "link": aside.is_symlink}[kind]()


def test_what_is_in_the_way_is_put_aside(model, kept, tmp_path):
    state, known = kept
    [host] = (state / "kv").iterdir()
    host = host.relative_to(state)
    database = [path.relative_to(state) for path in (state / "conversations").iterdir()]
    vital = [path for path in database if path.name.startswith(("CURRENT", "MANIFEST")) or path.suffix in (".log", ".sst")]
    others = [path for path in database if path not in vital]
    records = [path.relative_to(state) for path in (state / host / "records").iterdir()]
    agents = [host / name for name in ("agent.key", "agent.log", "agent.sock", "listens", "peers")]
    elsewhere = {"listens", "conversations.before"}  # that is not needed on one host; kept as conversations.aside-1
    kinds = ["folder", "pipe", "socket", "link"]
    cases = [{path: kinds[number % len(kinds)]} for number, path in enumerate(vital)]
    cases += [{path: "folder" for path in [*others, *records, *agents, "conversations.witness", "conversations.opening"]},
              {path: kinds[1 + number % 3] for number, path in
               enumerate([*others, *records, *agents, "conversations.witness", "conversations.opening"])},
              {"conversations": "file", "kv": "file"}, {"conversations": "link", host: "pipe"},
              {host / "records": "file", host / "peers": "file", "conversations.before": "file"}]
    # A folder at `peers` and a socket at `agent.sock` are what belongs there.
    fits = {(host / "peers", "folder"): "file", (host / "agent.sock", "socket"): "pipe"}
    cases = [{pathlib.Path(path): fits.get((path, kind), kind) for path, kind in case.items()} for case in cases]

    def run_case(number):
        copy = copy_of(state, tmp_path / f"{number}" / "state")
        for path, kind in cases[number].items():
            put_in_the_way(copy / path, kind)
        try:
            damaged = check(model, copy, known)
            needed = {"conversations", *(path.name for path in vital)}
            assert not damaged or needed & {path.name for path in cases[number]}, damaged
            for path, kind in cases[number].items():
                if path.name not in elsewhere:
                    assert is_kept(copy / path, kind), path
            with served(model, copy) as client:  # and what is aside is in nobody's way
                assert client.ask("status")["state"]["damage"] is None
        except Exception as error:
            raise AssertionError(f"{cases[number]}: {error}") from error

    with concurrent.futures.ThreadPoolExecutor(AT_A_TIME) as pool:
        list(pool.map(run_case, range(len(cases))))


def test_a_lock_that_cannot_be_had_is_told(model, kept, tmp_path):
    state, known = kept
    copy = copy_of(state, tmp_path / "state")
    put_in_the_way(copy / "lock", "folder")
    refused = run([TANDEM, "serve", model, "--listen", "tcp://127.0.0.1:*", "--state", copy])
    [line] = [line for line in refused.stderr.splitlines() if "chat template" not in line]
    assert refused.returncode == 1 and line.startswith("tandem: "), refused.stderr
    assert f"{copy / 'lock'}: it is a folder, and no file; move it away" in line
    assert (copy / "lock/mine").exists()
    shutil.rmtree(copy / "lock")
    # That of the agent: conversations go on without saved KV.
    [host] = (copy / "kv").iterdir()
    put_in_the_way(host / "agent.lock", "folder")
    begin = time.monotonic()
    assert check(model, copy, known) == set()
    assert time.monotonic() - begin < 20
    with served(model, copy) as client:
        assert f"{host}/agent.lock: it is a folder, and no file; move it away" in client.log
    assert (host / "agent.lock/mine").exists()
