#pragma once

#include <cstddef>
#include <string>

#include "core/base/status.h"

/// The one way to read a whole text that a user names: a file, a pipe of a shell, standard input.
namespace tandem {

inline constexpr size_t kMostTextBytes = size_t{64} << 20;

/// All bytes of a file or pipe. kInvalidArgument, naming the path and what is wrong: there is no
/// such file, it is a directory, it may not be read, it has more than `most` bytes (or no end), or
/// it is a pipe into which nobody writes for 10 s. Thread safety: all functions.
absl::StatusOr<std::string> ReadTextFile(const std::string& path, size_t most = kMostTextBytes);

/// All bytes of standard input, however long they take. kInvalidArgument like above.
absl::StatusOr<std::string> ReadStandardInput(size_t most = kMostTextBytes);

}  // namespace tandem
