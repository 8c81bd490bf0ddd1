"""llama.cpp's own tools, built for this processor from the source package that tests/llama_cpp_source.py names.

They stay in $XDG_CACHE_HOME/tandem or ~/.cache/tandem, in a folder llama.cpp-VERSION/bin; those for GPUs, which need nvcc, in
bin-cuda beside it. The first build takes about 8 minutes on two quiet cores, those of the server and of the perplexity again so
long, and that for GPUs several times as long; source and objects are removed after it.
"""
import hashlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import llama_cpp_source  # noqa: E402  (the folder above is not on the path before)

TOOLS = ["llama-bench", "llama-batched-bench", "llama-quantize"]
OPTIONS = ["-DCMAKE_BUILD_TYPE=Release", "-DGGML_NATIVE=ON", "-DBUILD_SHARED_LIBS=OFF", "-DLLAMA_BUILD_TESTS=OFF",
           "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=OFF", "-DLLAMA_BUILD_APP=OFF", "-DLLAMA_OPENSSL=OFF"]
CUDA_TOOLS = ["llama-bench", "llama-batched-bench"]
CUDA_OPTIONS = [*OPTIONS, "-DGGML_CUDA=ON"]
PERPLEXITY = "llama-perplexity"
SERVER = "llama-server"
# Without its web page, which would be fetched from elsewhere.
SERVER_OPTIONS = [{"-DLLAMA_BUILD_SERVER=OFF": "-DLLAMA_BUILD_SERVER=ON"}.get(option, option) for option in OPTIONS] + [
    "-DLLAMA_BUILD_UI=OFF", "-DLLAMA_USE_PREBUILT_UI=OFF"]


def say(message):
    print(f"llama.cpp: {message}", file=sys.stderr, flush=True)


def folder():
    base = os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache"
    return pathlib.Path(base) / "tandem" / f"llama.cpp-{llama_cpp_source.VERSION}"


def stamp(options):
    """What a build holds for: this source, these options, a processor with these features."""
    features = re.findall(r"^(?:flags|Features)\s*:(.*)$", pathlib.Path("/proc/cpuinfo").read_text(), re.MULTILINE)[:1]
    return hashlib.sha256(repr([llama_cpp_source.SHA256, options, features]).encode()).hexdigest()


def unpack(target):
    say("fetching the source from PyPI (73 MB)")
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        with tarfile.open(llama_cpp_source.download(scratch)) as archive:
            inside = [member for member in archive if member.name.startswith(llama_cpp_source.FOLDER)]
            archive.extractall(scratch, members=inside)
        shutil.rmtree(target, ignore_errors=True)
        os.replace(pathlib.Path(scratch) / llama_cpp_source.FOLDER, target)


def run_with_progress(command):
    """Runs a build; a line every twentieth of the way; on a failure the end of what it said."""
    environment = dict(os.environ, NINJA_STATUS="[%f/%t] ")
    said, last = [], -1
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=environment) as process:
        for line in process.stdout:
            said.append(line)
            if step := re.match(r"\[(\d+)/(\d+)\]", line):
                done, total = int(step[1]), int(step[2])
                if 20 * done // total != last:
                    last = 20 * done // total
                    say(f"built {done} of {total}")
    if process.returncode != 0:
        sys.exit(f"{''.join(said[-60:])}llama.cpp: '{' '.join(map(str, command))}' failed; its output stands above")


def built(targets, options, name, folder_name="bin"):
    """The folder with these programs; builds them where it must, and ends the program with a message if it cannot. `name` keeps
    what one set of options built apart from what another did."""
    home = folder()
    programs = home / folder_name
    stamped = home / f"stamp{name}"
    if stamped.exists() and stamped.read_text() == stamp(options) and all((programs / target).exists() for target in targets):
        return programs
    say(f"building {', '.join(targets)} in {home}, once (about 8 minutes on two cores)")
    home.mkdir(parents=True, exist_ok=True)
    source, build = home / "source", home / f"build{name}"
    # A build that was broken off goes on where it was.
    if not (source / "CMakeLists.txt").exists():
        unpack(source)
    run_with_progress(["cmake", "-S", source, "-B", build, "-G", "Ninja", *options])
    run_with_progress(["ninja", "-C", build, *targets])
    programs.mkdir(exist_ok=True)
    for target in targets:
        shutil.copy2(build / "bin" / target, programs / target)
    stamped.write_text(stamp(options))
    shutil.rmtree(source)
    shutil.rmtree(build)
    return programs


def tools():
    """The folder with TOOLS."""
    return built(TOOLS, OPTIONS, "")


def nvcc():
    """The path of NVIDIA's compiler, or None where there is none."""
    return shutil.which("nvcc") or shutil.which("nvcc", path=os.path.join(os.environ.get("CUDA_PATH", "/usr/local/cuda"), "bin"))


def cuda_tools():
    """The folder with CUDA_TOOLS, which compute on the GPUs of this machine."""
    compiler = nvcc()
    if compiler is None:
        sys.exit("llama.cpp: its build for GPUs needs nvcc, which is not here; give one with --peer NAME=FOLDER --no-llama-cpp")
    return built(CUDA_TOOLS, [*CUDA_OPTIONS, f"-DCMAKE_CUDA_COMPILER={compiler}"], "-cuda", "bin-cuda")


def server():
    """The path of llama-server."""
    return built([SERVER], SERVER_OPTIONS, "-server") / SERVER


def perplexity():
    """The path of llama-perplexity."""
    return built([PERPLEXITY], OPTIONS, "-perplexity") / PERPLEXITY
