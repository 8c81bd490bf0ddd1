"""Files of a state directory that are removed or replaced while a server uses it: what it acknowledged is there for the next
server all the same, it says `"durable": true` for nothing else, and it tells."""
import contextlib
import fcntl
import json
import os
import shutil
import time

import pytest
from conftest import TANDEM, Server, files_in, run, session_processes
from test_damage import copy_of, model, said, say, served  # noqa: F401
from test_state import Client, agents_of, end_agents, small_disk  # noqa: F401

DELETED = "b"


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not (result := condition()) and time.monotonic() < end:
        time.sleep(0.05)
    return result


def state_of(client):
    return client.ask("status")["state"]


def remove_all_in(state, older):
    for entry in state.iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


def remove_file(name):
    def remove(state, older):
        for path in state.glob(name):
            path.unlink()
    return remove


def link_in_place_of(path, older):
    path.unlink()
    path.symlink_to(older / "lock")


def replace_folder(state, older):
    shutil.rmtree(state / "conversations")
    copy_of(older / "conversations", state / "conversations")


def replace_database_and_witness(state, older):
    replace_folder(state, older)
    (state / "conversations.witness").unlink()
    shutil.copy(older / "conversations.witness", state)


def replace_all(state, older):
    state.rename(state.with_name("before"))
    copy_of(older, state)


DISTURBANCES = {
    "all files": remove_all_in,
    "the directory": lambda state, older: shutil.rmtree(state, ignore_errors=True) or shutil.rmtree(state, ignore_errors=True),
    "the conversations": lambda state, older: shutil.rmtree(state / "conversations"),
    "the conversations, moved": lambda state, older: (state / "conversations").rename(state / "moved"),
    "the lock": remove_file("lock"),
    "the witness": remove_file("conversations.witness"),
    "CURRENT": remove_file("conversations/CURRENT"),
    "MANIFEST": remove_file("conversations/MANIFEST-*"),
    "the log": remove_file("conversations/*.log"),
    "a file by a link": lambda state, older: link_in_place_of(state / "conversations/IDENTITY", older),
    "CURRENT by a link": lambda state, older: link_in_place_of(state / "conversations/CURRENT", older),
    "an older copy of the conversations": replace_folder,
    "an older copy of conversations and witness": replace_database_and_witness,
    "an older copy of all": replace_all,
}


@pytest.mark.parametrize("what", DISTURBANCES)
def test_what_is_acknowledged_outlives_whatever_is_removed(model, tmp_path, what):  # noqa: F811
    state, older = tmp_path / "state", tmp_path / "older"
    secret = said(DELETED, 0).split(":")[0].encode()
    with served(model, state) as client:
        for name in ("a", DELETED):
            assert say(client, name, 0)["durable"] is True
        copy_of(state, older)
        assert client.ask("conversation.delete", conversation=DELETED)["type"] == "conversation.delete"
        assert say(client, "a", 1)["durable"] is True
        assert state_of(client)["damage"] is None
        DISTURBANCES[what](state, older)
        # Without a turn, too.
        assert (told := wait_for(lambda: state_of(client)["damage"])), what
        assert str(state) in told and "while the server ran" in told
        assert say(client, "a", 2)["durable"] is True
        assert say(client, "c", 0)["durable"] is True
        assert state_of(client)["damage"] == told and state_of(client)["trouble"] is None
        messages = {name: client.ask("conversation.get", conversation=name)["messages"] for name in ("a", "c")}
        assert len(messages["a"]) == 6
    with served(model, state) as client:
        assert client.ask("conversation.get", conversation=DELETED)["code"] == "not_found"
        for name, expected in messages.items():
            assert client.ask("conversation.get", conversation=name)["messages"] == expected
        assert state_of(client)["damage"] is None and state_of(client)["damaged"] == 0
        left = [path for path, _, content in files_in(state) if secret in content]
        assert all(".aside-" in str(path) for path in left), left
        assert not left or str(left[0].parent) in told


