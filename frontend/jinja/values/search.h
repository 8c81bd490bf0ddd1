#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/jinja/values/sandbox.h"

namespace tandem::frontend::jinja {

/// Finds a text in others, from the left or from the right, in time that grows with the lengths
/// alone, however often the text repeats itself. Source: Knuth, Morris and Pratt 1977.
class TextSearch {
 public:
  static constexpr size_t kNone = std::string_view::npos;

  /// wanted: must outlive the search. `searched`: bytes that are searched in all; fuel is spent for
  /// them, and for those of `wanted`.
  static absl::StatusOr<TextSearch> Make(Sandbox& sandbox, std::string_view wanted,
                                         size_t searched);

  /// Where it begins in [from, text.size()), the first time.
  size_t First(std::string_view text, size_t from = 0) const;
  /// Where it begins in [0, end), the last time; it ends there at the latest.
  size_t Last(std::string_view text, size_t end) const;

 private:
  explicit TextSearch(std::string_view wanted) : wanted_(wanted) {}

  std::string_view wanted_;
  // [wanted + 1] length of the longest border of so many bytes at its beginning, and at its end.
  // Empty for short texts, which are found in their length's time anyway.
  std::vector<size_t> forward_, backward_;
};

}  // namespace tandem::frontend::jinja
