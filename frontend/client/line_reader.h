#pragma once

#include <cstdio>
#include <memory>
#include <string>

#include "core/base/status.h"

namespace tandem::frontend {

/// Where a chat's lines come from. Thread safety: one thread.
class LineReader {
 public:
  enum class Result { kLine, kInterrupted, kEnd };

  virtual ~LineReader() = default;
  /// The next line without its newline; that of a person, who sees the prompt, is valid UTF-8.
  /// Several lines pasted at once come as one, with newlines inside.
  virtual Result Read(const std::string& prompt, std::string& line) = 0;
};

/// Lines of a pipe or file, as they are.
std::unique_ptr<LineReader> ReadLinesFrom(FILE* input);

/// Lines that a person edits on a terminal, with arrow keys and history (libedit).
///
/// The history is kept in `history_file` (mode 0600, its folder is made; empty: nowhere).
/// `interrupt_fd` becoming readable gives up the line (kInterrupted). Sets the process's LC_CTYPE
/// to UTF-8, which libedit needs. Errors: the terminal cannot be used.
absl::StatusOr<std::unique_ptr<LineReader>> EditLinesOn(FILE* input, FILE* output,
                                                        const std::string& history_file,
                                                        int interrupt_fd);

/// $XDG_STATE_HOME/tandem/chat_history, or ~/.local/state/tandem/chat_history, or nothing where
/// there is no home.
std::string DefaultHistoryFile();

}  // namespace tandem::frontend
