"""Ranks that are stopped while the job starts: one line says which, on which host and at what, and the command ends."""
import contextlib
import os
import pathlib
import re
import signal
import time

import pytest
from conftest import MPIRUN, SMOLLM2, TANDEM, Server, assert_no_leftovers, run, session_processes
from test_hosts import MPIRUN_ARGUMENTS
from test_state import agents_of, client_of, end_agents

HOST = os.uname().nodename
LISTEN = ("--listen", "tcp://127.0.0.1:*")
SOON = ("--collective-timeout", 1)  # which a start takes for 15 s, its least


def ranks_of(server):
    """By number, those that have been started: {rank: pid}."""
    found = {}
    for pid, _ in session_processes(server.process.pid):
        with contextlib.suppress(OSError):
            environment = pathlib.Path(f"/proc/{pid}/environ").read_bytes()
            if os.readlink(f"/proc/{pid}/exe").endswith("/tandem") and b"OMPI_COMM_WORLD_RANK=" in environment:
                found[int(re.search(rb"OMPI_COMM_WORLD_RANK=(\d+)", environment)[1])] = pid
    return found


def has_opened_its_model(pid):
    return os.path.basename(SMOLLM2) in pathlib.Path(f"/proc/{pid}/maps").read_text()


class Starting:
    """A command whose ranks are stopped before they are ready."""

    def __init__(self, command, victims, when=has_opened_its_model):
        self.server, self.victims = Server(command), victims
        end = time.monotonic() + 30
        while not set(victims) <= (ranks := ranks_of(self.server)).keys():
            assert time.monotonic() < end and self.server.process.poll() is None
        self.pids = [ranks[victim] for victim in victims]
        for pid in self.pids:
            while not when(pid):
                assert time.monotonic() < end
            os.kill(pid, signal.SIGSTOP)
        self.begin = time.monotonic()

    def log_of_the_end(self, status=1, within=45):
        try:
            assert self.server.process.wait(within) == status
            log = self.server.rest_of_log()
            assert " serving " not in log
            assert_no_leftovers(self.server)
            return log
        finally:
            for pid, _ in session_processes(self.server.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def errors_in(log):
    return [line for line in log.splitlines() if line.startswith("tandem: ")]


def check_that_it_names(starting):
    log = starting.log_of_the_end()
    assert time.monotonic() - starting.begin > 10, "a rank has reason to wait so long"
    [line] = errors_in(log)
    for victim, pid in zip(starting.victims, starting.pids):
        named = rf"rank {victim} on host {HOST} has given no sign for \d+ s: it was \w+ing"
        # One that had just come together with the others.
        beside = rf"on host {HOST} has waited \d+ s, \w+ing .*, for ranks that have not come: .*rank {victim} \(process {pid}\) is stopped"
        assert re.search(f"{named}|{beside}", line), log
    assert "--collective-timeout" in line


def commands():
    serve = (SMOLLM2, *LISTEN, *SOON)
    generate = (SMOLLM2, "-p", "hi", "--max-tokens", 4, *SOON)
    return {"serve": [TANDEM, "serve", *serve, "-n", 2],
            "serve under mpirun": [*MPIRUN, "-n", 2, TANDEM, "serve", *serve],
            "generate": [TANDEM, "generate", *generate, "-n", 2],
            "generate under mpirun": [*MPIRUN, "-n", 2, TANDEM, "generate", *generate]}


@pytest.mark.parametrize("name", commands())
def test_a_stopped_rank_is_named_and_the_start_ends(name):
    command = commands()[name]
    for starting in [Starting(command, [victim]) for victim in (0, 1)]:
        check_that_it_names(starting)


def test_ranks_that_are_stopped_together_are_named_by_who_started_them():
    check_that_it_names(Starting(commands()["serve"], [0, 1]))


def test_a_rank_that_does_not_join_is_found_by_the_others():
    """Before MPI has brought the ranks together, they see who is stopped on their own host."""
    command = commands()["serve under mpirun"]
    for starting in [Starting(command, [victim], when=lambda pid: True) for victim in (0, 1)]:
        [line] = errors_in(starting.log_of_the_end())
        assert "joining the other ranks" in line
        assert f"rank {starting.victims[0]} (process {starting.pids[0]}) is stopped" in line


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_start_that_stands_still_can_be_ended(signal_number):
    for name, command in commands().items():
        starting = Starting(command, [1])
        time.sleep(1)
        starting.server.process.send_signal(signal_number)
        begin = time.monotonic()
        try:
            starting.server.process.wait(20)
            assert time.monotonic() - begin < 12, name
            assert_no_leftovers(starting.server)
        finally:
            for pid, _ in session_processes(starting.server.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_a_rank_that_is_stopped_for_a_while_starts_all_the_same():
    for victim in (0, 1):
        starting = Starting(commands()["serve"], [victim])
        server = starting.server
        try:
            time.sleep(10)
            os.kill(starting.pids[0], signal.SIGCONT)
            server.wait_until_ready()
            assert server.stop() == 0, server.rest_of_log()
            assert_no_leftovers(server)
        finally:
            for pid, _ in session_processes(server.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


def test_a_rank_on_another_host_is_named_too(lab, tmp_path):
    hostfile = tmp_path / "hosts"
    hostfile.write_text("10.97.0.1 slots=1\n10.97.0.2 slots=1\n")

    command = lab("exec", 1, TANDEM, "serve", SMOLLM2, "-n", 2, "--hostfile", hostfile, "--mpirun-arguments", MPIRUN_ARGUMENTS,
                  "--listen", f"ipc://{tmp_path}/socket", *SOON)
    server = Server(command)
    try:
        end = time.monotonic() + 60
        pids = []
        while not pids or not has_opened_its_model(pids[0]):
            assert time.monotonic() < end and server.process.poll() is None, server.rest_of_log()
            inside = run(["ip", "netns", "pids", "tandem-lab-2"]).stdout.split()
            pids = [pid for pid in inside if os.path.exists(f"/proc/{pid}/exe")
                    and os.readlink(f"/proc/{pid}/exe").endswith("/tandem")
                    and b"OMPI_COMM_WORLD_RANK=1" in pathlib.Path(f"/proc/{pid}/environ").read_bytes()]
        os.kill(int(pids[0]), signal.SIGSTOP)
        assert server.process.wait(60) == 1
        log = server.rest_of_log()
        assert "rank 1 on host tandem-lab-2 has given no sign for" in log, log
        assert "has not answered" not in log, "the host has: its rank has begun"
    finally:
        server.process.kill()
        run(lab("down"))


@pytest.mark.parametrize("ranks", [1, 2])
def test_an_agent_that_is_stopped_keeps_no_server_from_starting(tmp_path, ranks):
    """No turn depends on saved KV; and who waits for the agent is not taken for one that stands still."""
    state = tmp_path / "state"
    command = [TANDEM, "serve", SMOLLM2, *LISTEN, *SOON, "--state", state, "-n", ranks]
    first = Server(command)
    second = None
    try:
        first.wait_until_ready()
        with client_of(first) as client:
            assert client.say("a", "Name a thing that is blue.")["durable"] is True
        assert first.stop() == 0
        [agent] = agents_of(tmp_path)
        os.kill(agent, signal.SIGSTOP)
        second = Server(command).wait_until_ready()
        with client_of(second) as client:
            assert client.say("a", "And one that is red.")["durable"] is True
            assert len(client.ask("conversation.get", conversation="a")["messages"]) == 4
        log = "".join(second.log)
        assert log.count("KV agent in ") >= 1 and " error: " not in log, log
        os.kill(agent, signal.SIGCONT)
        assert second.stop() == 0, second.rest_of_log()
    finally:
        end_agents(tmp_path)
        for server in filter(None, (first, second)):
            for pid, _ in session_processes(server.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
