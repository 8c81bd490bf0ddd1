"""Loads that are replayed against a server: who asks what, and when. The same seed makes the same load."""
import dataclasses
import json
import random
import subprocess
import sys

import models

# Real text, whose pieces are the prompts. All of it is in the repository.
TEXTS = ["README.md", "docs/numerics.md", "docs/protocol.md", "docs/performance.md", "docs/accuracy.md"]
# Control tokens that end an answer in the models that speed is measured on; of others, say so with a `logit_bias` of your own.
END_TEXTS = ["<|im_end|>", "<|endoftext|>", "<end_of_turn>", "<eos>", "</s>"]


@dataclasses.dataclass
class Chat:
    """One conversation of one turn."""
    arrival: float  # seconds from the beginning of the load
    prompt: list  # token ids
    answer: int  # tokens


def tokens_of(program, model, text, *flags):
    """Token ids by `tandem tokenize`; ends the program with what it said if it fails."""
    result = subprocess.run([str(program), "tokenize", str(model), "--json", *flags], input=text, capture_output=True, text=True,
                            check=False)
    if result.returncode != 0:
        sys.exit(f"{result.stderr}{program} tokenize {model} failed with status {result.returncode}")
    return json.loads(result.stdout)["tokens"]


def text_of(program, model, tokens):
    """By `tandem detokenize`, likewise; without the characters that the ends of the piece cut."""
    result = subprocess.run([str(program), "detokenize", str(model), "--json"], input=",".join(map(str, tokens)), capture_output=True,
                            text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{result.stderr}{program} detokenize {model} failed with status {result.returncode}")
    return json.loads(result.stdout)["text"].strip("\ufffd")


def text_tokens(program, model):
    """The repository's own documents as tokens of this model."""
    return tokens_of(program, model, "\n\n".join((models.ROOT / name).read_text() for name in TEXTS))


def end_tokens(program, model):
    """Those of END_TEXTS that this model has as single tokens."""
    found = [tokens_of(program, model, text, "--special") for text in END_TEXTS]
    return sorted({tokens[0] for tokens in found if len(tokens) == 1})


class Pieces:
    """Pieces of a text, each from another place, so that no two have a beginning in common."""

    def __init__(self, text, seed):
        self.text = text
        self.random = random.Random(seed)
        self.taken = set()

    def take(self, length):
        last = len(self.text) - length
        if last < 0:
            sys.exit(f"a prompt of {length} tokens is longer than all of {', '.join(TEXTS)} ({len(self.text)} tokens)")
        free = [begin for begin in range(last + 1) if begin not in self.taken]
        if not free:
            sys.exit(f"the texts have no further piece of {length} tokens; ask for fewer or shorter prompts")
        begin = self.random.choice(free)
        self.taken.add(begin)
        return self.text[begin:begin + length]


def arrivals(count, seconds, seed):
    """So many times, uniformly at random within so many seconds, ascending; the first is 0."""
    drawn = sorted(random.Random(f"{seed} arrivals").uniform(0, seconds) for _ in range(count))
    return [at - drawn[0] for at in drawn]


def chats(text, count, prompt, answer, seconds, seed):
    """`count` chats, each with a prompt and an answer of so many tokens, that arrive within so many seconds."""
    pieces = Pieces(text, seed)
    return [Chat(at, pieces.take(prompt), answer) for at in arrivals(count, seconds, seed)]
