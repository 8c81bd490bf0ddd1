"""A client of the ZeroMQ protocol, version 1, written from its text alone, against a real server.

TANDEM_ENDPOINT names the server, like tcp://127.0.0.1:5555. Needs pyzmq; runs under pytest, or by
itself (then the last line says how many tests passed).
"""

import json
import math
import os
import time

import zmq

TIMEOUT_MS = 120_000
ERROR_CODES = {
    "invalid_argument", "not_found", "too_large", "overloaded", "unavailable", "unimplemented",
    "deadline_exceeded", "cancelled", "damaged", "internal",
}
# The ids that end an answer of SmolLM2 and Gemma: without them an answer is as long as it may be.
ENDLESS = {"max_tokens": 2000, "logit_bias": {"0": -1000, "1": -1000, "2": -1000, "106": -1000}}
CONTEXT = zmq.Context()


class Client:
    """One DEALER socket; answers are sorted by the id they belong to."""

    def __init__(self, identity=None):
        self.socket = CONTEXT.socket(zmq.DEALER)
        self.socket.linger = 0
        if identity is not None:
            self.socket.routing_id = identity
        self.socket.connect(os.environ["TANDEM_ENDPOINT"])
        self.frames = {}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, type_, id_, **fields):
        self.socket.send(json.dumps({"v": 1, "type": type_, "id": id_, **fields}).encode())

    def chat(self, id_, content, **fields):
        self.send("chat", id_, messages=[{"role": "user", "content": content}], **fields)

    def receive(self):
        assert self.socket.poll(TIMEOUT_MS), "no frame came in time"
        parts = self.socket.recv_multipart()
        assert len(parts) == 1, "one frame a message"
        frame = json.loads(parts[0].decode("utf-8"))
        assert frame["v"] == 1
        if frame["type"] == "error":
            assert frame["code"] in ERROR_CODES and frame["message"]
        self.frames.setdefault(frame.get("id"), []).append(frame)
        return frame

    def wait_for(self, id_, *types):
        """The first frame of these types for this id; frames before it are kept in self.frames."""
        while True:
            for frame in self.frames.get(id_, []):
                if frame["type"] in types:
                    return frame
            self.receive()

    def answer(self, id_):
        return self.wait_for(id_, "done", "error")


def check_stream(client, id_):
    """accepted, then deltas that count from 0, then a done whose text is all of them."""
    frames = client.frames[id_]
    assert frames[0]["type"] == "accepted"
    deltas = frames[1:-1]
    assert [frame["type"] for frame in deltas] == ["delta"] * len(deltas)
    assert [frame["seq"] for frame in deltas] == list(range(len(deltas)))
    done = frames[-1]
    assert done["type"] == "done"
    assert "".join(frame["text"] for frame in deltas) == done["text"]
    usage = done["usage"]
    assert usage["prompt_tokens"] > 0
    assert usage["completion_tokens"] >= 0
    assert set(usage["reused_from"]) == {"device", "host", "disk", "remote"}
    return done


def requests_in_engine(client):
    client.frames.pop("status", None)
    client.send("status", "status")
    requests = client.wait_for("status", "status")["requests"]
    return requests["running"] + requests["waiting"]


def test_ping():
    with Client() as client:
        client.send("ping", "p1")
        assert client.wait_for("p1", "pong")["ready"] is True


def test_status_tells_ranks_requests_pages_and_rates():
    with Client() as client:
        client.send("status", "s1")
        status = client.wait_for("s1", "status")
        assert {"ranks", "requests", "pages", "reuse", "speculation", "rates", "totals"} <= set(status)
        assert set(status["pages"]) == {"total", "used", "cached"}
        assert len(status["ranks"]) >= 1
        assert all(rank["host"] for rank in status["ranks"])


def test_streams_a_chat():
    with Client() as client:
        client.chat("r1", "What is the capital of France?", max_tokens=16)
        client.answer("r1")
        done = check_stream(client, "r1")
        assert done["finish_reason"] in ("stop", "length")
        assert done["usage"]["completion_tokens"] <= 16


def test_greedy_answers_repeat_and_seeds_make_sampled_ones_repeat():
    with Client() as client:
        texts = []
        for id_, fields in (("g1", {}), ("g2", {}),
                            ("s1", {"temperature": 1.2, "seed": 5}),
                            ("s2", {"temperature": 1.2, "seed": 5})):
            client.chat(id_, "Tell me something.", max_tokens=12, **fields)
            texts.append(client.answer(id_)["text"])
        assert texts[0] == texts[1]
        assert texts[2] == texts[3]
        client.chat("s3", "Tell me something.", max_tokens=12, temperature=1.2)
        drawn = client.answer("s3")
        client.chat("s4", "Tell me something.", max_tokens=12, temperature=1.2, seed=drawn["seed"])
        assert client.answer("s4")["text"] == drawn["text"]


