"""Clang-tidy, by .clang-tidy, over the product's files that the last changes touched.

Those are the files that differ from origin/main, or from the last commit but one where HEAD is origin/main. Without a
history there are none. Looks at a few only: a file takes it some ten seconds.

usage: clang_tidy.py BUILD_DIRECTORY [FILE...]     FILE: these instead of what changed
"""

import os
import pathlib
import sys
import tempfile

import clang_tools

PROGRAM = 'clang-tidy-14'
COMMAND = [PROGRAM, '--quiet', '--config-file=' + str(clang_tools.ROOT / '.clang-tidy')]
MOST_FILES = 8  # the last that changed


def git(*arguments):
    """Lines of output; nothing if git fails."""
    # The tests may run as somebody else than who cloned.
    status, output = clang_tools.run(['git', '-c', 'safe.directory=*', *arguments])
    return output.splitlines() if status == 0 else []


def base():
    """The commit that changes are counted from; nothing if there is no history."""
    head = git('rev-parse', '--verify', '-q', 'HEAD')
    for name in (git('merge-base', 'HEAD', 'origin/main'), git('rev-parse', '--verify', '-q', 'HEAD~1')):
        if name and name != head:
            return name[0]
    return None


def changed_units(since):
    """The last that changed come first; a header counts as the .cpp file beside it."""
    paths = git('diff', '--name-only', 'HEAD') + git('log', '--format=', '--name-only', f'{since}..HEAD')
    units = [os.path.splitext(path)[0] + '.cpp' for path in paths if path.endswith(('.cpp', '.h'))]
    known = set(clang_tools.product_units())
    return [unit for unit in dict.fromkeys(units) if unit in known]


def check_sample(flags):
    """The check is only worth something if it finds what is wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'sample.cpp'
        for text, clean in (('struct Sample { Sample() = default; };\n', True),
                            ('struct Sample { Sample() {} };\n', False)):
            path.write_text(text)
            status, output = clang_tools.run([*COMMAND, str(path), '--', *flags])
            if (status == 0) != clean:
                clang_tools.fail(f'clang-tidy ends with {status} on: {text}{output}')


def main():
    clang_tools.need(PROGRAM)
    flags = clang_tools.Flags(sys.argv[1])
    check_sample(flags.of('core/base/arena.cpp'))
    units = sys.argv[2:]
    for unknown in set(units) - set(clang_tools.product_units()):
        clang_tools.fail(f'{unknown}: expected a .cpp file of the product, as a path from the root')
    if not units:
        since = base()
        if since is None:
            print('there is no history to tell what changed; nothing is checked')
            return
        units = changed_units(since)
        print(f'{len(units)} units changed since {since[:12]}; checked: {units[:MOST_FILES]}')
        units = units[:MOST_FILES]
    failed = clang_tools.run_all([[*COMMAND, unit, '--', *flags.of(unit)] for unit in units])
    print(f'{len(units)} units checked, {failed} with mistakes')
    sys.exit(failed != 0)


main()
