"""What the checks with clang's tools have in common: the sources, their flags, and running tools side by side."""

import concurrent.futures
import functools
import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
FOLDERS = ('core', 'kv_store', 'parallel', 'frontend', 'launcher')
PROCESSES = 2


def product_units():
    """The product's .cpp files, as paths from the root."""
    return sorted(str(path.relative_to(ROOT)) for folder in FOLDERS
                  for path in (ROOT / folder).rglob('*.cpp'))


def sources():
    """All .h, .cpp and .cu files, the tests' too."""
    return sorted(str(path.relative_to(ROOT)) for folder in (*FOLDERS, 'tests')
                  for path in (ROOT / folder).rglob('*') if path.suffix in ('.h', '.cpp', '.cu'))


def included(path):
    """Files of ours that a file includes, directly or not."""
    found, ahead = set(), [path]
    while ahead:
        for name in directly_included(ahead.pop()) - found:
            found.add(name)
            ahead.append(name)
    return found


@functools.cache
def directly_included(path):
    names = re.findall(r'^#include "([^"]+)"', (ROOT / path).read_text(), re.MULTILINE)
    return frozenset(name for name in names if (ROOT / name).is_file())


class Flags:
    """Flags by which clang understands what g++ builds in a build directory."""

    def __init__(self, build):
        self._commands = {}
        for entry in json.loads((pathlib.Path(build) / 'compile_commands.json').read_text()):
            path = pathlib.Path(entry['directory']) / entry['file']
            words = shlex.split(entry['command'])
            if path.is_relative_to(ROOT):
                self._commands[str(path.relative_to(ROOT))] = words
            # For files that are built as a part of others.
            folder = re.search(r'tandem_(\w+)\.dir/', entry['command'])
            if folder and not path.stem.endswith('_avx512'):
                self._commands.setdefault(folder[1], words)

    def of(self, path):
        words = self._commands.get(path) or self._commands[path.split('/')[0]]
        flags = ['-std=c++20']
        for word, following in zip(words, words[1:] + ['']):
            if word in ('-isystem', '-I'):
                flags += [word, following]
            elif re.match(r'-[DI].|-f|-m', word) and not re.match(r'-mmemset|-fpch|-fsan', word):
                flags.append(word)
        return flags


def need(*programs):
    for program in programs:
        if shutil.which(program) is None:
            package = program.replace('++', '')
            fail(f'{program} is not installed; run: launcher/install_packages {package}')


def run(command, text=''):
    """Exit status and all output of a command that reads `text`."""
    done = subprocess.run(command, cwd=ROOT, input=text, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, check=False)
    return done.returncode, done.stdout


def run_all(commands):
    """Runs them side by side and tells what failed; the number of failures."""
    failed = 0
    with concurrent.futures.ThreadPoolExecutor(PROCESSES) as pool:
        for status, output in pool.map(run, commands):
            if status != 0:
                print(output, flush=True)
                failed += 1
    return failed


def fail(why):
    sys.exit(f'{pathlib.Path(sys.argv[0]).name}: {why}')
