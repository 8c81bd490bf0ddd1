"""Packages that people have, unmodified, against the HTTP gateway: openai, anthropic, litellm, langchain-openai, llm; and curl.

One server for all tests, since each takes a model's weights, and one process, since the packages take seconds to be imported."""
import io
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import types
import urllib.error
import urllib.request

import pytest
import zmq
from conftest import ROOT, SMOLLM2, TANDEM, Server, generate_json, run

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"  # it asks the internet else

KEY = "sk-test"
MODEL = pathlib.Path(SMOLLM2).stem
PROMPT = "The capital of France is"
MESSAGES = [{"role": "system", "content": "You are a helpful AI assistant."},
            {"role": "user", "content": "What is the capital of France?"}]
GREEDY = {"model": MODEL, "temperature": 0, "max_tokens": 24}
CHAT = GREEDY | {"messages": MESSAGES}
# Its package has no argument for the temperature.
CLAUDE = {"model": MODEL, "max_tokens": 24, "system": MESSAGES[0]["content"], "messages": MESSAGES[1:],
          "extra_body": {"temperature": 0}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    keys = tmp_path_factory.mktemp("http") / "keys"
    keys.write_text(KEY + "\n")
    keys.chmod(0o600)
    running = Server([TANDEM, "serve", SMOLLM2, "-n", 2, "--listen", "tcp://127.0.0.1:*", "--http", "127.0.0.1:0",
                      "--api-key-file", keys, "--max-conversations", 3]).wait_until_ready()
    running.http = re.search(r"for clients of HTTP: (http://\S+)/v1", "".join(running.log))[1]
    yield running
    assert running.stop() == 0, running.rest_of_log()


@pytest.fixture(scope="module")
def said(server):
    """The answer over ZeroMQ, whose text and tokens all others have."""
    socket = zmq.Context.instance().socket(zmq.DEALER)
    socket.linger = 0
    socket.connect(server.endpoint)
    socket.send_json({"v": 1, "type": "chat", "id": "r", "messages": MESSAGES, "temperature": 0, "max_tokens": 24})
    while (frame := socket.recv_json())["type"] in ("accepted", "delta"):
        pass
    socket.close()
    assert frame["type"] == "done" and "Paris" in frame["text"], frame
    return frame


@pytest.fixture(scope="module")
def openai(server):
    import openai as package
    return package


@pytest.fixture(scope="module")
def client(server, openai):
    with openai.OpenAI(base_url=server.http + "/v1", api_key=KEY, max_retries=0) as made:
        yield made


@pytest.fixture(scope="module")
def claude(server):
    import anthropic
    with anthropic.Anthropic(base_url=server.http, api_key=KEY, max_retries=0) as made:
        yield types.SimpleNamespace(messages=made.messages, models=made.models, package=anthropic)


def test_openai_has_the_same_answer_whole_and_streamed(client, said):
    answer = client.chat.completions.create(**CHAT)
    assert answer.choices[0].message.content == said["text"] and answer.choices[0].finish_reason == said["finish_reason"]
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (
        said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"])
    chunks = list(client.chat.completions.create(**CHAT, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == said["text"]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == answer.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    with client.chat.completions.stream(**CHAT) as stream:
        assert stream.get_final_completion().choices[0].message.content == said["text"]


def test_openai_completes_as_generate_does(client):
    expected = generate_json(SMOLLM2, "-p", PROMPT, "--max-tokens", 12, "--temperature", 0)
    complete = GREEDY | {"prompt": PROMPT, "max_tokens": 12}
    answer = client.completions.create(**complete, logprobs=2)
    assert answer.choices[0].text == expected["text"] and answer.choices[0].finish_reason == "length"
    assert "".join(answer.choices[0].logprobs.tokens) == expected["text"]
    assert all(len(top) == 2 for top in answer.choices[0].logprobs.top_logprobs)
    assert "".join(chunk.choices[0].text for chunk in client.completions.create(**complete, stream=True)) == expected["text"]
    both = client.completions.create(**complete | {"prompt": [PROMPT, "One, two,"], "echo": True})
    assert both.choices[0].text == PROMPT + expected["text"] and both.choices[1].text.startswith("One, two,")


def test_openai_is_told_logprobs_choices_stops_and_seeds(client, said):
    answer = client.chat.completions.create(**CHAT, logprobs=True, top_logprobs=3)
    tokens = answer.choices[0].logprobs.content
    assert bytes(byte for token in tokens for byte in token.bytes).decode().startswith(said["text"])
    assert all(len(token.top_logprobs) == 3 and token.top_logprobs[0].token == token.token for token in tokens)
    chunks = client.chat.completions.create(**CHAT, logprobs=True, stream=True)
    streamed = [token for chunk in chunks if chunk.choices and chunk.choices[0].logprobs for token in chunk.choices[0].logprobs.content]
    assert [(token.token, token.logprob) for token in streamed] == [(token.token, token.logprob) for token in tokens]
    sampled = CHAT | {"temperature": 1.2, "max_tokens": 8, "n": 3, "seed": 7}
    texts = [[choice.message.content for choice in client.chat.completions.create(**sampled).choices] for _ in range(2)]
    assert texts[0] == texts[1] and len(set(texts[0])) > 1, "three answers, which the seed repeats"
    indexes = {chunk.choices[0].index for chunk in client.chat.completions.create(**sampled, stream=True)}
    assert indexes == {0, 1, 2}
    stopped = client.chat.completions.create(**CHAT, stop=["Paris"])
    assert stopped.choices[0].message.content == said["text"].split("Paris")[0]
    assert stopped.choices[0].finish_reason == "stop" and stopped.choices[0].stop_reason == "Paris"
    assert client.chat.completions.create(**CHAT | {"max_tokens": 2}).choices[0].finish_reason == "length"


def test_openai_raises_its_own_errors(server, client, openai):
    with pytest.raises(openai.NotFoundError, match="gpt-9"):
        client.chat.completions.create(**CHAT | {"model": "gpt-9"})
    with pytest.raises(openai.BadRequestError, match="tools") as told:
        client.chat.completions.create(**CHAT, tools=[TOOL])
    assert (told.value.param, told.value.code, told.value.type) == ("tools", "unimplemented", "invalid_request_error")
    with pytest.raises(openai.BadRequestError, match="temperature"):
        client.chat.completions.create(**CHAT | {"temperature": -1}, stream=True)
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        client.embeddings.create(model=MODEL, input="Hi")
    with pytest.raises(openai.PermissionDeniedError, match="Host"):
        client.with_options(default_headers={"Host": "evil.example"}).models.list()
    with client.chat.completions.create(**CHAT | {"max_tokens": 400}, stream=True, extra_body={
            "conversation": "c", "ignore_eos": True}) as busy:
        next(iter(busy))
        with pytest.raises(openai.RateLimitError, match="one answer at a time"):
            client.chat.completions.create(**CHAT, extra_body={"conversation": "c"})
    with pytest.raises(openai.InternalServerError):  # 504
        client.chat.completions.create(**CHAT | {"max_tokens": 2000}, extra_body={"deadline": 0.05, "ignore_eos": True})


def test_openai_lists_models(client, openai):
    names = [model.id for model in client.models.list()]
    assert names[0] == MODEL and client.models.retrieve(MODEL).object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-9")


def test_openai_keeps_responses(client, openai, said):
    ask = {"model": MODEL, "temperature": 0, "max_output_tokens": 24}
    first = client.responses.create(**ask, instructions=MESSAGES[0]["content"], input=MESSAGES[1]["content"])
    assert first.output_text == said["text"] and first.status == "completed"
    second = client.responses.create(**ask, input="And of Spain?", previous_response_id=first.id)
    whole = client.chat.completions.create(**CHAT | {"messages": [
        *MESSAGES, {"role": "assistant", "content": first.output_text}, {"role": "user", "content": "And of Spain?"}]})
    assert second.output_text == whole.choices[0].message.content and second.previous_response_id == first.id
    assert client.responses.retrieve(first.id).output_text == first.output_text
    events = list(client.responses.create(**ask, instructions=MESSAGES[0]["content"], input=MESSAGES[1]["content"], stream=True))
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == said["text"]
    assert events[0].type == "response.created" and events[-1].type == "response.completed"
    assert [event.sequence_number for event in events] == list(range(len(events)))
    client.responses.delete(second.id)
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(second.id)
    for _ in range(4):  # more than --max-conversations: the oldest ones make room
        last = client.responses.create(**ask | {"max_output_tokens": 2}, input="One more.")
    assert client.responses.retrieve(last.id).output_text == last.output_text
    with pytest.raises(openai.NotFoundError):
        client.responses.retrieve(first.id)
    assert client.responses.create(**ask, input="Hi", store=False).output_text
    with client.responses.stream(**ask, input="Hi", store=False) as stream:
        assert stream.get_final_response().output_text


def test_anthropic_has_the_same_answer(claude, said):
    answer = claude.messages.create(**CLAUDE)
    assert answer.content[0].text == said["text"] and answer.stop_reason == "end_turn"
    usage = answer.usage
    assert usage.input_tokens + usage.cache_read_input_tokens == said["usage"]["prompt_tokens"]
    assert usage.output_tokens == said["usage"]["completion_tokens"]
    with claude.messages.stream(**CLAUDE) as stream:
        assert "".join(stream.text_stream) == said["text"]
        last = stream.get_final_message()
    assert last.stop_reason == "end_turn" and last.usage.output_tokens == usage.output_tokens
    kinds = [event.type for event in claude.messages.create(**CLAUDE, stream=True)]
    assert kinds[0] == "message_start" and kinds[-2:] == ["message_delta", "message_stop"]
    stopped = claude.messages.create(**CLAUDE, stop_sequences=["never", "Paris"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Paris")
    assert stopped.content[0].text == said["text"].split("Paris")[0]
    assert claude.messages.create(**CLAUDE | {"max_tokens": 2}).stop_reason == "max_tokens"
    counted = claude.messages.count_tokens(model=MODEL, system=CLAUDE["system"], messages=CLAUDE["messages"])
    assert counted.input_tokens == said["usage"]["prompt_tokens"]


def test_anthropic_raises_its_own_errors(server, claude):
    with pytest.raises(claude.package.NotFoundError, match="gpt-9"):
        claude.messages.create(**CLAUDE | {"model": "gpt-9"})
    with pytest.raises(claude.package.BadRequestError, match="tools") as told:
        claude.messages.create(**CLAUDE, tools=[{"name": "f", "input_schema": {"type": "object"}}])
    assert told.value.body["error"]["type"] == "invalid_request_error"
    with claude.package.Anthropic(base_url=server.http, api_key="wrong", max_retries=0) as stranger:
        with pytest.raises(claude.package.AuthenticationError):
            stranger.messages.create(**CLAUDE)


def test_litellm_has_the_same_answer(server, said):
    import litellm
    ask = CHAT | {"model": "openai/" + MODEL, "api_base": server.http + "/v1", "api_key": KEY, "max_retries": 0}
    assert litellm.completion(**ask).choices[0].message.content == said["text"]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in litellm.completion(**ask, stream=True)) == said["text"]
    with pytest.raises(litellm.NotFoundError):
        litellm.completion(**ask | {"model": "openai/gpt-9"})
    with pytest.raises(litellm.BadRequestError):
        litellm.completion(**ask, tools=[TOOL])


def test_langchain_has_the_same_answer(server, said):
    from langchain_openai import ChatOpenAI
    chat = ChatOpenAI(model=MODEL, base_url=server.http + "/v1", api_key=KEY, temperature=0, max_tokens=24, max_retries=0)
    messages = [(message["role"], message["content"]) for message in MESSAGES]
    answer = chat.invoke(messages)
    assert answer.content == said["text"] and answer.usage_metadata["output_tokens"] == said["usage"]["completion_tokens"]
    assert "".join(chunk.content for chunk in chat.stream(messages)) == said["text"]


def test_the_command_line_of_llm_has_the_same_answer(server, said, tmp_path):
    (tmp_path / "extra-openai-models.yaml").write_text(
        f"- model_id: tandem\n  model_name: {MODEL}\n  api_base: {server.http}/v1\n  api_key_name: tandem\n")
    command = [pathlib.Path(sys.executable).with_name("llm"), "-m", "tandem", "--key", KEY, "-s", MESSAGES[0]["content"],
               "-o", "temperature", 0, "-o", "max_tokens", 24, MESSAGES[1]["content"]]
    environment = os.environ | {"LLM_USER_PATH": str(tmp_path)}
    for more in ([], ["--no-stream"]):
        result = run(command + more, env=environment)
        assert result.returncode == 0 and result.stdout.rstrip("\n") == said["text"], result.stderr


def test_curl_has_the_same_answer(server, said):
    result = run(["curl", "-sSN", server.http + "/v1/chat/completions", "-H", f"Authorization: Bearer {KEY}",
                  "-H", "Content-Type: application/json", "-d", json.dumps(CHAT | {"stream": True})])
    assert result.returncode == 0 and result.stdout.endswith("data: [DONE]\n\n"), result
    chunks = [json.loads(line[6:]) for line in result.stdout.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == said["text"]


@pytest.mark.parametrize("call", json.loads((ROOT / "tests/golden/http/open_webui.json").read_text())["calls"],
                         ids=lambda call: call["name"])
def test_calls_of_open_webui_are_answered(server, call):
    headers = {name: value.replace("KEY", KEY) for name, value in call["headers"].items()}
    body = json.dumps(call["body"] | {"model": MODEL}).encode() if "body" in call else None
    request = urllib.request.Request(server.http + call["path"], body, headers, method=call["method"])
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            status, kind, text = response.status, response.headers.get_content_type(), response.read().decode()
    except urllib.error.HTTPError as error:
        status, kind, text = error.code, error.headers.get_content_type(), error.read().decode()
    assert (status, kind) == (call["status"], call["type"]), text
    if kind == "text/event-stream":
        chunks = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
        assert chunks[0]["choices"][0]["delta"]["role"] == "assistant" and text.endswith("data: [DONE]\n\n")
        assert ("usage" in chunks[-1]) == ("stream_options" in call["body"])
    elif status == 200 and body:
        assert json.loads(text)["choices"][0]["message"]["content"]
    elif status == 200:
        assert json.loads(text)["data"][0]["id"] == MODEL
    else:
        assert json.loads(text)["error"]["message"]


def test_readme_is_right(server):
    """The lines of Python in README.md, as they stand there but for the address and the key."""
    block = re.search(r"\n\n((?:    .*\n)+)\n", (ROOT / "README.md").read_text().split("With the `openai` package:")[1])[1]
    program = re.sub(r"^    ", "", block, flags=re.M)
    assert "http://127.0.0.1:8080/v1" in program and "import openai" in program
    program = program.replace("http://127.0.0.1:8080", server.http).replace('api_key="none"', f'api_key="{KEY}"')
    printed = io.StringIO()
    exec(program, {"print": lambda *words, **how: print(*words, **how | {"file": printed})})
    assert printed.getvalue().strip()


def test_zz_a_server_that_ends_says_so(server, client, claude, openai):
    """The last one: it ends the server, while a stream holds it."""
    stream = client.completions.create(**GREEDY | {"prompt": PROMPT, "max_tokens": 600}, stream=True,
                                       extra_body={"ignore_eos": True})
    begun = [next(stream)]
    server.process.send_signal(signal.SIGTERM)
    with pytest.raises(openai.InternalServerError, match="draining|takes no requests") as told:
        while True:  # until the signal has arrived, requests are taken
            client.completions.create(model=MODEL, prompt="Hi", max_tokens=1)
    assert told.value.status_code == 503
    with pytest.raises(claude.package.InternalServerError):
        claude.messages.create(**CLAUDE)
    begun += list(stream)
    assert begun[-1].choices[0].finish_reason == "length"
