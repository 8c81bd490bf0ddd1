"""Every source file is as clang-format 14 writes it, by .clang-format."""

import sys

import clang_tools

PROGRAM = 'clang-format-14'
COMMAND = [PROGRAM, '--dry-run', '-Werror']
BATCH = 50  # files


def check_sample():
    style = '--style=file:' + str(clang_tools.ROOT / '.clang-format')
    for text, clean in (('int* Sample();\n', True), ('int *Sample( );\n', False)):
        status, output = clang_tools.run([*COMMAND, style, '--assume-filename=a.h'], text)
        if (status == 0) != clean:
            clang_tools.fail(f'clang-format ends with {status} on: {text}{output}')


def main():
    clang_tools.need(PROGRAM)
    check_sample()
    files = clang_tools.sources()
    failed = clang_tools.run_all([[*COMMAND, *files[first:first + BATCH]]
                                  for first in range(0, len(files), BATCH)])
    print(f'{len(files)} files checked')
    if failed:
        clang_tools.fail(f'run {PROGRAM} -i on the files that are named above')


main()
