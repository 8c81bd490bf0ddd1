#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

namespace tandem::frontend {

/// So many random hexadecimal digits, which nobody can guess. Thread safety: any thread.
std::string RandomHex(size_t digits);

/// Makes ids of answers, which sort as they were made. Thread safety: one thread.
class AnswerIds {
 public:
  /// `prefix` and 32 hexadecimal digits: 13 of the microseconds since 1970, or one more than those
  /// of the last id, and random ones.
  std::string Next(std::string_view prefix);

 private:
  int64_t last_ = 0;  // microseconds
};

/// When an id was made: seconds since 1970.
int64_t SecondsOfId(std::string_view id, std::string_view prefix);

}  // namespace tandem::frontend
