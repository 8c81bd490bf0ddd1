"""What strangers do to the ports between our processes, and ranks that are stopped: others get their answers, and
clients hear which rank it was."""
import contextlib
import os
import pathlib
import random
import re
import signal
import socket
import struct
import sys
import threading
import time

import pytest
import zmq
from conftest import MPIRUN, SMOLLM2, TANDEM, assert_no_leftovers, run
from test_faults import HOST, last_frame, open_chat, wait_for_delta
from test_hosts import Hosts
from test_state import agents_of, client_of, no_agents_left  # noqa: F401 (a fixture)

# frames, bytes of each: within what a socket queues, beyond it, and beyond what a frame may have
FLOODS = [(3, 10), (300, 1 << 20), (30000, 10), (5000, 1 << 12), (2, 70 << 20)]


def listening(pid):
    """Where a process listens: endpoints of ZeroMQ."""
    sockets = set()
    for link in pathlib.Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if match := re.fullmatch(r"socket:\[(\d+)\]", os.readlink(link)):
                sockets.add(match[1])
    found = []
    for line in pathlib.Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        fields = line.split(None, 7)
        if len(fields) == 8 and fields[6] in sockets and int(fields[3], 16) & 0x10000:
            found.append(f"ipc://{fields[7]}")
    for family in ("tcp", "tcp6"):
        for line in pathlib.Path(f"/proc/{pid}/net/{family}").read_text().splitlines()[1:]:
            fields = line.split()
            if fields[9] in sockets and fields[3] == "0A":
                address, port = fields[1].split(":")
                # Of an IPv6 socket, the IPv4 address that it is bound to.
                found.append(f"tcp://{socket.inet_ntoa(bytes.fromhex(address[-8:])[::-1])}:{int(port, 16)}")
    return found


def raw_socket(endpoint):
    transport, address = endpoint.split("://")
    if transport == "ipc":
        plain = socket.socket(socket.AF_UNIX)
        plain.connect("\0" + address[1:] if address[0] == "@" else address)
    else:
        host, port = address.rsplit(":", 1)
        plain = socket.create_connection((host, int(port)))
    # It leaves as one that is killed: what it has sent and nobody has read is lost.
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    return plain


def half_handshakes(endpoint, random_bytes):
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
    hello = b"\x04\xc8\x05HELLO\x01\x00" + bytes(192)
    for sent in (b"", greeting[:1], greeting[:11], greeting, greeting + hello[:9], greeting + hello,
                 greeting + b"\x04\x08\x04PING\x00\x01x", greeting + b"\x06" + b"\xff" * 8,
                 greeting.replace(b"CURVE", b"NULL\0") + b"\x04\x1a\x05READY\x0bSocket-Type\0\0\0\x04PULL" * 9,
                 random_bytes(1), random_bytes(100), random_bytes(100000)):
        with contextlib.suppress(ConnectionError), raw_socket(endpoint) as plain:
            plain.settimeout(1)
            plain.sendall(sent)
            if len(sent) % 3 == 0:
                with contextlib.suppress(TimeoutError):
                    plain.recv(4096)


def flood_and_leave(endpoint, frames, size, curve):
    with zmq.Context() as context, context.socket(zmq.DEALER) as flooder:
        flooder.linger = 0
        flooder.sndhwm = 0
        if curve:
            flooder.curve_publickey, flooder.curve_secretkey = zmq.curve_keypair()
            flooder.curve_serverkey = zmq.curve_keypair()[0]
        flooder.connect(endpoint)
        frame = os.urandom(min(size, 1 << 16)) * max(1, size >> 16)
        with contextlib.suppress(zmq.Again):
            for _ in range(frames):
                flooder.send(frame, zmq.NOBLOCK, copy=False)
        time.sleep(random.choice((0.01, 0.1, 0.4)))


def crowd(endpoint, members=16):
    """Many that send without a pause for a while, more than is read, and then leave: of some the input is stopped."""
    def flood():
        with contextlib.suppress(ConnectionError, TimeoutError), raw_socket(endpoint) as plain:
            plain.settimeout(5)
            plain.sendall(b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32) +
                          b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER")
            end = time.monotonic() + random.uniform(1, 3)
            while time.monotonic() < end:
                plain.sendall(b"\x00\x01x" * 20000)
    members = [threading.Thread(target=flood) for _ in range(members)]
    for member in members:
        member.start()
    for member in members:
        member.join()


def abuse(endpoints, seed):
    chance = random.Random(seed)
    for endpoint in endpoints:
        half_handshakes(endpoint, chance.randbytes)
        crowd(endpoint)
        for frames, size in FLOODS:
            for curve in (False, True):
                flood_and_leave(endpoint, frames, size, curve)
        for _ in range(200):
            with contextlib.suppress(ConnectionError):
                raw_socket(endpoint).close()


def chat_beside(server, strangers):
    """The answers of others are right before the strangers come, beside them, and after."""
    def chat(client, conversation):
        return client.say(conversation, "Tell me a long story about a lighthouse.", max_tokens=60, temperature=0,
                          seconds=120)
    with client_of(server) as client:
        right = chat(client, "before")["text"]
        for stranger in strangers:
            stranger.start()
        turns = 0
        while any(stranger.is_alive() for stranger in strangers):
            turns += 1
            assert chat(client, f"beside{turns}")["text"] == right
        assert turns > 0
        assert chat(client, "after")["text"] == right