@pytest.mark.parametrize("name", ["lock", "kv/*/agent.lock", "kv/*/agent.log"])
@pytest.mark.parametrize("planted", [False, True])
def test_another_name_of_a_file_that_is_written_keeps_nobody_out(model, tmp_path, name, planted):  # noqa: F811
    """A hard link to a file of the directory, or one of a file elsewhere in its place, which is left as it is."""
    state, other = tmp_path / "state", tmp_path / "other"
    with served(model, state) as client:
        assert say(client, "a", 0)["durable"] is True
        path = next(state.glob(name))
        if planted:
            other.write_text("precious")
            path.unlink()
        os.link(*((other, path) if planted else (path, other)))
        time.sleep(2.5)
        assert say(client, "a", 1)["durable"] is True
        assert state_of(client)["trouble"] is None
    with served(model, state) as client:
        assert "KV is not saved" not in client.log
        assert say(client, "a", 2)["usage"]["prompt_tokens"] > 0
        assert len(client.ask("conversation.get", conversation="a")["messages"]) == 6
        assert next(state.glob(name)).stat().st_nlink == 1
    assert not planted or other.read_text() == "precious"


def test_a_link_among_saved_kv_is_told_before_it_keeps_the_next_server_out(model, tmp_path):  # noqa: F811
    state = tmp_path / "state"
    with served(model, state) as client:
        assert say(client, "a", 0)["durable"] is True
        link = next(state.glob("kv/*")) / "peers/link"
        link.symlink_to(tmp_path)
        told = wait_for(lambda: state_of(client)["damage"])
        assert str(link) in told and "no server starts here" in told
        assert say(client, "a", 1)["durable"] is True
    refused = run([TANDEM, "serve", model, "--listen", "tcp://127.0.0.1:*", "--state", state])
    assert refused.returncode != 0 and f"{link}: it is a symbolic link" in refused.stderr
    link.unlink()
    with served(model, state) as client:
        assert len(client.ask("conversation.get", conversation="a")["messages"]) == 4


def test_a_directory_that_was_moved_away_is_waited_for(model, tmp_path):  # noqa: F811
    state, away = tmp_path / "state", tmp_path / "away"
    with served(model, state) as client:
        assert say(client, "a", 0)["durable"] is True
        for turn in (1, 2):
            state.rename(away)
            assert say(client, "a", turn)["durable"] is False
            trouble = state_of(client)["trouble"]
            assert "put it back" in trouble and f"mkdir -m 700 {state}" in trouble
            time.sleep(3)  # in which the rank's keeper looks for the agent
            assert not state.exists()
            # Nobody else gets what this server would go on with.
            refused = run([TANDEM, "serve", model, "--listen", "tcp://127.0.0.1:*", "--state", away])
            assert refused.returncode == 1 and "it is in use by process" in refused.stderr
            if turn == 1:
                away.rename(state)
            else:
                state.mkdir(mode=0o700)
            assert wait_for(lambda: state_of(client)["trouble"] is None)
            assert state_of(client)["unwritten_changes"] == 0
        assert say(client, "a", 3)["durable"] is True
        expected = client.ask("conversation.get", conversation="a")["messages"]
        assert len(expected) == 8
    with served(model, state) as client:
        assert client.ask("conversation.get", conversation="a")["messages"] == expected


