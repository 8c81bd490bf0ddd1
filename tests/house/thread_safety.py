"""Clang's analysis of who holds which lock, over all that comes near core/base/mutex.h.

usage: thread_safety.py BUILD_DIRECTORY
"""

import collections
import pathlib
import re
import sys
import tempfile

import clang_tools

MUTEX = 'core/base/mutex.h'
COMMAND = ['clang++-14', '-fsyntax-only', '-Wthread-safety', '-Wthread-safety-beta', '-Werror']

# Every function that begins with Bad breaks one rule; the good one breaks none.
SAMPLE = '''
#include "core/base/mutex.h"
class Sample {
 public:
  int Good() {
    tandem::MutexLock lock(mutex_);
    while (value_ == 0) changed_.Wait(mutex_);
    lock.Unlock();
    lock.Lock();
    return Held();
  }
  int BadRead() { return value_; }
  void BadWrite() { tandem::MutexLock lock(mutex_); lock.Unlock(); value_ = 1; }
  int BadCall() { return Held(); }
  void BadWait() { changed_.Wait(mutex_); }
  void BadLambda() { tandem::MutexLock lock(mutex_); [this] { value_ = 1; }(); }
  void BadTwice() { tandem::MutexLock lock(mutex_); tandem::MutexLock again(mutex_); }
  void BadOrder() { tandem::MutexLock lock(mutex_); tandem::MutexLock earlier(before_); }
  void BadShared() { tandem::ReaderMutexLock lock(shared_); read_ = 1; }
  int BadInner(Sample& other) { tandem::MutexLock lock(mutex_); return inner_.value + other.value_; }

 private:
  struct Inner {
    int value ABSL_GUARDED_BY(&Sample::mutex_) = 0;
  };
  int Held() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) { return value_; }
  tandem::Mutex before_ ABSL_ACQUIRED_BEFORE(mutex_);
  tandem::Mutex mutex_;
  tandem::CondVar changed_;
  tandem::SharedMutex shared_;
  int value_ ABSL_GUARDED_BY(mutex_) = 0;
  int read_ ABSL_GUARDED_BY(shared_) = 0;
  Inner inner_;
};
'''


def precompile(units, flags, folder):
    """Precompiles what many units include from elsewhere: half of the time goes into that."""
    includes = collections.Counter()
    for unit in units:
        text = '\n'.join((clang_tools.ROOT / path).read_text()
                         for path in clang_tools.included(unit) | {unit})
        includes.update(set(re.findall(r'^#include <.*>', text, re.MULTILINE)))
    header = pathlib.Path(folder) / 'common.h'
    header.write_text('\n'.join(include for include, count in sorted(includes.items())
                                if count > 2))
    made = header.with_suffix('.pch')
    status, output = clang_tools.run(
        [COMMAND[0], *flags, '-fpch-instantiate-templates', '-x', 'c++-header', str(header), '-o', str(made)])
    if status != 0:
        clang_tools.fail(output)
    return ['-include-pch', str(made)]


def check_sample(flags, folder):
    """The analysis is only worth something if it finds what is wrong."""
    lines = SAMPLE.splitlines()
    bad = {number for number, line in enumerate(lines, 1) if ' Bad' in line}
    path = pathlib.Path(folder) / 'sample.cpp'
    path.write_text(SAMPLE)
    _, output = clang_tools.run([*COMMAND, *flags, str(path)])
    found = {int(line.split(':')[1]) for line in output.splitlines()
             if 'sample.cpp:' in line and ' error: ' in line}
    if found != bad:
        clang_tools.fail(f'clang finds mistakes in lines {sorted(found)} of the sample, expected '
                         f'{sorted(bad)}:\n{output}')


def main():
    clang_tools.need(COMMAND[0])
    units = [unit for unit in clang_tools.product_units() if MUTEX in clang_tools.included(unit)]
    # What is precompiled must be compiled alike; launcher links all folders.
    flags = clang_tools.Flags(sys.argv[1]).of('launcher/main.cpp')
    with tempfile.TemporaryDirectory() as folder:
        flags += precompile(units, flags, folder)
        check_sample(flags, folder)
        failed = clang_tools.run_all([[*COMMAND, *flags, unit] for unit in units])
    print(f'{len(units)} units checked, {failed} with mistakes')
    sys.exit(failed != 0)


main()
