"""The Python that benchmarks run in."""
import importlib.util
import os
import sys


def demand_pyzmq(who):
    """Goes on in the interpreter that tests/run made, where this one has no pyzmq; `who`: the program, for the message."""
    if importlib.util.find_spec("zmq"):
        return
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    python = os.environ.get("TANDEM_TEST_PYTHON") or os.path.join(cache, "tandem/tests-venv/bin/python")
    if os.path.exists(python) and os.environ.get("TANDEM_BENCH_PYTHON") != python:
        os.execve(python, [python, *sys.argv], dict(os.environ, TANDEM_BENCH_PYTHON=python))
    sys.exit(f"{who}: Python's package pyzmq is missing: tests/run installs it for the tests, or install it with pip")