def test_streams_two_chats_at_once_and_cancels_one():
    with Client() as client:
        client.chat("long", "Count to one thousand.", **ENDLESS)
        client.chat("short", "What is the capital of France?", max_tokens=24)
        client.wait_for("long", "delta")
        client.wait_for("short", "delta")
        client.answer("short")
        check_stream(client, "short")
        # The long one was going on meanwhile, and still is.
        assert client.frames["long"][-1]["type"] in ("accepted", "delta")
        client.send("cancel", "long")
        assert client.answer("long")["finish_reason"] == "cancelled"
        check_stream(client, "long")


def test_completes_raw_text_and_tokens():
    with Client() as client:
        client.send("complete", "c1", prompt="The capital of France is", max_tokens=4)
        client.answer("c1")
        by_text = check_stream(client, "c1")
        assert by_text["usage"]["completion_tokens"] <= 4
        client.send("complete", "c2", tokens=[504, 3575, 282, 4649, 314], max_tokens=4)
        assert client.answer("c2")["type"] == "done"


def test_stop_strings_are_not_delivered():
    with Client() as client:
        client.chat("r1", "What is the capital of France?", max_tokens=24)
        text = client.answer("r1")["text"]
        stop = text[3:7]
        client.chat("r2", "What is the capital of France?", max_tokens=24, stop=[stop])
        done = client.answer("r2")
        check_stream(client, "r2")
        assert done["finish_reason"] == "stop"
        assert done["text"] == text[:text.index(stop)]


def test_the_same_id_never_runs_twice():
    with Client(b"somebody") as client:
        client.chat("r1", "Hello!", max_tokens=8)
        first = client.answer("r1")
        before = client.frames.pop("r1")
        client.chat("r1", "Hello!", max_tokens=8)
        assert client.answer("r1") == first
        assert client.frames["r1"] == before
        client.chat("r1", "Something else", max_tokens=8)
        client.frames.pop("r1")
        assert client.answer("r1")["code"] == "invalid_argument"


def test_ids_belong_to_a_connection():
    with Client() as one, Client() as two:
        one.chat("r1", "Count to one thousand.", **ENDLESS)
        one.wait_for("r1", "delta")
        two.send("cancel", "r1")
        assert two.answer("r1")["code"] == "not_found"
        one.send("cancel", "r1")
        assert one.answer("r1")["finish_reason"] == "cancelled"


def test_what_is_not_built_yet_answers_unimplemented():
    with Client() as client:
        client.chat("u1", "Hi", tools=[{"type": "function"}])
        assert client.answer("u1")["code"] == "unimplemented"


def ask(client, type_, **fields):
    client.frames.pop("ask", None)
    client.send(type_, "ask", **fields)
    return client.wait_for("ask", type_, "error")


def a_new_conversation():
    return f"test-{os.getpid()}-{time.monotonic_ns()}"


