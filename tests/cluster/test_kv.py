"""`tandem kv`: what a user does with the KV of a state directory, beside a running server and without one."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import time

import pytest
from conftest import GEMMA3, SMOLLM2, TANDEM, run
from test_state import agents_of, client_of, end_agents, kill_all, serve, small_disk, write_key  # noqa: F401

BLOCK = 64
SYSTEM = "You are the librarian of a small town. " + " ".join(
    f"Rule {number}: a book of shelf {number} is lent for {number + 3} days." for number in range(1, 26))
QUESTION = "For how many days is a book of shelf 4 lent?"


@pytest.fixture(autouse=True)
def no_agents_left(tmp_path):
    """Agents outlive their servers; not the test, though."""
    yield
    end_agents(tmp_path)


def kv(*words, status=0):
    result = run([TANDEM, "kv", *words])
    assert result.returncode == status, (words, result.returncode, result.stdout, result.stderr)
    return result


def kv_json(*words, status=0):
    return json.loads(kv(*words, "--json", status=status).stdout)


def refused(*words, status=1):
    """The one line that says why."""
    result = kv(*words, status=status)
    assert result.stdout == "" and result.stderr.count("\n") == 1, (result.stdout, result.stderr)
    return result.stderr


def ask(client, system=SYSTEM, question=QUESTION, **fields):
    messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
    done = client.ask("chat", messages=messages, max_tokens=16, **fields)
    assert done["type"] == "done", done
    return done


def stop_agents(state):
    """In good order, so that what is in memory reaches the disk."""
    for pid in agents_of(state):
        os.kill(pid, signal.SIGTERM)
    end = time.monotonic() + 20
    while agents_of(state):
        assert time.monotonic() < end
        time.sleep(0.02)


def tokens_of_system():
    result = run([TANDEM, "template", SMOLLM2, "-", "--json"],
                 input=json.dumps([{"role": "system", "content": SYSTEM}, {"role": "user", "content": "a"}]))
    return len(json.loads(result.stdout)["tokens"])


def copy_of(state, to):
    """Without sockets, which cannot be copied."""
    shutil.copytree(state, to, ignore=lambda folder, names: [name for name in names if name.endswith(".sock")])
    return to


def flip(path, at):
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)
        file.seek(at)
        file.write(bytes([byte[0] ^ 1]))


def blob_of(state):
    return max(pathlib.Path(state).glob("kv/*/records/*.blob"), key=lambda path: path.stat().st_size)


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """A state directory with a chat, and a conversation of two turns: [directory, answers]."""
    from conftest import Server
    state = tmp_path_factory.mktemp("kv") / "state"
    server = Server([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*", "--state", str(state), "-n",
                     "2"]).wait_until_ready()
    with client_of(server) as client:
        alone = ask(client, conversation="alone", tenant="someone")
        first = ask(client, conversation="talk")
        second = client.say("talk", "And of shelf 9?", max_tokens=16)
        listed = kv_json("ls", "--state", state)
        checked = kv_json("verify", "--state", state)
    assert checked["damaged"] == 0 and checked["good"] == checked["records"] > 0, checked
    assert server.stop() == 0
    stop_agents(state)
    yield state, {"alone": alone["text"], "talk": [first["text"], second["text"]]}, listed
    end_agents(state)


def test_the_same_is_listed_with_a_server_and_without(kept):
    state, _, beside_a_server = kept
    alone = kv_json("ls", "--state", state)
    assert agents_of(state) == [], "looking starts no agent that stays"
    assert alone["total"] == beside_a_server["total"]
    by_name = {entry["conversations"][0]: entry for entry in alone["prefixes"] if entry["conversations"]}
    assert by_name["alone"]["tenant"] == "someone" and by_name["talk"]["tenant"] == ""
    for entry in by_name.values():
        assert entry["complete"] and entry["usable_tokens"] == entry["tokens"] > tokens_of_system()
        assert entry["tiers"] == ["disk"]
        assert abs(entry["last_use"] - time.time()) < 3600
        assert entry["records"] == 3 * entry["blocks"], "SmolLM2 has three KV heads"
    assert len(alone["models"]) == 1 and alone["models"][0]["kv_heads"] == [0, 1, 2]
    text = kv("ls", "--state", state).stdout
    assert re.search(r"someone +alone +\d+", text) and "complete" in text, text
    shown = kv_json("show", "--state", state, "--conversation", "talk")
    assert [block["tokens"] for block in shown["chain"][:-1]] == [BLOCK] * (len(shown["chain"]) - 1)
    assert all(len(block["records"]) == 3 and not block["missing"] for block in shown["chain"])
    assert kv_json("show", "--state", state, shown["prefix"][:8])["prefix"] == shown["prefix"]
    assert "whole" in kv("show", "--state", state, "--conversation", "alone", "--tenant", "someone").stdout
    assert "good" in kv("verify", "--state", state).stdout


def test_a_flipped_byte_is_found_and_mended(kept, start_server, tmp_path):
    state, answers, listed = kept
    copy = copy_of(state, tmp_path / "copy")
    flip(blob_of(copy), 1000)
    for _ in range(2):  # looking removes nothing
        found = kv_json("verify", "--state", copy, status=1)
        assert found["damaged"] == 1 and found["good"] == found["records"] - 1, found
        assert "disk" in found["problems"][0]["what"]
    assert "tandem kv gc" in kv("verify", "--state", copy, status=1).stderr
    would = kv_json("gc", "--state", copy, "--dry-run")
    assert would["reasons"]["damaged"]["blocks"] == 1
    kv("verify", "--state", copy, status=1)
    done = kv_json("gc", "--state", copy)
    assert done["removed"] == would["removed"]
    assert kv_json("verify", "--state", copy)["damaged"] == 0
    left = kv_json("ls", "--state", copy)
    assert left["total"] == done["left"] and all(entry["complete"] for entry in left["prefixes"])
    assert left["total"]["blocks"] < listed["total"]["blocks"]
    server = serve(start_server, copy)
    with client_of(server) as client:
        assert ask(client, conversation="again")["text"] == answers["talk"][0]
    assert server.stop() == 0


def test_a_database_that_is_damaged_as_a_whole_is_told_and_begun_anew_by_gc_only(kept, tmp_path):
    state, _, _ = kept
    copy = copy_of(state, tmp_path / "copy")
    [manifest] = pathlib.Path(copy).glob("kv/*/records/MANIFEST-*")
    flip(manifest, 20)
    before = sorted(path.name for path in manifest.parent.iterdir())
    for command in ("ls", "verify"):
        assert "tandem kv gc" in refused(command, "--state", copy)
    blobs = [name for name in before if name.endswith(".blob")]
    assert all((manifest.parent / name).exists() for name in blobs)
    assert kv_json("gc", "--state", copy)["began_anew"]
    assert kv_json("verify", "--state", copy)["records"] == 0


def test_gc_makes_room_from_the_ends(kept, tmp_path):
    state, _, listed = kept
    copy = copy_of(state, tmp_path / "copy")
    assert kv_json("gc", "--state", copy)["removed"]["blocks"] == 0
    assert kv_json("gc", "--state", copy, "--older-than", "1d")["removed"]["blocks"] == 0
    most = listed["total"]["bytes"] // 2
    removed = kv_json("gc", "--state", copy, "--max-bytes", most)
    assert list(removed["reasons"]) == ["room"] and removed["left"]["bytes"] <= most
    left = kv_json("ls", "--state", copy)
    assert left["total"] == removed["left"] and left["prefixes"]
    assert all(entry["complete"] for entry in left["prefixes"])
    assert kv_json("gc", "--state", copy, "--older-than", "0s")["left"]["blocks"] == 0


@pytest.mark.parametrize("running", [False, True], ids=["no server", "beside a server"])
def test_a_system_message_is_reused_by_another_cluster(kept, start_server, tmp_path, running):
    state, answers, _ = kept
    file = tmp_path / "system.tandemkv"
    exported = kv_json("export", "--state", state, SMOLLM2, "--system", SYSTEM, "-o", file)
    assert exported["tokens"] % BLOCK == 0 and exported["missing"] == ""
    assert 0 <= exported["tokens_of_text"] - exported["tokens"] < BLOCK
    assert file.stat().st_mode & 0o777 == 0o600 and file.stat().st_size == exported["bytes"]
    assert exported["public_key"] in kv("export", "--state", state, SMOLLM2, "--system", SYSTEM, "-o", file).stdout
    assert (state / "export.key").stat().st_mode & 0o777 == 0o600
    other = tmp_path / "other"
    key = write_key(tmp_path / "key", 7)
    options = ["--state-key", key]
    take = ["import", "--state", other, *options, file, "--trust", exported["public_key"], SMOLLM2]
    if running:
        server = serve(start_server, other, "-n", 3, *options)
        imported = kv_json(*take)
    else:
        imported = kv_json(*take)
        server = serve(start_server, other, "-n", 3, *options)
    assert imported["tokens"] == exported["tokens"] and imported["records_known"] == 0
    with client_of(server) as client:
        done = ask(client)
        usage = done["usage"]
        assert usage["reused_tokens"] == exported["tokens"] > 0, usage
        assert usage["reused_from"]["host"] + usage["reused_from"]["disk"] == usage["reused_tokens"], usage
        assert done["text"] == answers["talk"][0]
        assert kv_json(*take)["records_known"] == imported["records"]
        # Another tenant's is another's.
        assert ask(client, tenant="stranger", conversation="s")["usage"]["reused_tokens"] < BLOCK
    assert server.stop() == 0
    assert kv_json("verify", "--state", other, *options)["damaged"] == 0
    assert "--state-key" in refused("ls", "--state", other)
    wrong = write_key(tmp_path / "wrong", 8)
    assert "--state-key" in refused("gc", "--state", other, "--state-key", wrong)
    assert kv_json("verify", "--state", other, *options)["damaged"] == 0


def test_a_conversation_and_a_text_are_exported_too(kept, start_server, tmp_path):
    state, answers, _ = kept
    file = tmp_path / "file"
    exported = kv_json("export", "--state", state, SMOLLM2, "--conversation", "talk", "-o", file)
    shown = kv_json("show", "--state", state, "--conversation", "talk")
    assert exported["tokens"] == shown["tokens"] // BLOCK * BLOCK
    mine = kv_json("export", "--state", state, SMOLLM2, "--conversation", "alone", "--tenant", "someone", "-o", file)
    assert mine["tokens"] > 0
    other = tmp_path / "other"
    kv("import", "--state", other, file, "--trust", mine["public_key"], "--tenant", "else")
    text = tmp_path / "text"
    text.write_text("It was a dark and stormy night, and nobody was out. " * 30)
    assert "is not there" in refused("export", "--state", other, SMOLLM2, "--text-file", text, "-o", file)
    server = serve(start_server, other)
    with client_of(server) as client:
        done = ask(client, conversation="c", tenant="else")
        assert done["usage"]["reused_tokens"] >= tokens_of_system() // BLOCK * BLOCK
        assert done["text"] == answers["alone"]
        prompt = text.read_text()
        assert client.ask("complete", prompt=prompt + "Then", max_tokens=4)["type"] == "done"
        deadline = time.monotonic() + 20
        while run([TANDEM, "kv", "export", "--state", other, SMOLLM2, "--text-file", text, "-o",
                   file]).returncode != 0:
            assert time.monotonic() < deadline, "a prompt's KV is saved soon"
            time.sleep(0.1)
    assert server.stop() == 0
    raw = kv_json("export", "--state", other, SMOLLM2, "--text-file", text, "-o", file)
    third = tmp_path / "third"
    kv("import", "--state", third, file, "--trust", raw["public_key"], SMOLLM2)
    server = serve(start_server, third, "-n", 2)
    with client_of(server) as client:
        done = client.ask("complete", prompt=prompt + "Now", max_tokens=4)
        assert done["usage"]["reused_tokens"] == raw["tokens"] > BLOCK
    assert server.stop() == 0


def test_files_that_are_not_trusted_whole_or_fitting_are_refused(kept, tmp_path):
    state, _, _ = kept
    file = tmp_path / "file"
    exported = kv_json("export", "--state", state, SMOLLM2, "--system", SYSTEM, "-o", file)
    key = exported["public_key"]
    other = tmp_path / "other"
    whole = file.read_bytes()

    def told(data=whole, trust=key, *more, status=1):
        bad = tmp_path / "bad"
        bad.write_bytes(data)
        return refused("import", "--state", other, bad, "--trust", trust, *more, status=status)

    stranger = "12" * 32
    assert key in told(trust=stranger)
    keys = tmp_path / "keys"
    keys.write_text(f"# friends\n{stranger}\n")
    assert key in told(trust=keys)
    assert "public key" in told(trust="nonsense", status=2)
    for at in (200, len(whole) // 2, len(whole) - 1):
        changed = bytearray(whole)
        changed[at] ^= 4
        told(bytes(changed))
    assert "cut short" in told(whole[:-1000])
    assert "version 1" in told(whole[:8] + b"\1" + whole[9:])
    assert "TANDEMPX" in told(b"something else" * 1000)
    assert "another" in told(whole, key, SMOLLM2, "--kv-dtype", "f32") or "not of" in told(
        whole, key, SMOLLM2, "--kv-dtype", "f32")
    assert "model" in told(whole, key, GEMMA3)
    assert not (other / "kv").exists(), "nothing of it is anywhere"
    keys.write_text(f"{stranger}\n{key}\n")
    kv("import", "--state", other, file, "--trust", keys)
    assert "no such file" in refused("import", "--state", other, tmp_path / "none", "--trust", key)


def test_a_float8_cache_comes_back_from_disk_and_travels(start_server, tmp_path):
    """After a restart on other ranks, and in another directory; a server of another dtype never finds it."""
    mine, other = tmp_path / "state", tmp_path / "other"

    def answer(state, ranks, dtype):
        server = serve(start_server, state, "-n", ranks, "--kv-dtype", dtype)
        with client_of(server) as client:
            done = ask(client)
        assert server.stop() == 0
        stop_agents(state)
        return done

    first = answer(mine, 2, "f8")
    assert [model["dtype"] for model in kv_json("ls", "--state", mine)["models"]] == ["f8"]
    checked = kv_json("verify", "--state", mine)
    assert checked["damaged"] == 0 and checked["good"] == checked["records"] > 0, checked
    again = answer(mine, 1, "f8")
    assert again["text"] == first["text"]
    assert again["usage"]["reused_from"]["disk"] >= tokens_of_system() // BLOCK * BLOCK, again
    file = tmp_path / "file"
    key = kv_json("export", "--state", mine, SMOLLM2, "--system", SYSTEM, "--kv-dtype", "f8", "-o", file)["public_key"]
    assert "not there" in refused("export", "--state", mine, SMOLLM2, "--system", SYSTEM, "-o", tmp_path / "f16")
    assert "not of" in refused("import", "--state", other, file, "--trust", key, SMOLLM2)
    kv("import", "--state", other, file, "--trust", key, SMOLLM2, "--kv-dtype", "f8")
    stop_agents(other)
    travelled = answer(other, 1, "f8")
    assert travelled["text"] == first["text"]
    assert travelled["usage"]["reused_tokens"] >= tokens_of_system() // BLOCK * BLOCK, travelled
    assert answer(other, 1, "f16")["usage"]["reused_tokens"] == 0


def test_a_full_disk_is_told_and_costs_nothing_else(kept, small_disk, tmp_path):
    state, _, _ = kept
    file = tmp_path / "file"
    key = kv_json("export", "--state", state, SMOLLM2, "--system", SYSTEM, "-o", file)["public_key"]
    target = small_disk / "file"
    target.write_text("what was there")
    assert "disk is full" in refused("export", "--state", state, SMOLLM2, "--system", SYSTEM, "-o", target)
    assert target.read_text() == "what was there" and os.listdir(small_disk) == ["file"]
    assert "make room" in refused("import", "--state", small_disk / "state", file, "--trust", key)
    assert kv_json("verify", "--state", small_disk / "state")["damaged"] == 0


def test_wrong_use_is_told(kept, tmp_path):
    state, _, _ = kept
    assert "--state" in refused("ls", "--state", tmp_path / "none", status=2)
    assert not (tmp_path / "none").exists()
    (tmp_path / "empty").mkdir(mode=0o700)
    assert "no KV is kept" in refused("verify", "--state", tmp_path / "empty")
    (tmp_path / "open").mkdir(mode=0o755)
    assert "chmod 700" in refused("ls", "--state", tmp_path / "open", status=2)
    assert "nobody" in refused("show", "--state", state, "--conversation", "nobody")
    assert "kv ls" in refused("show", "--state", state, "ffffffffffff")
    refused("show", "--state", state, status=2)
    file = tmp_path / "file"
    assert "nobody" in refused("export", "--state", state, SMOLLM2, "--conversation", "nobody", "-o", file)
    assert "whole blocks" in refused("export", "--state", state, SMOLLM2, "--system", "Short.", "-o", file)
    assert "one chat with it" in refused("export", "--state", state, SMOLLM2, "--system", SYSTEM.upper(), "-o", file)
    assert "not there" in refused("export", "--state", state, SMOLLM2, "--system", SYSTEM, "--kv-dtype", "f32", "-o", file)
    refused("export", "--state", state, SMOLLM2, "-o", file, status=2)
    assert "directory" in refused("export", "--state", state, SMOLLM2, "--system", SYSTEM, "-o", tmp_path, status=2)
    assert not file.exists()
    for words in (["kv"], ["kv", "frobnicate"], ["kv", "ls"], ["kv", "gc", "--state", state, "--older-than", "soon"]):
        assert run([TANDEM, *words]).returncode == 2, words
    shown = run([TANDEM, "kv", "--help"])
    assert shown.returncode == 0 and "tandem kv export --state S" in shown.stdout


def test_other_hosts_are_named_and_their_share_is_not_missed(kept, tmp_path):
    state, _, _ = kept
    copy = copy_of(state, tmp_path / "copy")
    mine = copy / "kv" / socket.gethostname()
    mine.rename(copy / "kv/elsewhere")
    assert "elsewhere" in refused("ls", "--state", copy)
    shutil.copytree(copy / "kv/elsewhere", mine)
    assert kv_json("ls", "--state", copy)["other_hosts"] == ["elsewhere"]
    assert "--this-host-alone" in kv("gc", "--state", copy).stdout
    (copy / "kv/elsewhere").rename(tmp_path / "elsewhere")
    assert kv_json("ls", "--state", copy)["other_hosts"] == []
    (mine / "peers/far").touch()
    assert kv_json("ls", "--state", copy)["other_hosts"] == ["far"]


def test_a_server_that_starts_meanwhile_has_its_kv(kept, start_server, tmp_path):
    """A command that is the agent for a while serves who comes, and leaves the place to a real one."""
    state, answers, _ = kept
    copy = copy_of(state, tmp_path / "copy")
    import subprocess
    checks = subprocess.Popen(["sh", "-c", f"for i in 1 2 3 4 5 6; do '{TANDEM}' kv verify --state '{copy}' || exit 1; done"],
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    server = serve(start_server, copy)
    with client_of(server) as client:
        done = client.say("talk", "And of shelf 7?", max_tokens=4)
        assert done["type"] == "done" and done["durable"] is True
        assert checks.wait(60) == 0, checks.stderr.read()
        end = time.monotonic() + 20
        while not agents_of(copy):
            assert time.monotonic() < end, "the server's own agent comes"
            time.sleep(0.05)
        again = ask(client, conversation="more")
        assert again["text"] == answers["talk"][0]
    kill_all(server, agents_below=copy)
