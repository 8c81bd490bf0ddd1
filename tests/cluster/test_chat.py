"""Chats with the real model: from a pipe, from three hosts, through a server."""
import json
import os
import re
import subprocess

from conftest import GEMMA3, ROOT, SMOLLM2, TANDEM, generate_json, run

QUESTION = "What is the capital of France?\n"
SYSTEM = ["--system", "You are a helpful AI assistant."]


def test_chat_answers_each_line_of_a_pipe():
    result = run([TANDEM, "chat", SMOLLM2, "-n", 2, *SYSTEM, "--max-tokens", 40],
                 input=QUESTION + "What color is the sky?\n")
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    assert "blue" in result.stdout


def test_chat_has_the_same_answer_at_any_number_of_ranks():
    answers = {run([TANDEM, "chat", SMOLLM2, "-n", n, "--max-tokens", 40, *SYSTEM],
                   input=QUESTION).stdout
               for n in (1, 2, 3)}
    assert len(answers) == 1 and "Paris" in answers.pop()


def test_penalties_of_the_answer_give_the_same_at_any_number_of_ranks():
    flags = ["-p", "One, two, one, two, one,", "--max-tokens", 40]
    plain = generate_json(SMOLLM2, *flags)["tokens"]
    for penalties in (["--frequency-penalty", 0.6], ["--presence-penalty", 1.2, "--temperature", 0.7, "--seed", 3]):
        answers = {tuple(generate_json(SMOLLM2, *flags, *penalties, "-n", n, *more)["tokens"])
                   for n in (1, 2, 3) for more in ((), ("--speculate",))}
        assert len(answers) == 1 and answers.pop() != tuple(plain)


def test_quickstart_answers_a_pipe():
    result = run([ROOT / "launcher/quickstart"], input=QUESTION, timeout=600)
    assert result.returncode == 0, result.stderr
    assert "Paris" in result.stdout
    for number, stage in enumerate(("packages", "build", "model"), 1):
        assert re.search(rf"^quickstart: {number} of 4, {stage} \(.*\) \.\.\.$", result.stderr, re.M)
        assert re.search(rf"^quickstart: {number} of 4, {stage} \(.*\): done in \d+\.\d s$", result.stderr, re.M)
    assert "quickstart: 4 of 4, engine (2 ranks) ...\n" in result.stderr
    assert re.search(r"info: engine ready in \d+\.\d s$", result.stderr, re.M)
    assert "curl" not in result.stderr, "without HTTP"


def test_quickstart_prints_a_curl_line_that_works():
    """Its greeting ends with it; the server is gone when the chat is."""
    quickstart = subprocess.Popen([ROOT / "launcher/quickstart", "--ranks", "1"], env=os.environ | {"TANDEM_HTTP": "127.0.0.1:0"},
                                  stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        line = next(line for line in quickstart.stderr if line.startswith("  curl "))
        answer = run(["sh", "-c", line])
        assert "Paris" in json.loads(answer.stdout)["choices"][0]["message"]["content"], answer
        output, _ = quickstart.communicate(QUESTION, timeout=60)
        assert quickstart.returncode == 0 and "Paris" in output
        again = run(["sh", "-c", line])
        assert again.returncode != 0 and "Failed to connect" in again.stderr, again
    finally:
        quickstart.kill()
        quickstart.wait()


def test_generate_goes_on_from_raw_text():
    answer = generate_json(SMOLLM2, "-p", "The capital of France is", "--max-tokens", 5)
    assert answer["tokens"][0] == 7042
    assert answer["text"].startswith(" Paris")
    assert answer["finish_reason"] == "length"
    assert answer["usage"]["prompt_tokens"] == 5
    assert answer["usage"]["completion_tokens"] == 5


def test_generate_adds_the_start_token_where_the_file_wants_one():
    answer = generate_json(GEMMA3, "-p", "The capital of France is", "--max-tokens", 8)
    assert answer["usage"]["prompt_tokens"] == 6


def test_sampling_repeats_with_its_seed():
    def sample(seed, *more):
        return generate_json(SMOLLM2, "-p", "Once upon a time", "--max-tokens", 20,
                             "--temperature", 1.2, "--seed", seed, *more)["tokens"]
    first = sample(5)
    assert sample(5, "-n", 3) == first
    assert sample(6) != first


def test_the_answer_is_as_long_as_asked_for_at_any_number_of_ranks():
    messages = json.dumps([{"role": "user", "content": "Say only: yes"}])
    prompt = json.loads(run([TANDEM, "template", SMOLLM2, "-", "--json"], input=messages).stdout)["tokens"]

    def tokens(*more):
        return generate_json(SMOLLM2, "--tokens", ",".join(map(str, prompt)), "--max-tokens", 60, *more)["tokens"]
    usual = tokens()
    assert len(usual) < 40
    longer = tokens("--min-tokens", 40)
    assert len(longer) >= 40 and longer[:len(usual)] == usual
    assert tokens("--min-tokens", 40, "-n", 3) == longer
    sampled = ["--temperature", 1, "--seed", 3, "--min-tokens", 40, "--stop", "e"]
    longer = tokens(*sampled)
    assert 40 < len(longer) < 60
    assert tokens(*sampled, "-n", 3) == longer


def test_a_server_on_three_hosts_chats(lab, start_server):
    server = start_server(*lab("mpirun", "-n", 3, "--", TANDEM, "serve", SMOLLM2, "--listen",
                               "tcp://10.97.0.1:5555"))
    chat = run(lab("exec", 2, TANDEM, "chat", "--connect", "tcp://10.97.0.1:5555", *SYSTEM),
               input=QUESTION)
    assert chat.returncode == 0, chat.stderr
    assert "Paris" in chat.stdout
    status = run(lab("exec", 3, TANDEM, "status", "--connect", "tcp://10.97.0.1:5555"))
    assert status.returncode == 0, status.stderr
    for i in (1, 2, 3):
        assert f"tandem-lab-{i}" in status.stdout
    assert server.process.poll() is None
