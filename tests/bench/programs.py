"""The programs that are measured side by side: Tandem by its `bench` command, llama.cpp and its kin by their llama-bench and
llama-batched-bench. All give tokens a second, and all measure the same work:

- prefill: a prompt of random tokens from an empty cache, logits of its last token only, after a warm-up;
- decode: one sequence from an (almost) empty cache, or from one that already holds `context` tokens;
- together: several sequences decoded in one batch, the tokens of all of them counted.
"""
import dataclasses
import json
import pathlib
import re
import shlex
import subprocess
import sys


@dataclasses.dataclass
class Work:
    """What is measured in one run."""
    prompt: int = 512  # tokens of the prefill
    generated: int = 128  # tokens that each sequence gets
    batches: tuple = (16,)  # sequences decoded together; one alone is always decoded
    context: int = 0  # tokens in the cache before decoding
    threads: int = 2


def run(command, with_errors=False):
    """Standard output, and error output behind it if wanted; ends the program with the command and what it said if it fails."""
    words = [str(word) for word in command]
    result = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        sys.exit(f"{result.stdout[-1000:]}{result.stderr[-3000:]}'{shlex.join(words)}' failed with status "
                 f"{result.returncode}; its output stands above")
    return result.stdout + (result.stderr if with_errors else "")


class Tandem:
    """`tandem bench`, as so many ranks of work.threads / ranks threads. prefix: words that start its ranks, otherwise it does.
    flags: further ones."""

    def __init__(self, program, ranks=1, prefix=(), name=None, flags=()):
        self.program = program
        self.ranks = ranks
        self.prefix = prefix
        self.flags = flags
        self.name = name or ("Tandem" if ranks == 1 else f"Tandem, {ranks} ranks")

    def measure(self, model, work):
        """{"prefill", "decode": tokens/s, "together": {str(sequences): tokens/s}, "read_gb_per_second": the machine's,
        "weight_bytes": read a token}."""
        batches = sorted({1, *work.batches})
        command = [*self.prefix, self.program, "bench", model, "--rounds", 1, "--prompt", work.prompt, "--gen", work.generated, "--context",
                   max(1, work.context), "--batch", ",".join(map(str, batches)), "--ranks", self.ranks, "--threads",
                   work.threads // self.ranks, "--log-level", "error", "--json", *self.flags]
        document = json.loads(run(command))
        speeds = {entry["sequences"]: entry["tokens_per_second"] for entry in document["batches"]}
        return {"prefill": document["prefill"]["tokens_per_second"], "decode": document["decode"]["tokens_per_second"],
                "together": {str(batch): speeds[batch] for batch in work.batches},
                "read_gb_per_second": document["ceilings"]["read_gb_per_second"],
                "weight_bytes": document["model"]["weight_bytes_per_token"]}

    def can_be_cut(self, model, ranks):
        """Whether the model can be run on so many ranks."""
        return subprocess.run([str(self.program), "plan", str(model), "-n", str(ranks)], stdin=subprocess.DEVNULL,
                              capture_output=True, check=False).returncode == 0


class LlamaCpp:
    """A build of llama.cpp, or of a program descended from it: a folder with llama-bench and llama-batched-bench."""

    def __init__(self, name, folder, bench_flags="", batched_flags=""):
        self.name = name
        self.bench = pathlib.Path(folder) / "llama-bench"
        self.batched = pathlib.Path(folder) / "llama-batched-bench"
        self.bench_flags = shlex.split(bench_flags)
        self.batched_flags = shlex.split(batched_flags)
        for program in (self.bench, self.batched):
            if not program.is_file():
                sys.exit(f"{name}: {program} is missing; give the folder of a build that has llama-bench and "
                         "llama-batched-bench")

    def measure(self, model, work):
        """{"prefill", "decode": tokens/s, "together": {str(sequences): tokens/s}}."""
        depth = ["-d", work.context] if work.context else []  # forks do not all know it
        return {"prefill": self.run_bench(model, work, ["-p", work.prompt, "-n", 0]),
                "decode": self.run_bench(model, work, ["-p", 0, "-n", work.generated, *depth]),
                "together": {str(batch): self.run_batched(model, work, batch) for batch in work.batches}}

    def run_bench(self, model, work, what):
        output = run([self.bench, "-m", model, *what, "-t", work.threads, "-r", 1, "-o", "json", *self.bench_flags])
        # Forks print lines of their own before the document.
        return json.loads(output[output.index("[\n"):])[0]["avg_ts"]

    def run_batched(self, model, work, batch):
        prompt = max(1, work.context)
        # As many tokens as all sequences hold, a multiple of 256 for each.
        room = batch * (-(-(prompt + work.generated) // 256) * 256)
        output = run([self.batched, "-m", model, "-c", room, "-npp", prompt, "-ntg", work.generated, "-npl", batch, "-t",
                      work.threads, *self.batched_flags], with_errors=True)  # where forks print the table
        # | PP | TG | B | N_KV | T_PP s | S_PP t/s | T_TG s | S_TG t/s | T s | S t/s |
        for line in output.splitlines():
            columns = line.split("|")
            if len(columns) == 12 and re.fullmatch(r" *\d+ *", columns[1]):
                return float(columns[8])
        sys.exit(f"{output[-2000:]}{self.batched}: the table of its results was not found; its output stands above")
