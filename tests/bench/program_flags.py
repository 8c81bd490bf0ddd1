"""Flags that say which programs are measured beside one another, shared by the scripts of this folder."""
import argparse
import pathlib
import shlex

import llama_cpp
import models
import programs

OFFLOAD = "-ngl 99"  # of llama.cpp: all layers on the GPU


def named(text):
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"'{text}': expected NAME=VALUE")
    return name, value


def add(parser):
    group = parser.add_argument_group("programs")
    group.add_argument("--program", default=str(models.ROOT / "build/release/bin/tandem"), help="default: %(default)s")
    group.add_argument("--threads", type=int, default=2, help="of every program (default %(default)s)")
    group.add_argument("--ranks", default="1", help="ways to run Tandem: ranks that share the threads, e.g. 1,2 (default 1)")
    group.add_argument("--device", choices=["cpu", "cuda"], default="cpu",
                       help="cuda: on a GPU, every program; llama.cpp's build for it needs nvcc (default cpu)")
    group.add_argument("--tandem-flags", default="", help="further flags for `tandem bench`, e.g. --no-exact")
    group.add_argument("--no-llama-cpp", action="store_true", help="only Tandem and the peers given")
    group.add_argument("--peer", type=named, action="append", default=[], metavar="NAME=FOLDER",
                       help="a build with llama-bench and llama-batched-bench")
    group.add_argument("--bench-flags", type=named, action="append", default=[], metavar="NAME=FLAGS",
                       help="further flags for that peer's llama-bench")
    group.add_argument("--batched-flags", type=named, action="append", default=[], metavar="NAME=FLAGS",
                       help="further flags for its llama-batched-bench")


def check(parser, options):
    """Ends with the parser's error if they cannot be; makes a list of --ranks."""
    try:
        options.ranks = [int(ranks) for ranks in options.ranks.split(",")]
    except ValueError:
        parser.error(f"--ranks {options.ranks}: expected numbers, e.g. 1,2")
    if options.threads < 1:
        parser.error("--threads must be at least 1")
    for ranks in options.ranks:
        if ranks < 1 or options.threads % ranks:
            parser.error(f"--threads {options.threads} is no multiple of --ranks {ranks}")
    known = [name for name, _ in options.peer] + ([] if options.no_llama_cpp else ["llama.cpp"])
    for name, _ in options.bench_flags + options.batched_flags:
        if name not in known:
            parser.error(f"there are flags for '{name}', but no --peer {name}=FOLDER")
    if not pathlib.Path(options.program).is_file():
        parser.error(f"{options.program} is missing: build it (launcher/build release tandem) or give --program")


def programs_of(options):
    """The programs in the order of their columns, Tandem first; builds llama.cpp where it is missing."""
    peers = list(options.peer)
    cuda = options.device == "cuda"
    if not options.no_llama_cpp:
        peers.insert(0, ("llama.cpp", llama_cpp.cuda_tools() if cuda else llama_cpp.tools()))
    bench_flags, batched_flags = dict(options.bench_flags), dict(options.batched_flags)
    offload = OFFLOAD if cuda else ""
    flags = (["--device", "cuda"] if cuda else []) + shlex.split(options.tandem_flags)
    return [programs.Tandem(options.program, ranks, flags=flags) for ranks in options.ranks] + [
        programs.LlamaCpp(name, folder, f"{offload} {bench_flags.get(name, '')}", f"{offload} {batched_flags.get(name, '')}")
        for name, folder in peers]