def test_strangers_flood_and_leave_at_every_port_between_our_processes(start_server, tmp_path):
    state = tmp_path / "state"
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", 2, "--state", state, "--listen", "tcp://127.0.0.1:*")
    ranks, agents = server.ranks(), agents_of(tmp_path)
    assert len(agents) == 1
    # MPI has ports of its own; ours on one host are abstract Unix sockets.
    links = [port for pid in ranks for port in listening(pid) if port.startswith("ipc://@tandem-")]
    assert sorted(port.split("-")[1] for port in links) == ["control", "engine"], links
    # The agent names its socket by way of a descriptor that only it has.
    ports = links + [f"ipc://{path}" for path in state.rglob("agent.sock")]
    assert len(ports) == 3, ports
    strangers = [threading.Thread(target=abuse, args=(ports, seed)) for seed in range(2)]
    chat_beside(server, strangers)
    assert (server.ranks(), agents_of(tmp_path)) == (ranks, agents)
    assert server.stop() == 0, server.rest_of_log()


def test_strangers_flood_and_leave_at_every_port_between_hosts(lab, start_server, tmp_path):
    server = Hosts(lab, start_server, tmp_path, "--kv-replicas", 2).serve([1, 2])
    ranks, agents = server.ranks(), agents_of(tmp_path)
    # Ours are bound to an address, those of MPI to all.
    ports = [port for pid in (ranks[0], *agents) for port in listening(pid) if "//10.97.0." in port]
    assert len(ports) == 3, ports
    script = f"import test_abuse_links; test_abuse_links.abuse({ports}, 1)"
    stranger = threading.Thread(target=lambda: results.append(run(
        lab("exec", 1, sys.executable, "-c", script), cwd=pathlib.Path(__file__).parent)))
    results = []
    chat_beside(server, [stranger])
    assert results[0].returncode == 0, results[0].stderr
    assert (server.ranks(), agents_of(tmp_path)) == (ranks, agents)
    assert server.stop() == 0, server.rest_of_log()


STOPPED = [(2, 0, ()), (2, 1, ()), (3, 0, (5,)), (3, 1, (5,)), (3, 2, (5,)), (2, 0, (1,)), (2, 1, (1,))]


@pytest.mark.parametrize("ranks, victim, timeout", STOPPED)
def test_a_stopped_rank_is_named_to_those_before_and_after(start_server, ranks, victim, timeout):
    flags = [word for seconds in timeout for word in ("--collective-timeout", seconds)]
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", ranks, "--listen", "tcp://127.0.0.1:*", *flags)
    clients = [open_chat(server.endpoint, b"before")]
    wait_for_delta(clients[0])
    os.kill(server.ranks()[victim], signal.SIGSTOP)
    begin = time.monotonic()
    clients.append(open_chat(server.endpoint, b"after"))
    for client in clients:
        frame = last_frame(client)
        assert frame["type"] == "error" and frame["code"] == "unavailable", frame
        assert f"rank {victim} on host {HOST} has sent nothing" in frame["message"], frame
        client.close()
    assert time.monotonic() - begin < 20
    assert server.process.wait(40) == 1
    assert f"rank {victim} on host {HOST} has sent nothing" in server.rest_of_log()
    assert_no_leftovers(server)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_stopped_for_a_while_goes_on(start_server, victim):
    server = start_server(TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", "tcp://127.0.0.1:*",
                          "--collective-timeout", 5)
    question = {"max_tokens": 200, "temperature": 0, "seconds": 120}
    with client_of(server) as client:
        right = client.say("a", "Tell me a long story.", **question)["text"]
        pid = server.ranks()[victim]

        def stop_and_go_on():
            for _ in range(3):
                time.sleep(0.2)
                os.kill(pid, signal.SIGSTOP)
                time.sleep(2)
                os.kill(pid, signal.SIGCONT)
        interruption = threading.Thread(target=stop_and_go_on)
        interruption.start()
        assert client.say("b", "Tell me a long story.", **question)["text"] == right
        interruption.join()
        assert client.say("c", "Tell me a long story.", **question)["text"] == right
    assert server.stop() == 0, server.rest_of_log()


def test_a_stopped_follower_under_plain_mpirun_is_named_too(start_server):
    server = start_server(*MPIRUN, "-n", 3, TANDEM, "serve", SMOLLM2, "--listen", "tcp://127.0.0.1:*")
    client = open_chat(server.endpoint, b"client")
    wait_for_delta(client)
    os.kill(server.ranks()[2], signal.SIGSTOP)
    frame = last_frame(client)
    client.close()
    assert frame["type"] == "error" and frame["code"] == "unavailable", frame
    assert f"rank 2 on host {HOST} has sent nothing" in frame["message"], frame
    assert server.process.wait(40) != 0
    assert_no_leftovers(server)


def test_a_rank_whose_host_is_cut_off_is_named(lab, start_server, tmp_path):
    server = Hosts(lab, start_server, tmp_path).serve([1, 2])
    client = open_chat(server.endpoint, b"client")
    wait_for_delta(client)
    assert run(lab("link", 2, "down")).returncode == 0
    frame = last_frame(client)
    client.close()
    assert frame["type"] == "error" and frame["code"] == "unavailable", frame
    assert "rank 1 on host tandem-lab-2 has sent nothing" in frame["message"], frame
    assert server.process.wait(40) == 1
