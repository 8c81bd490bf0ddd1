"""What is measured under load, one function a scenario; each starts a server, replays, stops it and returns plain data."""
import http.client
import json
import pathlib
import re
import resource
import socket
import statistics
import time

import serve_clients

STATUS_SECONDS = 0.1  # between looks at the pages


def quantile(values, share):
    """The smallest value that so large a share of the values does not exceed; None of none."""
    ordered = sorted(values)
    return ordered[max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1)] if ordered else None


def gaps(pieces):
    return [after - before for before, after in zip(pieces, pieces[1:])]


def summary(answers, begin):
    """Figures of the answers to a load that began at `begin`, in seconds and tokens."""
    first = [answer["pieces"][0] - answer["sent"] for answer in answers if answer["pieces"]]
    between = [gap for answer in answers for gap in gaps(answer["pieces"])]
    seconds = max(answer["end"] for answer in answers) - begin
    tokens = sum(answer["tokens"] for answer in answers)
    return {"first_p50": quantile(first, 0.5), "first_p99": quantile(first, 0.99), "between_p50": quantile(between, 0.5),
            "between_p99": quantile(between, 0.99), "seconds": seconds, "tokens": tokens, "tokens_per_second": tokens / seconds,
            "prompt_tokens": sum(answer["usage"]["prompt_tokens"] for answer in answers)}


def timeline(answers, begin):
    """Of each chat, in seconds from the beginning: {"sent", "pieces", "end"}."""
    return [{"sent": round(answer["sent"] - begin, 4), "end": round(answer["end"] - begin, 4),
             "pieces": [round(at - begin, 4) for at in answer["pieces"]]} for answer in answers]


def replay(server, chats, never, begin_chat=None):
    """Sends every chat at its time, or has begin_chat(its number) send it and give its stream; returns (answers in the chats' order,
    status documents on the way with their times, when it began)."""
    begin, next_look = time.monotonic(), 0.0
    streams, opened, looks = [], [], []
    while len(streams) < len(chats) or opened:
        now = time.monotonic() - begin
        while len(streams) < len(chats) and chats[len(streams)].arrival <= now:
            chat = chats[len(streams)]
            streams.append(begin_chat(len(streams)) if begin_chat else server.open(chat.prompt, chat.answer, never))
            opened.append(streams[-1])
        if now >= next_look:
            server.ask_status()
            next_look = now + STATUS_SECONDS
        wake = min(next_look, chats[len(streams)].arrival if len(streams) < len(chats) else next_look)
        for stream in serve_clients.wait(opened, wake - (time.monotonic() - begin)):
            if stream.receive():
                stream.close()
        opened = [stream for stream in opened if not stream.ended]
        looks += [(time.monotonic(), status) for status in server.statuses()]
    return [stream.answer() for stream in streams], looks, begin


def pages_of(looks, begin):
    """{"most": pages used at once, "total": pages there are, "by_time": [[seconds, pages used]]} of looks at the status; empty
    without any."""
    pages = [(at - begin, look["pages"]) for at, look in looks if look.get("type") == "status"]
    if not pages:
        return {}
    return {"most": max(page["used"] for _, page in pages), "total": pages[-1][1]["total"],
            "by_time": [[round(at, 3), page["used"]] for at, page in pages]}


