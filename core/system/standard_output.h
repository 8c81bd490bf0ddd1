#pragma once

#include <string_view>
#include <utility>

#include "core/base/status.h"
#include "fmt/format.h"

/// Standard output, of which nothing is lost in silence: what cannot be written is told when the
/// program ends, or earlier to whoever asks. Thread safety: all functions.
namespace tandem {

/// Opens those of the descriptors 0, 1 and 2 that are closed on /dev/null, before other files get
/// their numbers: 1 so that writing to it fails.
void OpenMissingStandardFiles();

/// Writes, and flushes nothing. Does nothing after an error.
void WriteOutput(std::string_view text);

template <typename... Args>
void PrintOutput(fmt::format_string<Args...> format, Args&&... args) {
  WriteOutput(fmt::format(format, std::forward<Args>(args)...));
}

/// Flushes. kUnavailable with the first error of all that was written: "standard output cannot be
/// written: No space left on device".
absl::Status FlushOutput();

/// That error, of an errno.
absl::Status OutputError(int error);

}  // namespace tandem
