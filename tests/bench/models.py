"""The models that speed is measured on: short names, titles and files."""
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
PUBLISHED = ["smollm2", "gemma3"]  # launcher/fetch_model has them; tests/bench/make_models makes the others
FILES = {
    "smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "smollm2-q4_0": "SmolLM2-135M-Instruct.Q4_0.gguf",
    "smollm2-q8_0": "SmolLM2-135M-Instruct.Q8_0.gguf",
    "gemma3": "gemma-3-270m-q4_k_m.gguf",
    "random-1b": "random-1b.Q4_0.gguf",
}
TITLES = {"smollm2": "SmolLM2-135M Q4_1", "smollm2-q4_0": "SmolLM2-135M Q4_0", "smollm2-q8_0": "SmolLM2-135M Q8_0",
          "gemma3": "Gemma 3 270M Q4_K_M", "random-1b": "1B-shaped Q4_0"}


def path(name):
    """Where the model of this short name is, or will be."""
    folder = os.environ.get("TANDEM_MODELS") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "tandem", "models")
    return pathlib.Path(folder) / FILES[name]


def run_for_path(command):
    result = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True,
                            check=False)
    if result.returncode != 0:
        sys.exit(result.returncode)  # it has said why
    return pathlib.Path(result.stdout.strip())


def fetch(name):
    """The path of the model, which is fetched or made where it is missing."""
    if name in PUBLISHED:
        return run_for_path([ROOT / "launcher/fetch_model", name])
    return run_for_path([ROOT / "tests/bench/make_models", name])
