"""KV that the agents of several hosts keep for each other, on hosts made of network namespaces."""
import contextlib
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import pytest
from conftest import LAB, SMOLLM2, TANDEM, files_in, run
from test_state import (TURNS, agents_of, client_of, said, tokens_of,
                        undisturbed, write_key)  # noqa: F401 (a fixture)

MPIRUN_ARGUMENTS = " ".join(["--map-by node --mca plm_rsh_agent", f"{LAB}_rsh", "--mca orte_keep_fqdn_hostnames 1",
                             "--mca oob_tcp_if_include eth0 --mca btl_tcp_if_include eth0 --mca btl tcp,self,vader"])


class Hosts:
    """Starts servers on hosts of the lab, which share the state directory as they share the disk."""

    def __init__(self, lab, start_server, folder, *flags):
        self.lab, self.start_server, self.folder, self.flags = lab, start_server, folder, flags
        self.state = folder / "state"
        self.started = 0

    def serve(self, hosts, *more):
        """The gateway on the first of them, two ranks spread over all."""
        self.started += 1
        hostfile = self.folder / f"hosts{self.started}"
        hostfile.write_text("".join(f"10.97.0.{host} slots={2 // len(hosts)}\n" for host in hosts))
        return self.start_server(*self.lab("exec", hosts[0], TANDEM, "serve", SMOLLM2, "-n", 2, "--threads", 1,
                                           "--hostfile", hostfile, "--mpirun-arguments", MPIRUN_ARGUMENTS, "--listen",
                                           f"ipc://{self.folder}/socket{self.started}", "--state", self.state,
                                           *self.flags, *more))

    def kill(self, host):
        """kill -9 of everything on a host."""
        pids = run(["ip", "netns", "pids", f"tandem-lab-{host}"]).stdout.split()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)

    def kv(self, host):
        return self.state / f"kv/tandem-lab-{host}"


def stop(server):
    assert server.stop() == 0, server.rest_of_log()


def test_a_lab_that_a_restart_of_the_machine_left_behind_is_in_nobodys_way(lab):
    """What is left of its namespaces then are plain files."""
    assert run(lab("down")).returncode == 0
    for name in ("1", "2", "3", "switch"):
        pathlib.Path(f"/run/netns/tandem-lab-{name}").touch()
    assert run(lab("list")).stdout == ""
    refused = run(lab("exec", 1, "true"))
    assert refused.returncode == 1 and "there is no host 1" in refused.stderr
    up = run(lab("up", 2))
    assert up.returncode == 0 and "Error" not in up.stderr, up.stderr
    assert run(lab("exec", 2, "hostname")).stdout == "tandem-lab-2\n"


@pytest.fixture(params=["plain", "encrypted"])
def two_copies(lab, start_server, tmp_path, request):
    flags = ["--kv-replicas", 2]
    if request.param == "encrypted":
        flags += ["--state-key", write_key(tmp_path / "key", 1)]
    return Hosts(lab, start_server, tmp_path, *flags)


def test_a_lost_host_costs_nothing_and_a_new_one_takes_over(two_copies, undisturbed):  # noqa: F811
    hosts = two_copies
    server = hosts.serve([1, 2])
    with client_of(server) as client:
        read = {}
        for name in ("c0", "c1"):
            for turn in range(TURNS - 1):
                done = client.say(name, said(name, turn))
                assert (tokens_of(done), done["text"]) == undisturbed[name][turn]
            read[name] = done["usage"]["prompt_tokens"] + done["usage"]["completion_tokens"]
    hosts.kill(2)
    assert server.process.wait(30) != 0
    shutil.rmtree(hosts.kv(2))

    server = hosts.serve([1])
    with client_of(server) as client:
        done = client.say("c0", said("c0", TURNS - 1))
    assert (tokens_of(done), done["text"]) == undisturbed["c0"][TURNS - 1]
    usage = done["usage"]
    assert usage["reused_tokens"] >= read["c0"] - 2, usage
    assert usage["reused_from"]["remote"] == 0, usage
    stop(server)

    # One that has nothing beside one that has all.
    server = hosts.serve([3, 1])
    with client_of(server) as client:
        done = client.say("c1", said("c1", TURNS - 1))
        assert (tokens_of(done), done["text"]) == undisturbed["c1"][TURNS - 1]
        usage = done["usage"]
        assert usage["reused_from"]["remote"] == usage["reused_tokens"] >= read["c1"] - 2, usage
        assert client.ask("status")["reuse"]["reused_from"]["remote"] == usage["reused_tokens"]
    shown = run([TANDEM, "status", "--connect", server.endpoint])
    assert f"{usage['reused_tokens']} from other hosts" in shown.stdout
    stop(server)

    # It has taken over what it used, and finds the rest where it was.
    server = hosts.serve([3])
    with client_of(server) as client:
        usage = client.say("c1", "Go on.")["usage"]
        assert usage["reused_tokens"] >= read["c1"] and usage["reused_from"]["remote"] > 0, usage
    stop(server)
    for host in (1, 3):
        assert hosts.kv(host).stat().st_mode & 0o077 == 0
        for path, permissions, _ in files_in(hosts.kv(host)):
            assert permissions & 0o077 == 0, path


