"""`tandem scale`: the number of ranks changes while answers stream, and no byte of them."""
import contextlib
import json
import os
import signal
import subprocess
import threading
import time

import pytest
from conftest import SMOLLM2, TANDEM, assert_no_leftovers, run
from test_recovery import REQUESTS, Answer, ask, serve, undisturbed  # noqa: F401


def scale(server, ranks, *more):
    return run([TANDEM, "scale", "-n", ranks, "--connect", server.endpoint, *more])


def ranks_in(server):
    return [rank["rank"] for rank in ask(server.endpoint, "status")["ranks"]]


def test_answers_go_on_with_more_and_fewer_ranks(start_server, undisturbed):  # noqa: F811
    server = serve(start_server, "--elastic", ranks=2)
    answers = [Answer(server.endpoint, f"c{i}", fields) for i, fields in enumerate(REQUESTS)]
    long = Answer(server.endpoint, "long", {"max_tokens": 1500})
    epoch = 1
    for ranks in (3, 1, 2):
        long.wait_for_deltas(50 * epoch)
        told = json.loads(scale(server, ranks, "--json").stdout)
        epoch += 1
        assert told["ranks"] == ranks and told["epoch"] == epoch and told["seconds"] > 0, told
        assert ranks_in(server) == list(range(ranks))
        time.sleep(0.5)
    assert [answer.outcome() for answer in answers] == undisturbed(REQUESTS)
    assert long.outcome() == undisturbed([{"max_tokens": 1500}])[0]
    recovery = ask(server.endpoint, "status")["recovery"]
    assert recovery["restarts"] == 0 and recovery["epoch"] == 4, recovery
    assert not any(answer.notices for answer in answers)
    end = time.monotonic() + 20
    while len(server.ranks()) != 2 and time.monotonic() < end:  # the old ones end
        time.sleep(0.1)
    assert len(server.ranks()) == 2
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert_no_leftovers(server)


def test_one_rank_may_become_two_and_die(start_server, undisturbed):  # noqa: F811
    server = serve(start_server, "--elastic", ranks=1)
    answer = Answer(server.endpoint, "c", REQUESTS[0])
    answer.wait_for_deltas(5)
    assert scale(server, 2).stdout.startswith("2 ranks from now on, as epoch 2, after ")
    os.kill(server.ranks()[-1], signal.SIGKILL)
    assert answer.outcome() == undisturbed(REQUESTS[:1])[0]
    assert ranks_in(server) == [0, 1], "a restart keeps the number"
    assert server.stop(signal.SIGINT) == 0


@pytest.mark.parametrize("victim", ["old", "new"])
def test_a_death_while_the_number_changes(start_server, undisturbed, victim):  # noqa: F811
    server = serve(start_server, "--elastic", ranks=2)
    answer = Answer(server.endpoint, "c", {"max_tokens": 1500})
    answer.wait_for_deltas(20)
    old = server.ranks()
    with subprocess.Popen([TANDEM, "scale", "-n", "3", "--connect", server.endpoint], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as asking:
        end = time.monotonic() + 30
        while len(server.ranks()) == len(old) and time.monotonic() < end:
            time.sleep(0.01)
        victims = old if victim == "old" else [pid for pid in server.ranks() if pid not in old]
        with contextlib.suppress(ProcessLookupError):
            os.kill(victims[-1], signal.SIGKILL)
        out, error = asking.communicate(timeout=60)
    if victim == "new" and asking.returncode != 0:
        assert "ended" in error or "died" in error, error
    elif asking.returncode != 0:
        raise AssertionError((out, error))
    assert answer.outcome() == undisturbed([{"max_tokens": 1500}])[0]
    assert ask(server.endpoint, "ping")["ready"]
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert_no_leftovers(server)


def test_fewer_ranks_that_hold_less(start_server, undisturbed):  # noqa: F811
    """--kv-memory is a rank's: less room is no reason to refuse, but an answer that may need more of it is."""
    server = serve(start_server, "--elastic", "--kv-memory", "8MiB", ranks=3)
    long = Answer(server.endpoint, "c", {"max_tokens": 600, "ignore_eos": True})
    long.wait_for_deltas(20)
    refused = scale(server, 2)
    assert refused.returncode == 1 and refused.stderr.count("\n") == 1, refused
    assert "an open request may come to" in refused.stderr and "hold 512 of one" in refused.stderr, refused
    assert ranks_in(server) == [0, 1, 2]
    outcome = long.outcome()
    assert outcome == undisturbed([{"max_tokens": 600, "ignore_eos": True}])[0]
    assert f"may come to {outcome[1] + 600} tokens" in refused.stderr, refused
    short = Answer(server.endpoint, "d", REQUESTS[1] | {"max_tokens": 200})
    short.wait_for_deltas(10)
    told = scale(server, 1)
    assert told.returncode == 0, told
    assert short.outcome() == undisturbed([REQUESTS[1] | {"max_tokens": 200}])[0]
    assert ranks_in(server) == [0]
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert_no_leftovers(server)


def test_what_cannot_be_is_told(start_server):
    server = serve(start_server, ranks=2)
    refused = scale(server, 3)
    assert refused.returncode == 1 and "--elastic" in refused.stderr and refused.stderr.count("\n") == 1, refused
    assert server.stop(signal.SIGINT) == 0
    server = serve(start_server, "--elastic", ranks=2)
    refused = scale(server, 10)
    assert refused.returncode != 0 and "9" in refused.stderr and refused.stderr.count("\n") == 1, refused
    assert ranks_in(server) == [0, 1]
    assert scale(server, 2).stdout.startswith("2 ranks from now on, as epoch 1, after 0.00 s")
    assert run([TANDEM, "scale", "-n", "0", "--connect", server.endpoint]).returncode == 2
    for fields in ({}, {"ranks": "two"}, {"ranks": 0}, {"ranks": 1 << 40}):
        frame = ask(server.endpoint, "scale", **fields)
        assert frame["type"] == "error" and frame["code"] == "invalid_argument" and "ranks" in frame["message"], frame
    told = []
    threads = [threading.Thread(target=lambda n=n: told.append(scale(server, n))) for n in (3, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.returncode for one in told) in ([0, 0], [0, 1]), told
    assert all("under way" in one.stderr for one in told if one.returncode), told
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    assert_no_leftovers(server)
