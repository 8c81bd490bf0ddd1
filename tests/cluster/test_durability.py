"""Conversations that are on the disks of two hosts before an answer counts as done: --durability 2."""
import os
import random
import shutil
import signal
import threading
import time

import pytest
from conftest import SMOLLM2, TANDEM, files_in, run
from test_hosts import Hosts, two_copies  # noqa: F401 (a fixture)
from test_hosts import stop as stop_server
from test_state import (TURNS, agents_of, check_and_go_on, client_of, converse, files_with, said, tokens_of,
                        undisturbed)  # noqa: F401 (a fixture)


def say_durably(client, undisturbed, name, turn):  # noqa: F811
    done = client.say(name, said(name, turn))
    assert (tokens_of(done), done["text"]) == undisturbed[name][turn]
    assert done["durable"] is True, client.ask("status")["state"]
    return done


def wait_for(condition, seconds=30):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it does not come"
        time.sleep(0.05)


def lose(hosts, host):
    """Everything that runs on a host, and all that the state directory had there."""
    hosts.kill(host)
    shutil.rmtree(hosts.kv(host))
    for path in hosts.state.glob("conversations*"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def test_another_host_goes_on_with_every_acknowledged_turn(two_copies, undisturbed):  # noqa: F811
    hosts = two_copies
    server = hosts.serve([1, 2], "--durability", 2)
    with client_of(server) as client:
        read = {}
        for name in ("c0", "c1"):
            for turn in range(TURNS - 1):
                usage = say_durably(client, undisturbed, name, turn)["usage"]
            read[name] = usage["prompt_tokens"] + usage["completion_tokens"]
        state = client.ask("status")["state"]
        assert state["copied"] == {"host": "tandem-lab-2", "uncopied_changes": 0}, state
    lose(hosts, 1)
    server.process.wait(30)

    # On the host that has the copy, alone: with what one host can promise.
    server = hosts.serve([2])
    with client_of(server) as client:
        usage = {}
        for name in ("c0", "c1"):
            done = client.say(name, said(name, TURNS - 1))
            assert (tokens_of(done), done["text"]) == undisturbed[name][TURNS - 1]
            usage = done["usage"]
            assert usage["reused_tokens"] >= read[name] - 2, usage
    stop_server(server)


def test_hosts_that_are_lost_at_random_points_lose_no_durable_turn(two_copies, undisturbed, request):  # noqa: F811
    hosts = two_copies
    kills = max(1, request.config.getoption("--kills") // 2)
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged = dict.fromkeys(undisturbed, 0)
    asked = dict.fromkeys(undisturbed, 0)
    durable_turns = 0
    job = [1, 2]
    for kill in range(kills + 1):
        server = hosts.serve(job, "--durability", 2)
        with client_of(server) as client:
            reached = check_and_go_on(client, undisturbed, acknowledged, asked)
            asked.update(reached)
            for name in undisturbed:  # those that are complete begin again, under the same name
                if reached[name] == TURNS:
                    deleted = client.ask("conversation.delete", conversation=name)["type"] == "conversation.delete"
                    reached[name] = acknowledged[name] = 0
                    asked[name] = 0 if deleted else TURNS  # a host that is away may still have it
        stop = threading.Event()
        wrong = []
        before = dict(acknowledged)
        threads = [threading.Thread(target=converse, args=(server.endpoint, name, reached[name], undisturbed[name],
                                                           acknowledged, stop, wrong, asked))
                   for name in undisturbed]
        for thread in threads:
            thread.start()
        if kill == kills:
            for thread in threads:
                thread.join()
            assert not wrong, wrong
            stop_server(server)
            break
        time.sleep(chance.uniform(0.3, 3))
        stop.set()
        gateway, other = job
        what = chance.choice(["gateway", "gateway", "other", "both live on"])
        if what == "gateway":
            lose(hosts, gateway)
            survivor = other
        elif what == "other":
            hosts.kill(other)
            shutil.rmtree(hosts.kv(other))
            survivor = gateway
        else:
            hosts.kill(gateway)
            hosts.kill(other)
            survivor = chance.choice(job)
        server.process.wait(60)
        for thread in threads:
            thread.join()
        assert not wrong, wrong
        durable_turns += sum(acknowledged[name] - before[name] for name in undisturbed)
        # The next job has a host that has all; any other beside it, in any order.
        job = [survivor, chance.choice([host for host in (1, 2, 3) if host != survivor])]
        chance.shuffle(job)
    assert durable_turns > kills / 2, (durable_turns, "hardly anything was durable")


def test_a_third_host_fetches_the_copy(two_copies, undisturbed):  # noqa: F811
    hosts = two_copies
    server = hosts.serve([1, 2], "--durability", 2)
    with client_of(server) as client:
        for turn in range(2):
            say_durably(client, undisturbed, "c0", turn)
    first = hosts.folder / "first"
    hosts.kill(1)
    server.process.wait(30)
    (hosts.state / "conversations").rename(first)
    server = hosts.serve([3, 2], "--durability", 2)
    with client_of(server) as client:
        say_durably(client, undisturbed, "c0", 2)
        assert client.ask("status")["state"]["copied"]["host"] == "tandem-lab-2"
    stop_server(server)
    for path, permissions, _ in files_in(hosts.state):
        assert permissions & 0o077 == 0, path

    # The first comes back with what it had: it does not go on from there as if nothing had been.
    third = hosts.folder / "third"
    (hosts.state / "conversations").rename(third)
    shutil.move(first, hosts.state / "conversations")
    with pytest.raises(AssertionError, match="(?s)tandem-lab-2.*--recover"):
        hosts.serve([1, 2], "--durability", 2)
    state_id = next((hosts.kv(2) / "conversations").iterdir()).name
    server = hosts.serve([1, 2], "--durability", 2, "--recover", f"{state_id}@tandem-lab-2")
    with client_of(server) as client:
        say_durably(client, undisturbed, "c0", 3)
    assert (hosts.state / "conversations.aside-1").is_dir()
    stop_server(server)


def test_a_copy_that_is_away_is_told_and_caught_up_with(lab, start_server, tmp_path, undisturbed):  # noqa: F811
    hosts = Hosts(lab, start_server, tmp_path)
    server = hosts.serve([1, 2], "--durability", 2)

    def agent_of(host):
        return [pid for pid in agents_of(tmp_path)
                if open(f"/proc/{pid}/cmdline", "rb").read().split(b"\0")[3].endswith(f"-{host}".encode())]

    with client_of(server) as client:
        say_durably(client, undisturbed, "c0", 0)
        # Its agent dies, and is started again by the rank there.
        [agent] = agent_of(2)
        os.kill(agent, signal.SIGKILL)
        done = client.say("c0", said("c0", 1))
        assert tokens_of(done) == undisturbed["c0"][1][0]
        if not done["durable"]:
            state = client.ask("status")["state"]
            assert "tandem-lab-2" in str(state) or "no other host" in str(state), state

        def copied():
            state = client.ask("status")["state"]
            return (state["copied"] == {"host": "tandem-lab-2", "uncopied_changes": 0}
                    and state["trouble"] is None)
        wait_for(copied)
        say_durably(client, undisturbed, "c0", 2)
        # Damaged while it is down: it is fetched whole again.
        [agent] = agent_of(2)
        os.kill(agent, signal.SIGSTOP)  # so that the next is not started meanwhile
        [copy] = (hosts.kv(2) / "conversations").iterdir()
        damaged = 0
        for path in copy.glob("*.log"):
            data = bytearray(path.read_bytes())
            for place in range(100, len(data), 400):
                data[place] ^= 0xff
            path.write_bytes(data)
            damaged += len(data) > 100
        assert damaged > 0
        os.kill(agent, signal.SIGKILL)
        client.say("c0", said("c0", 3))
        wait_for(copied)
    lose(hosts, 1)
    server.process.wait(30)
    server = hosts.serve([2])
    with client_of(server) as client:
        done = client.say("c0", said("c0", 4))
        assert (tokens_of(done), done["text"]) == undisturbed["c0"][4]
    stop_server(server)


def test_a_copy_that_is_removed_is_no_copy(lab, start_server, tmp_path, undisturbed):  # noqa: F811
    hosts = Hosts(lab, start_server, tmp_path)
    server = hosts.serve([1, 2], "--durability", 2)
    with client_of(server) as client:
        say_durably(client, undisturbed, "c0", 0)
        older = hosts.folder / "older"
        shutil.copytree(hosts.kv(2) / "conversations", older)
        say_durably(client, undisturbed, "c0", 1)
        for turn, put_back in ((2, False), (3, True)):
            shutil.rmtree(hosts.kv(2) / "conversations")
            if put_back:
                shutil.copytree(older, hosts.kv(2) / "conversations")
            # It has all of it again before the turn counts.
            say_durably(client, undisturbed, "c0", turn)
        copied = hosts.folder / "copied"
        shutil.copytree(hosts.kv(2), copied, ignore=shutil.ignore_patterns("*.sock"))
        # Without its directory the agent ends; the next has not met the server's.
        shutil.rmtree(hosts.kv(2))
        client.say("c1", said("c1", 0))
        wait_for(lambda: client.ask("status")["state"]["trouble"])
        done = client.say("c1", said("c1", 1))
        assert done["durable"] is False
    lose(hosts, 1)
    server.process.wait(30)
    hosts.kill(2)
    shutil.rmtree(hosts.kv(2), ignore_errors=True)
    shutil.move(copied, hosts.kv(2))
    server = hosts.serve([2])
    with client_of(server) as client:
        done = client.say("c0", said("c0", 4))
        assert (tokens_of(done), done["text"]) == undisturbed["c0"][4]
    stop_server(server)


def test_deleting_destroys_the_copy_too(lab, start_server, tmp_path):
    hosts = Hosts(lab, start_server, tmp_path)
    secret = "xylophone zeppelin"

    server = hosts.serve([1, 2], "--durability", 2)
    with client_of(server) as client:
        assert client.say("a", secret)["durable"]
        assert any(hosts.kv(2) in path.parents for path in files_with(hosts.state, secret))
        answer = client.ask("conversation.delete", conversation="a")
        assert answer["type"] == "conversation.delete", answer
        assert not files_with(hosts.state, secret)
    stop_server(server)


def test_one_host_cannot_promise_two(tmp_path):
    refused = run([TANDEM, "serve", SMOLLM2, "-n", 2, "--state", tmp_path / "state", "--durability", 2,
                   "--listen", f"ipc://{tmp_path}/socket"])
    assert refused.returncode == 1 and "--durability 2: the job has one host" in refused.stderr, refused.stderr
    refused = run([TANDEM, "serve", SMOLLM2, "--durability", 2, "--listen", f"ipc://{tmp_path}/socket"])
    assert refused.returncode == 2 and "--state" in refused.stderr, refused.stderr