def test_a_conversation_answers_as_one_chat_with_all_messages():
    name = a_new_conversation()
    messages = []
    for content in ("What is the capital of France?", "And of Italy?", "Which is larger?",
                    "Thank you!"):
        with Client() as client:  # another connection each turn
            client.chat("c", content, conversation=name, max_tokens=24)
            kept = client.answer("c")
            check_stream(client, "c")
            assert kept["conversation"] == name
            messages.append({"role": "user", "content": content})
            client.send("chat", "m", messages=messages, max_tokens=24)
            whole = client.answer("m")
            assert kept["text"] == whole["text"]
            assert kept["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]
            messages.append({"role": "assistant", "content": kept["text"]})
    with Client() as client:
        got = ask(client, "conversation.get", conversation=name)
        assert got["messages"] == messages
        assert got["tokens"] >= kept["usage"]["prompt_tokens"]
        assert ask(client, "conversation.delete", conversation=name)["type"] == "conversation.delete"


def test_conversations_are_listed_forked_and_deleted():
    name, fork = a_new_conversation(), a_new_conversation() + "-fork"
    with Client() as client:
        client.chat("r1", "My name is Ada.", conversation=name, max_tokens=8)
        client.answer("r1")
        assert ask(client, "conversation.fork", conversation=name, to=fork)["to"] == fork
        client.chat("r2", "One.", conversation=name, max_tokens=4)
        client.chat("r3", "Two.", conversation=fork, max_tokens=4)
        client.answer("r2")
        client.answer("r3")
        left = ask(client, "conversation.get", conversation=name)["messages"]
        right = ask(client, "conversation.get", conversation=fork)["messages"]
        assert left[:2] == right[:2] and left[2]["content"] == "One." and right[2]["content"] == "Two."
        names = [entry["conversation"] for entry in ask(client, "conversation.list")["conversations"]]
        assert name in names and fork in names
        assert ask(client, "conversation.list", tenant="somebody else")["conversations"] == []
        assert ask(client, "conversation.get", conversation=name, tenant="x")["code"] == "not_found"
        for each in (name, fork):
            assert ask(client, "conversation.delete", conversation=each)["conversation"] == each
            assert ask(client, "conversation.delete", conversation=each)["code"] == "not_found"


def test_a_conversation_has_one_answer_at_a_time():
    name = a_new_conversation()
    with Client() as client:
        client.chat("r1", "Count to one thousand.", conversation=name, **ENDLESS)
        client.wait_for("r1", "delta")
        client.chat("r2", "Hello?", conversation=name)
        busy = client.answer("r2")
        assert busy["code"] == "overloaded" and busy["retry_after"] > 0
        client.send("cancel", "r1")
        seen = client.answer("r1")["text"]
        assert ask(client, "conversation.get", conversation=name)["messages"][1]["content"] == seen
        ask(client, "conversation.delete", conversation=name)


def test_a_long_chat_is_shifted_or_cut_and_says_so():
    messages = [{"role": "system", "content": "You are brief."}]
    for i in range(400):
        messages += [{"role": "user", "content": f"Question {i}: " + "what about this and that? " * 25},
                     {"role": "assistant", "content": f"Answer {i}."}]
    messages.append({"role": "user", "content": "Well?"})
    with Client() as client:
        context = ask(client, "status")["model"]["context"]
        client.send("chat", "stop", messages=messages, context_policy="stop", max_tokens=1)
        assert client.answer("stop")["code"] == "invalid_argument"
        client.send("chat", "window", messages=messages, context_policy="window:64", max_tokens=2)
        done = client.answer("window")
        assert done["usage"]["prompt_tokens"] == 64
        assert done["dropped"]["messages"] == 0 and done["dropped"]["tokens"] > context - 64
        client.send("chat", "shift", messages=messages, context_policy="shift", max_tokens=2)
        done = client.answer("shift")
        assert done["type"] == "done", done
        if context < 60_000:  # else it need not be shifted
            assert done["dropped"]["messages"] > 0 and done["dropped"]["messages"] % 2 == 0
            assert done["usage"]["prompt_tokens"] < context


def test_samples_are_those_of_their_own_numbers():
    with Client() as client:
        fields = {"max_tokens": 8, "temperature": 1.0, "seed": 11}
        client.chat("n3", "Tell me something.", n=3, **fields)
        done = client.answer("n3")
        assert [choice["index"] for choice in done["choices"]] == [0, 1, 2]
        for index, choice in enumerate(done["choices"]):
            deltas = [f["text"] for f in client.frames["n3"]
                      if f["type"] == "delta" and f["index"] == index]
            assert "".join(deltas) == choice["text"]
        client.chat("n1", "Tell me something.", **fields)
        assert client.answer("n1")["text"] == done["choices"][0]["text"]


def test_logprobs_sum_up():
    with Client() as client:
        client.chat("r1", "What is the capital of France?", max_tokens=8, logprobs=3)
        done = client.answer("r1")
        check_stream(client, "r1")
        joined = [entry for frame in client.frames["r1"] if frame["type"] == "delta"
                  for entry in frame["logprobs"]]
        assert joined == done["logprobs"]
        assert len(joined) == done["usage"]["completion_tokens"]
        for entry in joined:
            assert entry["logprob"] <= 0 and len(entry["top"]) == 3
            best = [top["logprob"] for top in entry["top"]]
            assert best == sorted(best, reverse=True)
            assert entry["logprob"] == best[0], "a greedy token is the likeliest"
            assert sum(math.exp(value) for value in best) <= 1.0001


def test_echo_puts_the_prompt_first():
    with Client() as client:
        prompt = "The capital of France is"
        client.send("complete", "r1", prompt=prompt, max_tokens=3)
        plain = client.answer("r1")["text"]
        client.send("complete", "r2", prompt=prompt, max_tokens=3, echo=True)
        assert client.answer("r2")["text"] == prompt + plain
        client.send("complete", "r3", prompt=prompt, max_tokens=3, echo=True, logprobs=1)
        done = client.answer("r3")
        check_stream(client, "r3")
        assert done["text"] == prompt + plain
        assert len(done["logprobs"]) == sum(done["usage"][kind] for kind in ("prompt_tokens", "completion_tokens"))
        assert done["logprobs"][0]["logprob"] is None
        assert all(entry["logprob"] <= 0 for entry in done["logprobs"][1:])


def test_a_client_that_comes_back_resumes_its_stream():
    identity = b"resuming-%d" % os.getpid()
    with Client(identity) as client:
        client.chat("r1", "Count to one thousand.", **{**ENDLESS, "max_tokens": 300})
        last = client.wait_for("r1", "delta")["seq"]
        text = "".join(f["text"] for f in client.frames["r1"] if f["type"] == "delta")
        last = [f["seq"] for f in client.frames["r1"] if f["type"] == "delta"][-1]
    with Client(identity) as client:
        client.send("resume", "r1", last_seq=last)
        done = client.answer("r1")
        rest = {f["seq"]: f["text"] for f in client.frames["r1"] if f["type"] == "delta" and f["seq"] > last}
        assert sorted(rest) == list(range(last + 1, last + 1 + len(rest)))
        assert text + "".join(rest[seq] for seq in sorted(rest)) == done["text"]
        client.send("resume", "nothing")
        assert client.answer("nothing")["code"] == "not_found"


def test_bad_fields_say_what_and_where():
    with Client() as client:
        for i, (fields, word) in enumerate([
                ({"max_tokens": -1}, "max_tokens"), ({"temperature": "hot"}, "temperature"),
                ({"top_p": 2}, "top_p"), ({"stop": [""]}, "stop"), ({"seed": -1}, "seed"),
                ({"logit_bias": {"x": 1}}, "logit_bias"), ({"n": 17}, "n:"), ({"logprobs": 21}, "logprobs"),
                ({"tenant": "x" * 257}, "tenant"), ({"conversation": "x" * 257}, "conversation"),
                ({"context_policy": "window:x"}, "context_policy"), ({"priority": 1000}, "priority"),
                ({"echo": True}, "echo"), ({"messages": []}, "messages"),
                ({"messages": [{"role": "user"}]}, "content")]):
            id_ = f"bad{i}"
            client.send("chat", id_, **{"messages": [{"role": "user", "content": "x"}], **fields})
            error = client.answer(id_)
            assert error["code"] == "invalid_argument" and word in error["message"], error
        client.send("frobnicate", "b9")
        assert client.answer("b9")["code"] in ("invalid_argument", "unimplemented")
        client.chat("b10", "Hi", max_tokens=1, a_field_of_the_future=[1, {"x": None}])
        assert client.answer("b10")["type"] == "done"


def test_malformed_frames_get_an_error_and_the_server_goes_on():
    with Client() as client:
        for frames in ([b"{"], [b""], [b"\x00\xff\xfe\x80" * 50], [b"[1,2,3]"], [b"[" * 100_000],
                       [b'{"v":1,"type":"ping","id":"\xff"}'], [b"\x00"], [b"a", b"b"],
                       [b'{"v":99,"type":"ping","id":"p"}']):
            client.frames.clear()
            client.socket.send_multipart(frames)
            assert client.receive()["type"] == "error"
        client.socket.send(b'{"v":1,"type":"ping","id":"' + b"x" * 3_000_000 + b'"}')
        assert client.receive()["code"] == "too_large"
        client.send("ping", "after")
        assert client.wait_for("after", "pong")["ready"] is True


def test_a_prompt_longer_than_the_context_is_refused():
    with Client() as client:
        client.chat("r1", "many words " * 60_000, max_tokens=1)
        error = client.answer("r1")
        assert error["code"] == "invalid_argument"
        assert "context" in error["message"]


def test_a_deadline_ends_a_request():
    with Client() as client:
        client.chat("r1", "Count to one thousand.", deadline=0.3, **ENDLESS)
        assert client.answer("r1")["code"] == "deadline_exceeded"


def test_a_hundred_clients_that_vanish_leave_nothing_running():
    with Client() as witness:
        witness.chat("w", "Count to one thousand.", **ENDLESS)
        witness.wait_for("w", "delta")
        for i in range(100):
            client = Client(b"vanishing-%d" % i if i % 2 else None)
            client.chat("r1", "Count to one thousand.", **ENDLESS)
            if i % 10 == 0:
                client.wait_for("r1", "accepted", "error")
            client.socket.close(linger=100 if i % 3 == 0 else 0)
        end = time.monotonic() + 60
        while requests_in_engine(witness) > 1:
            assert time.monotonic() < end, "requests of clients that are gone still run"
            time.sleep(0.2)
        witness.send("cancel", "w")
        assert witness.answer("w")["finish_reason"] in ("cancelled", "length", "stop")
        check_stream(witness, "w")


if __name__ == "__main__":
    tests = [function for name, function in list(globals().items()) if name.startswith("test_")]
    failed = 0
    for test in tests:
        try:
            test()
            print(f"ok      {test.__name__}", flush=True)
        except Exception as error:  # a failed test must not hide the others
            failed += 1
            print(f"FAILED  {test.__name__}: {type(error).__name__}: {error}", flush=True)
    print(f"{len(tests) - failed} passed, {failed} failed")
    raise SystemExit(1 if failed else 0)
