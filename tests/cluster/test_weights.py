"""Packed weights that stay: mapped by the next start, whatever ended the one before; never believed when damaged; gone with
the agent. Greedy answers are those of ranks that read the model."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import time

import pytest
from conftest import SMOLLM2, TANDEM, assert_no_leftovers, run, session_processes
from test_state import Client, agents_of, end_agents, tokens_of

PROMPT = "Name three things that are blue, and say why each of them is."


@pytest.fixture
def state(tmp_path):
    yield tmp_path / "state"
    end_agents(tmp_path)


def serve(start_server, state, ranks, *more, model=SMOLLM2, prefix=()):
    return start_server(*prefix, TANDEM, "serve", model, "-n", ranks, "--state", state, "--listen", "tcp://127.0.0.1:*", *more)


def how_loaded(server):
    """"read" or "mapped" of each rank."""
    return re.findall(r"loaded in [0-9.]+ s \((\w+)\)", "".join(server.log))


def folder_in_memory(server):
    return pathlib.Path(re.search(r"in (/dev/shm/tandem-weights-\w+)", "".join(server.log))[1])


def answer(server):
    client = Client(server.endpoint)
    try:
        done = client.ask("chat", messages=[{"role": "user", "content": PROMPT}], max_tokens=24, temperature=0, logprobs=0)
        return tokens_of(done), [token["logprob"] for token in done["logprobs"]]
    finally:
        client.close()


def stop_agent(state):
    stopped = run([TANDEM, "agent", "stop", "--state", state])
    assert stopped.returncode == 0, stopped.stderr
    return stopped.stdout


def await_no_agent(state):
    end = time.monotonic() + 10
    while agents_of(state) and time.monotonic() < end:
        time.sleep(0.02)
    assert not agents_of(state)


@pytest.fixture(scope="module")
def expected():
    """The answer of a rank that reads the model, and has no state."""
    from conftest import Server
    server = Server([TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*"]).wait_until_ready()
    found = answer(server)
    server.stop(signal.SIGINT)
    return found


def test_are_mapped_at_the_next_start_and_go_with_the_agent(start_server, state, expected):
    begin = time.time()
    server = serve(start_server, state, 3)
    assert how_loaded(server) == ["read"] * 3
    folder = folder_in_memory(server)
    # A directory may have the inode number, and so the folder, of one that was removed under a killed agent.
    files = [file for file in folder.iterdir() if file.stat().st_mtime >= begin - 1]
    assert len(files) == 3 and all(file.stat().st_mode & 0o7777 == 0o600 for file in files)
    assert folder.stat().st_mode & 0o7777 == 0o700
    assert answer(server) == expected
    status = json.loads(run([TANDEM, "status", "--connect", server.endpoint, "--json"]).stdout)
    assert [rank["weights_mapped"] for rank in status["ranks"]] == [False] * 3
    assert server.stop() == 0, server.rest_of_log()
    before = {file: file.stat().st_ino for file in files}

    server = serve(start_server, state, 3)
    assert how_loaded(server) == ["mapped"] * 3
    assert f"were found in {folder}" in "".join(server.log)
    assert answer(server) == expected
    status = run([TANDEM, "status", "--connect", server.endpoint]).stdout
    assert status.count(" MiB, mapped ") == 3, status
    assert {file: file.stat().st_ino for file in folder.iterdir()} == before
    refused = run([TANDEM, "agent", "stop", "--state", state])
    assert refused.returncode == 1 and folder.exists()
    assert server.stop() == 0, server.rest_of_log()

    stop_agent(state)
    assert not folder.exists() and not list(state.glob("kv/*/weights"))


def test_outlive_kill_9_of_ranks_and_of_everything(start_server, state, expected):
    server = serve(start_server, state, 2)
    folder = folder_in_memory(server)
    os.kill(server.ranks()[1], signal.SIGKILL)
    server.process.wait(30)
    assert_no_leftovers(server)
    server = serve(start_server, state, 2)
    assert how_loaded(server) == ["mapped"] * 2 and answer(server) == expected
    # The agent, too: the next one takes over what it left.
    for pid in [pid for pid, _ in session_processes(server.process.pid)] + agents_of(state):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    server.process.wait(20)
    assert_no_leftovers(server)
    await_no_agent(state)
    server = serve(start_server, state, 2)
    assert how_loaded(server) == ["mapped"] * 2 and answer(server) == expected
    assert folder_in_memory(server) == folder
    # A rank computes on, whatever becomes of the agent; and its server starts another.
    os.kill(agents_of(state)[0], signal.SIGKILL)
    assert answer(server) == expected
    end = time.monotonic() + 15
    while not agents_of(state) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(list(folder.iterdir())) == 2
    assert server.stop() == 0, server.rest_of_log()
    stop_agent(state)
    assert not folder.exists()


def test_go_when_the_agent_has_had_no_user_for_a_while(start_server, state):
    server = serve(start_server, state, 2, "--agent-ttl", 1)
    folder = folder_in_memory(server)
    time.sleep(2.5)
    assert len(list(folder.iterdir())) == 2, "ranks are users"
    assert server.stop() == 0, server.rest_of_log()
    await_no_agent(state)
    assert not folder.exists()


def test_of_a_killed_agent_go_with_the_next_of_any_directory(start_server, state, tmp_path):
    server = serve(start_server, state, 1)
    folder = folder_in_memory(server)
    for pid in [server.process.pid, *agents_of(state)]:
        os.kill(pid, signal.SIGKILL)
    server.process.wait(20)
    await_no_agent(state)
    assert folder.exists()
    server = serve(start_server, tmp_path / "other", 1)
    assert folder.exists(), "the next agent of the directory may come still"
    end = time.monotonic() + 60
    while folder.exists():
        assert time.monotonic() < end
        time.sleep(0.1)
    assert server.stop() == 0, server.rest_of_log()
    stop_agent(tmp_path / "other")


def test_another_number_of_ranks_is_read_once(start_server, state, expected):
    for ranks, how in ((2, "read"), (3, "read"), (2, "mapped"), (3, "mapped")):
        server = serve(start_server, state, ranks)
        assert how_loaded(server) == [how] * ranks, ranks
        assert answer(server) == expected
        assert server.stop() == 0, server.rest_of_log()
    assert len(list(folder_in_memory(server).iterdir())) == 5


def test_of_a_file_that_was_written_to_are_read_anew(start_server, state, tmp_path):
    model = tmp_path / "model.gguf"
    shutil.copyfile(SMOLLM2, model)
    server = serve(start_server, state, 2, model=model)
    folder = folder_in_memory(server)
    before = set(folder.iterdir())
    assert server.stop() == 0, server.rest_of_log()
    with open(model, "r+b") as file:  # with what is there: the bytes are the same, and nothing but the time tells
        file.seek(-1, os.SEEK_END)
        byte = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(byte)
    server = serve(start_server, state, 2, model=model)
    assert how_loaded(server) == ["read"] * 2
    after = set(folder.iterdir())
    assert len(after) == 2 and not after & before, "those of the file as it was are gone"
    assert server.stop() == 0, server.rest_of_log()


@pytest.mark.parametrize("where", ["shm", "disk"])
def test_that_are_damaged_are_read_anew(start_server, state, expected, where):
    def files():
        server_folder = folder_in_memory(server) if where == "shm" else next(state.glob("kv/*/weights"))
        return sorted(file for file in server_folder.iterdir() if file.is_file())

    def written():
        end = time.monotonic() + 10
        while (len(files()) < 2) and time.monotonic() < end:
            time.sleep(0.02)
        return files()

    server = serve(start_server, state, 2, "--keep-weights", where)
    first, second = written()
    assert server.stop() == 0, server.rest_of_log()
    with open(first, "r+b") as file:
        file.seek(first.stat().st_size // 2)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    os.truncate(second, second.stat().st_size // 2)
    server = serve(start_server, state, 2, "--keep-weights", where)
    assert how_loaded(server) == ["read"] * 2
    log = "".join(server.log)
    assert log.count("these weights are removed, and read from the model anew") == 2, log
    assert answer(server) == expected
    assert written() == [first, second]
    assert server.stop() == 0, server.rest_of_log()
    server = serve(start_server, state, 2, "--keep-weights", where)
    assert how_loaded(server) == ["mapped"] * 2 and answer(server) == expected
    assert server.stop() == 0, server.rest_of_log()


def small_shm(megabytes):
    """What is before a command for which /dev/shm has no more."""
    if run(["unshare", "-m", "true"]).returncode != 0:
        pytest.skip("file systems cannot be mounted here")
    return ["unshare", "-m", "sh", "-c", f'mount -t tmpfs -o size={megabytes}m,mode=1777 none /dev/shm; exec "$@"', "sh"]


def test_that_shared_memory_has_no_room_for_stay_on_disk_or_nowhere(start_server, state, expected):
    prefix = small_shm(150)  # 96 MiB are wanted, and 64 stay free
    server = serve(start_server, state, 2, prefix=prefix)
    assert how_loaded(server) == ["read"] * 2 and answer(server) == expected
    [weights] = state.glob("kv/*/weights")
    assert f"stay for the next start in {weights}" in "".join(server.log)
    assert server.stop() == 0, server.rest_of_log()
    assert len(list(weights.iterdir())) == 2
    server = serve(start_server, state, 2, prefix=prefix)
    assert how_loaded(server) == ["mapped"] * 2 and answer(server) == expected
    assert server.stop() == 0, server.rest_of_log()

    stop_agent(state)
    assert not weights.exists()
    server = serve(start_server, state, 2, "--keep-weights", "shm", prefix=prefix)
    assert how_loaded(server) == ["read"] * 2 and answer(server) == expected
    assert re.search(r"packed weights are not kept for the next start: /dev/shm/tandem-weights-\w+: .* are wanted besides "
                     r"64.0 MiB that stay free, and .* are free", "".join(server.log)), server.log
    assert server.stop() == 0, server.rest_of_log()


def test_off_means_nowhere(start_server, state):
    for _ in range(2):
        server = serve(start_server, state, 1, "--keep-weights", "off")
        assert how_loaded(server) == ["read"]
        assert "packed weights" not in "".join(server.log)
        assert server.stop() == 0, server.rest_of_log()
    assert not list(state.glob("kv/*/weights"))
    # The agent keeps the flags that it was started with.
    server = serve(start_server, state, 1)
    assert "packed weights are not kept for the next start" in "".join(server.log)
    assert server.stop() == 0, server.rest_of_log()


def resident(path):
    """Bytes of a file that are in the page cache."""
    found = run(["fincore", "-b", "-n", "-o", "RES", path])
    assert found.returncode == 0, found.stderr
    return int(found.stdout)


def test_nothing_of_the_model_is_read_but_what_is_not_packed(start_server, state, tmp_path):
    model = tmp_path / "model.gguf"
    shutil.copyfile(SMOLLM2, model)
    server = serve(start_server, state, 2, model=model)
    assert resident(model) > 0.9 * model.stat().st_size
    assert server.stop() == 0, server.rest_of_log()
    with open(model, "rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if resident(model) > 0.1 * model.stat().st_size:
        pytest.skip("this file system's cache does not let go")
    server = serve(start_server, state, 2, model=model)
    assert how_loaded(server) == ["mapped"] * 2
    part = resident(model) / model.stat().st_size
    assert part < 0.25, part
    assert server.stop() == 0, server.rest_of_log()