def test_a_directory_that_another_has_is_left_alone(model, tmp_path):  # noqa: F811
    state = tmp_path / "state"
    with served(model, state) as client:
        assert say(client, "a", 0)["durable"] is True
        (state / "lock").unlink()
        with open(state / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            lock.write("another")
            lock.flush()
            assert (trouble := wait_for(lambda: state_of(client)["trouble"]))
            assert "it is in use by another" in trouble and "removed while this server ran" in trouble \
                or "replaced while this server ran" in trouble, trouble
            assert say(client, "a", 1)["durable"] is False
            assert say(client, "b", 0)["durable"] is False
            before = {path: content for path, _, content in files_in(state / "conversations")}
            assert say(client, "b", 1)["durable"] is False
            assert {path: content for path, _, content in files_in(state / "conversations")} == before
        assert wait_for(lambda: state_of(client)["trouble"] is None)
        assert say(client, "b", 2)["durable"] is True
        refused = run([TANDEM, "serve", model, "--listen", "tcp://127.0.0.1:*", "--state", state])
        assert refused.returncode == 1 and "it is in use by process" in refused.stderr
    with served(model, state) as client:
        assert [len(client.ask("conversation.get", conversation=name)["messages"]) for name in "ab"] == [4, 6]


def test_the_end_of_a_server_leaves_all_there_and_touches_nothing_else(model, tmp_path):  # noqa: F811
    state, older = tmp_path / "state", tmp_path / "older"
    for signal_number in (15, 2):
        with served(model, state) as client:
            for name in ("a", DELETED):
                client.ask("conversation.delete", conversation=name)
                for turn in range(2):
                    assert say(client, name, turn)["durable"] is True
            shutil.rmtree(older, ignore_errors=True)
            copy_of(state, older)
            assert client.ask("conversation.delete", conversation=DELETED)["type"] == "conversation.delete"
            replace_database_and_witness(state, older)
            put = {path.name: content for path, _, content in files_in(state / "conversations")}
            assert client.server.stop(signal_number) == 0
        [aside] = state.glob("conversations.aside-*")
        assert {path.name: content for path, _, content in files_in(aside)} == put
        shutil.rmtree(aside)
        for path in state.glob("conversations.witness.aside-*"):
            path.unlink()
    with served(model, state) as client:
        assert client.ask("conversation.get", conversation=DELETED)["code"] == "not_found"
        assert len(client.ask("conversation.get", conversation="a")["messages"]) == 4


def test_the_agent_and_its_kv_come_back(model, tmp_path):  # noqa: F811
    """The agent that lost its directory ends, and another keeps KV; deleting destroys it there."""
    state = tmp_path / "state"
    with served(model, state) as client:
        assert say(client, "a", 0)["durable"] is True
        [before] = agents_of(state)
        remove_all_in(state, None)
        assert wait_for(lambda: agents_of(state) not in ([before], []))
        assert wait_for(lambda: len(agents_of(state)) == 1)
        assert wait_for(lambda: list(state.glob("kv/*/agent.sock")))

        def saved():
            say(client, "k", 0)
            records = list(state.glob("kv/*/records/*"))
            deleted = client.ask("conversation.delete", conversation="k")
            return bool(records) and deleted["type"] == "conversation.delete"
        assert wait_for(saved)
        assert say(client, "a", 1)["durable"] is True
        assert wait_for(lambda: client.ask("status")["records"]["saved"] > 0)
        secret = said("a", 1).split(":")[0].encode()
        assert any(secret in content for _, _, content in files_in(state))
        assert client.ask("conversation.delete", conversation="a")["type"] == "conversation.delete"
        assert not [path for path, _, content in files_in(state) if secret in content]
        assert state_of(client)["unfinished_erasures"] == 0


def test_nothing_is_lost_by_making_room_with_the_conversations(model, small_disk):  # noqa: F811
    state, filler = small_disk / "state", small_disk / "filler"
    with served(model, state) as client:
        assert say(client, "a", 0)["durable"] is True
        with open(filler, "wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(b"x" * 4096)
        turns = 1
        while say(client, "a", turns)["durable"]:
            turns += 1
        shutil.rmtree(state / "conversations")
        for _ in range(3):
            turns += 1
            say(client, "a", turns)
            time.sleep(1)
        filler.unlink(missing_ok=True)
        assert wait_for(lambda: state_of(client)["trouble"] is None)
        assert "while the server ran" in state_of(client)["damage"]
        expected = client.ask("conversation.get", conversation="a")["messages"]
        assert len(expected) == 2 * (turns + 1)
    with served(model, state) as client:
        assert client.ask("conversation.get", conversation="a")["messages"] == expected
        assert state_of(client)["damage"] is None


def test_the_log_tells_once(model, tmp_path):  # noqa: F811
    state = tmp_path / "state"
    server = Server([TANDEM, "serve", model, "--listen", "tcp://127.0.0.1:*", "--state", state])
    try:
        server.wait_until_ready()
        client = Client(server.endpoint)
        with contextlib.closing(client):
            assert say(client, "a", 0)["durable"] is True
            shutil.rmtree(state / "conversations")
            for turn in range(1, 5):
                assert say(client, "a", turn)["durable"] is True
                time.sleep(0.5)
            text = run([TANDEM, "status", "--connect", server.endpoint]).stdout
            assert "is gone while the server ran" in text, text
            assert json.dumps(client.ask("status")).count("is gone while the server ran") == 1
        assert server.stop() == 0
        assert server.rest_of_log().count("is gone while the server ran") == 1
    finally:
        for pid, _ in session_processes(server.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, 9)
        server.process.wait(20)
        end_agents(state)
