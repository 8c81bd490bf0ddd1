"""Hosts that are cut off, lose their processes, and come back, in the lab: streams go on on those that are left."""
import contextlib
import os
import signal
import time

import pytest
from conftest import SMOLLM2, TANDEM, run
from test_hosts import MPIRUN_ARGUMENTS
from test_recovery import REQUESTS, Answer, ask, undisturbed  # noqa: F401


def serve_on(lab, start_server, folder, hosts, *more):
    hostfile = folder / "hosts"
    hostfile.write_text("".join(f"10.97.0.{host} slots=1\n" for host in hosts))
    return start_server(*lab("exec", 1, TANDEM, "serve", SMOLLM2, "-n", len(hosts), "--threads", 1, "--hostfile", hostfile,
                             "--mpirun-arguments", MPIRUN_ARGUMENTS, "--listen", f"ipc://{folder}/socket",
                             "--max-restarts", 100, *more))


def hosts_in(server):
    return [rank["host"] for rank in ask(server.endpoint, "status")["ranks"]]


def wait_for_hosts(server, *hosts, seconds=60):
    end = time.monotonic() + seconds
    while True:
        status = ask(server.endpoint, "status")
        if [rank["host"] for rank in status["ranks"]] == [f"tandem-lab-{host}" for host in hosts] \
                and not status["recovery"]["down"]:
            return
        assert time.monotonic() < end, status
        time.sleep(0.2)


def link(lab, host, state):
    assert run(lab("link", host, state)).returncode == 0


def workers_on(host):
    """Process ids of ranks on a host."""
    found = []
    for pid in run(["ip", "netns", "pids", f"tandem-lab-{host}"]).stdout.split():
        with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline", "rb") as file:
            if b"worker" in file.read().split(b"\0"):
                found.append(int(pid))
    return found


@pytest.mark.parametrize("more, left", [(["--spares", "10.97.0.3"], (1, 3)), (["--elastic"], (1,))])
def test_a_host_is_cut_off_and_comes_back(lab, start_server, tmp_path, undisturbed, more, left):  # noqa: F811
    requests = [{"max_tokens": 1500}, *REQUESTS[1:4]]
    server = serve_on(lab, start_server, tmp_path, (1, 2), *more)
    assert hosts_in(server) == ["tandem-lab-1", "tandem-lab-2"]
    answers = [Answer(server.endpoint, f"c{i}", fields) for i, fields in enumerate(requests)]
    answers[0].wait_for_deltas(20)
    old = workers_on(2)
    assert old
    link(lab, 2, "down")
    wait_for_hosts(server, *left)
    assert "rank 1 on host tandem-lab-2" in answers[0].notices[0]
    assert [answer.outcome() for answer in answers] == undisturbed(requests)
    long = Answer(server.endpoint, "long", {"max_tokens": 2500})
    link(lab, 2, "up")
    wait_for_hosts(server, 1, 2)
    assert long.outcome() == undisturbed([{"max_tokens": 2500}])[0]
    end = time.monotonic() + 30
    while set(old) & set(workers_on(2)) and time.monotonic() < end:  # nothing of the first epoch stays
        time.sleep(0.2)
    assert not set(old) & set(workers_on(2))
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    end = time.monotonic() + 20
    while any(workers_on(host) for host in (1, 2, 3)) and time.monotonic() < end:
        time.sleep(0.2)
    assert not any(workers_on(host) for host in (1, 2, 3))


@pytest.mark.parametrize("replicas", [1, 2])
def test_all_processes_of_a_host_are_killed_with_its_agent(lab, start_server, tmp_path, undisturbed, replicas):  # noqa: F811
    server = serve_on(lab, start_server, tmp_path, (1, 2), "--state", tmp_path / "state", "--kv-replicas", replicas)
    answers = [Answer(server.endpoint, f"c{i}", fields) for i, fields in enumerate(REQUESTS)]
    answers[0].wait_for_deltas(20)
    for pid in run(["ip", "netns", "pids", "tandem-lab-2"]).stdout.split():
        with contextlib.suppress(ProcessLookupError):
            os.kill(int(pid), signal.SIGKILL)
    assert [answer.outcome() for answer in answers] == undisturbed(REQUESTS)
    assert hosts_in(server) == ["tandem-lab-1", "tandem-lab-2"]
    assert len(answers[0].notices) == 1
    assert server.stop(signal.SIGINT) == 0, server.rest_of_log()
    run(lab("exec", 1, TANDEM, "agent", "stop", "--state", tmp_path / "state"))
    run(lab("exec", 2, TANDEM, "agent", "stop", "--state", tmp_path / "state"))