def run_chats(server, chats, slots, never):
    """Many chats that arrive on their own: a summary, "pages", "timeline", and the engine's "steps" where it tells."""
    context = max(len(chat.prompt) + chat.answer for chat in chats)
    server.start(slots, -(-(context + 8) // 256) * 256)
    try:
        before = server.status() if hasattr(server, "status") else None
        answers, looks, begin = replay(server, chats, never)
        result = {**summary(answers, begin), "pages": pages_of(looks, begin), "timeline": timeline(answers, begin)}
        if before is not None:
            result["steps"] = server.status()["totals"]["steps"] - before["totals"]["steps"]
        for chat, answer in zip(chats, answers):
            if answer["tokens"] != chat.answer:
                raise serve_clients.Failed(f"an answer has {answer['tokens']} tokens, expected {chat.answer}: a token that ends "
                                           "answers was not kept from coming")
        return result
    finally:
        server.stop()


def run_turns(server, questions, answer, never, resend):
    """A chat of several turns: of each turn what was new to the model, what was computed, and seconds to the first text.

    New are the tokens of the turn's question (with the template's around it) and of its answer: what no cache can know."""
    server.start(1, 8192)
    try:
        turns, known, history = [], 0, []
        for number, question in enumerate(questions):
            message = {"role": "user", "content": question}
            history.append(message)
            request = {"type": "chat", "id": f"r{number}", "max_tokens": answer, "messages": history if resend else [message],
                       "logit_bias": {str(token): serve_clients.NEVER for token in never}}
            if not resend:
                request["conversation"] = "bench"
            got = serve_clients.run_alone(server.send(request))
            history.append({"role": "assistant", "content": got["text"]})
            usage = got["usage"]
            # The answer before is known but for its last token, which nothing has read yet.
            new = usage["prompt_tokens"] - known + usage["completion_tokens"]
            known = usage["prompt_tokens"] + usage["completion_tokens"]
            computed = usage.get("computed_tokens",
                                 usage["prompt_tokens"] - usage["reused_tokens"] + usage["completion_tokens"])
            turns.append({"prompt": usage["prompt_tokens"], "answer": usage["completion_tokens"], "new": new, "computed": computed,
                          "ratio": computed / new, "first": got["pieces"][0] - got["sent"]})
        return {"turns": turns}
    finally:
        server.stop()


def run_summarize(server, texts, answer, never):
    """Summaries, one after the other: tokens a second from the first text to the last."""
    server.start(1, 8192)
    try:
        tokens, seconds, drafts = 0, 0.0, []
        for text in texts:
            got = serve_clients.run_alone(server.send({
                "type": "chat", "max_tokens": answer, "logit_bias": {str(token): serve_clients.NEVER for token in never},
                "messages": [{"role": "user", "content": f"Summarize this text:\n\n{text}"}]}))
            tokens += got["tokens"]
            seconds += got["end"] - got["pieces"][0]
            drafts.append([got["usage"].get("drafted_tokens", 0), got["usage"].get("accepted_tokens", 0)])
        return {"tokens_per_second": tokens / seconds, "drafts": drafts}
    finally:
        server.stop()


def read_pieces(stream, count):
    """Receives until so many more pieces have come."""
    wanted = stream_pieces(stream) + count
    while stream_pieces(stream) < wanted:
        if stream.ended:
            raise serve_clients.Failed("the stream ended before the measurement did; its context is full")
        for ready in serve_clients.wait([stream], 1):
            ready.receive()


def stream_pieces(stream):
    return len(stream.frames if isinstance(stream, serve_clients.TandemStream) else stream.reads)


def run_long_prompt(server, short, long, alone, never):
    """A running stream, beside which a long prompt is read: gaps between its pieces alone (half of them before, half after) and
    meanwhile, and how long the prompt took."""
    server.start(2, 8192)
    try:
        stream = server.open(short, 8192 - len(short) - 8, never)
        read_pieces(stream, 8)  # the first ones are the prompt's
        before = time.monotonic()
        read_pieces(stream, alone // 2)
        reader = server.open(long, 1, never)
        while not reader.ended:
            for ready in serve_clients.wait([stream, reader], 1):
                ready.receive()
        reader.close()
        read = reader.answer()
        begin, end = read["sent"], read["end"]
        read_pieces(stream, alone // 2)
        after = time.monotonic()
        pieces = pieces_so_far(stream)
        stream.cancel()
        stream.close()

        def between(first, last):
            return [later - earlier for earlier, later in zip(pieces, pieces[1:]) if first < later <= last]

        # A gap belongs to the time in which it ends; the first piece after the prompt has waited for it too.
        waited = next(at for at in pieces if at >= end)
        return {"alone": between(before, begin) + between(waited, after), "beside": between(begin, waited),
                "seconds": end - begin}
    finally:
        server.stop()


def first_token_over_zeromq(server, prompt):
    """Seconds from a request to the first text of its answer, on a connection that is there."""
    begin, first = time.perf_counter(), None
    request = {"v": 1, "id": f"f{begin}", "type": "complete", "tokens": prompt, "max_tokens": 4, "cache": False}
    server.asking.send(json.dumps(request).encode())
    while True:
        frame = server.asking.recv()
        if first is None and b'"type":"delta"' in frame:
            first = time.perf_counter() - begin
        if b'"type":"error"' in frame:
            raise serve_clients.Failed(frame.decode())
        if b'"type":"done"' in frame:
            return first


def first_token_over_http(connection, prompt):
    """The same over HTTP; connection: a socket."""
    body = json.dumps(serve_clients.completion(prompt, 4, cache=False)).encode()
    head = ("POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n")
    begin, first, got = time.perf_counter(), None, b""
    connection.sendall(head.encode() + body)
    while not got.endswith(b"0\r\n\r\n"):
        part = connection.recv(1 << 16)
        if not part:
            raise serve_clients.Failed(f"the server closed the connection: {got.decode()}")
        if first is None and b"data: {" in part:
            first = time.perf_counter() - begin
        got += part
    if not got.startswith(b"HTTP/1.1 200 ") or b"data: [DONE]" not in got:
        raise serve_clients.Failed(got.decode())
    return first


def run_first_token(server, prompts):
    """One request after the other, each prompt over ZeroMQ and over HTTP in turn, on connections that stay: seconds to the first
    text. server: a TandemHttp."""
    server.start(1, 8192)
    try:
        zeromq, http = [], []
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for number, prompt in enumerate(prompts):
                for way in (number % 2, 1 - number % 2):
                    if way == 0:
                        zeromq.append(first_token_over_zeromq(server, prompt))
                    else:
                        http.append(first_token_over_http(connection, prompt))
        return {"zeromq": zeromq, "http": http}
    finally:
        server.stop()


def first_token_figures(rounds):
    """Over the requests of all rounds: medians of each way, and of the differences of the same prompt."""
    pooled = {key: [seconds for sample in rounds for seconds in sample[key]] for key in ("zeromq", "http")}
    return {**{key: statistics.median(seconds) for key, seconds in pooled.items()},
            "difference": statistics.median(over - without for over, without in zip(pooled["http"], pooled["zeromq"]))}


def memory(pid):
    """{what: bytes}: of a process, of all sockets' buffers, and of the kernel's small objects."""
    def number(path, pattern):
        return int(re.search(pattern, pathlib.Path(path).read_text(), re.MULTILINE)[1])

    return {"process": 1024 * number(f"/proc/{pid}/smaps_rollup", r"^Pss: +(\d+) kB"),
            "buffers": resource.getpagesize() * number("/proc/net/sockstat", r"^TCP: .* mem (\d+)"),
            "kernel": 1024 * number("/proc/meminfo", r"^Slab: +(\d+) kB")}


def run_connections(server, count):
    """So many connections over HTTP that have asked once and then wait: bytes of each. server: a TandemHttp."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = count + 200
    if soft != resource.RLIM_INFINITY and soft < wanted:
        if hard != resource.RLIM_INFINITY and hard < wanted:
            raise serve_clients.Failed(f"{count} connections take {wanted} file descriptors, but {hard} are allowed (ulimit -Hn)")
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    server.start(1, 8192)
    connections = []
    try:
        for _ in range(20):  # what the server makes once is no connection's
            ask_health(server.port).close()
        time.sleep(1)
        before = memory(server.process.process.pid)
        connections = [ask_health(server.port) for _ in range(count)]
        time.sleep(1)
        after = memory(server.process.process.pid)
        # They are still there, and nobody else minds.
        serve_clients.run_alone(server.open([1, 2, 3], 4))
        for connection in connections[::100]:
            ask_health(server.port, connection)
        return {"connections": count, **{key: (after[key] - before[key]) / count for key in after}}
    finally:
        for connection in connections:
            connection.close()
        server.stop()


def ask_health(port, connection=None):
    """A connection that was answered, and stays."""
    if connection is None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.connect()
        connection.auto_open = False  # it is this one, or none
    connection.request("GET", "/health")
    answer = connection.getresponse()
    answer.read()  # all of it, or the next answer would begin with its rest
    if answer.status != 200:
        raise serve_clients.Failed("/health did not answer")
    return connection


def pieces_so_far(stream):
    """When pieces of a stream that goes on came."""
    if isinstance(stream, serve_clients.TandemStream):
        return [at for at, frame in stream.frames if b'"type":"delta"' in frame]
    return [at for at, event in stream.events() if event.get("content")]


def long_prompt_figures(rounds):
    """Medians and 99th percentiles over the gaps of all rounds, and the medians of the rounds' ratios."""
    pooled = {key: [gap for sample in rounds for gap in sample[key]] for key in ("alone", "beside")}
    figures = {f"{key}_{name}": quantile(pooled[key], share)
               for key in pooled for name, share in (("p50", 0.5), ("p99", 0.99))}
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        figures[f"ratio_{name}"] = statistics.median(quantile(sample["beside"], share) / quantile(sample["alone"], share)
                                                     for sample in rounds)
    figures["seconds"] = statistics.median(sample["seconds"] for sample in rounds)
    return figures
