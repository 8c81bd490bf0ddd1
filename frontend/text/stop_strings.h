#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tandem::frontend {

/// Finds stop strings in text that arrives in pieces. The one that is complete first ends the text,
/// where it begins; the pieces make no difference.
///
/// Invariant: what is held back is always a proper prefix of some stop string and the end of the
/// text so far. Stop strings are valid UTF-8, so no character is ever split by holding back.
/// Thread safety: one thread.
class StopStrings {
 public:
  /// Empty strings are ignored.
  explicit StopStrings(std::vector<std::string> strings);

  /// Adds text and returns what can be delivered. Once a stop string is complete, the text before
  /// it is returned and all later text is dropped. may_end: false for text within which none that
  /// becomes complete counts; it may still be the beginning of one.
  std::string Push(std::string_view text, bool may_end = true);
  /// What was held back, at the end.
  std::string Finish();
  bool matched() const { return matched_.has_value(); }
  /// The stop string that ended the text; none: none did.
  const std::optional<std::string>& match() const { return matched_; }

 private:
  std::vector<std::string> strings_;
  std::string held_;
  std::optional<std::string> matched_;
};

}  // namespace tandem::frontend