def test_an_agent_that_is_cut_off_stalls_nobody(lab, start_server, tmp_path):
    hosts = Hosts(lab, start_server, tmp_path)
    names = [f"c{number}" for number in range(8)]
    server = hosts.serve([1, 2])
    with client_of(server) as client:
        for name in names:
            client.say(name, said(name, 0) * 4)
    stop(server)
    server = hosts.serve([1])
    with client_of(server) as client:
        assert client.say(names[0], "Why?")["usage"]["reused_from"]["remote"] > 0
        begin = time.monotonic()
        client.say("new", said("new", 0) * 4)
        usual = time.monotonic() - begin
        assert run(lab("link", 2, "down")).returncode == 0
        slowest = 0
        for name in ["another", names[1], names[2]]:
            begin = time.monotonic()
            done = client.say(name, said(name, 1) * 4)
            slowest = max(slowest, time.monotonic() - begin)
            assert done["type"] == "done" and done["usage"]["reused_from"]["remote"] == 0, done
        # A second is what nobody waits longer than for KV; and as much again for a busy machine.
        assert slowest < usual + 2, (slowest, usual)
        assert run(lab("link", 2, "up")).returncode == 0
        remote = 0
        for name in names[3:]:  # it is noticed within 10 s
            time.sleep(4)
            remote = client.say(name, "Why?")["usage"]["reused_from"]["remote"]
            if remote:
                break
        assert remote > 0
    stop(server)


def test_deleting_names_the_host_that_is_away_until_it_is_back_or_dropped(lab, start_server, tmp_path):
    hosts = Hosts(lab, start_server, tmp_path, "--kv-replicas", 2)
    server = hosts.serve([1, 2])
    with client_of(server) as client:
        for name in ("a", "b", "c"):
            client.say(name, said(name, 0) * 4)
        assert client.ask("conversation.delete", conversation="a")["type"] == "conversation.delete"
    stop(server)
    hosts.kill(2)
    server = hosts.serve([1])
    with client_of(server) as client:
        def wait_until_destroyed():
            end = time.monotonic() + 30
            while client.ask("status")["state"]["unfinished_erasures"] and time.monotonic() < end:
                time.sleep(0.2)
            return client.ask("status")["state"]
        answer = client.ask("conversation.delete", conversation="b")
        assert answer["type"] == "error" and "tandem-lab-2" in answer["message"], answer
        told = client.ask("status")["state"]
        assert told["unfinished_erasures"] == 1 and "tandem-lab-2" in told["trouble"], told
        # Its agent comes back, without any job.
        back = subprocess.Popen([str(word) for word in lab("exec", 2, TANDEM, "agent", "run", hosts.kv(2))],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        state = wait_until_destroyed()
        assert state["unfinished_erasures"] == 0 and state["trouble"] is None, state
        back.kill()
        back.wait()
        answer = client.ask("conversation.delete", conversation="c")
        assert answer["type"] == "error", answer
        (hosts.kv(1) / "peers/tandem-lab-2").unlink()
        state = wait_until_destroyed()
        assert state["unfinished_erasures"] == 0 and state["trouble"] is None, state
    stop(server)


def listening_sockets(lab, host, pid):
    """TCP sockets at which a process on a host listens."""
    sockets = set()
    for entry in os.scandir(f"/proc/{pid}/fd"):
        with contextlib.suppress(OSError):
            if match := re.match(r"socket:\[(\d+)\]", os.readlink(entry.path)):
                sockets.add(match[1])
    lines = run(lab("exec", host, "cat", "/proc/net/tcp", "/proc/net/tcp6")).stdout.splitlines()
    rows = [line.split() for line in lines]
    return [row[1] for row in rows if len(row) > 9 and row[3] == "0A" and row[9] in sockets]  # 0A: listening


def test_an_agent_listens_only_where_a_job_of_several_hosts_has_it_listen(lab, start_server, tmp_path):
    hosts = Hosts(lab, start_server, tmp_path)
    server = hosts.serve([1])
    [agent] = agents_of(tmp_path)
    assert not listening_sockets(lab, 1, agent)
    stop(server)
    server = hosts.serve([1, 2])
    [address] = listening_sockets(lab, 1, agent)
    assert address.split(":")[0].endswith("0100610A"), address  # 10.97.0.1
    stop(server)


def test_an_export_fetches_what_other_hosts_have(lab, start_server, tmp_path):
    hosts = Hosts(lab, start_server, tmp_path)
    file = tmp_path / "file"

    def export(name):
        return run(lab("exec", 1, TANDEM, "kv", "export", "--state", hosts.state, SMOLLM2, "--conversation", name,
                       "-o", file, "--json"))

    server = hosts.serve([1, 2])
    with client_of(server) as client:
        first = client.say("c", said("c", 0) * 6)
        client.say("d", said("d", 0) * 6)
    stop(server)
    # Each host has the KV heads of its rank.
    exported = json.loads(export("c").stdout)
    assert exported["missing"] == "" and exported["tokens"] >= 64, exported
    other = tmp_path / "other"
    imported = run([TANDEM, "kv", "import", "--state", other, file, "--trust", exported["public_key"]])
    assert imported.returncode == 0, imported.stderr
    server = start_server(TANDEM, "serve", SMOLLM2, "--listen", f"ipc://{tmp_path}/other_socket", "--state", other)
    with client_of(server) as client:
        done = client.say("another", said("c", 0) * 6)
    assert done["usage"]["reused_tokens"] == min(exported["tokens"], first["usage"]["prompt_tokens"] - 1) // 64 * 64
    assert done["text"] == first["text"]
    stop(server)
    # Without that host it says what it lacks, and leaves what was there.
    hosts.kill(2)
    assert json.loads(export("c").stdout)["missing"] == "", "what was fetched was kept"
    before = file.read_bytes()
    refused = export("d")
    assert refused.returncode == 1 and "tandem-lab-2" in refused.stderr, refused.stderr
    assert file.read_bytes() == before
