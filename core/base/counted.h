#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "fmt/format.h"

namespace tandem {

/// "1 rank", "2 ranks".
inline std::string Counted(int64_t count, std::string_view what) {
  return fmt::format("{} {}{}", count, what, count == 1 ? "" : "s");
}

/// The same for what does not take an s: "1 answer is", "2 answers are".
inline std::string Counted(int64_t count, std::string_view one, std::string_view several) {
  return fmt::format("{} {}", count, count == 1 ? one : several);
}

}  // namespace tandem
