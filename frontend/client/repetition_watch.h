#pragma once

#include <string>
#include <string_view>

namespace tandem::frontend {

/// Notices a text that has come to do nothing but repeat itself: the same run of bytes at least
/// kTimes times over, kBytes in all, up to its end. Thread safety: one thread.
class RepetitionWatch {
 public:
  static constexpr size_t kTimes = 10;
  static constexpr size_t kBytes = 400;

  /// More of the text; true once it repeats itself.
  bool Append(std::string_view text);

 private:
  std::string end_;  // of the text, as far as repetitions are looked for
  size_t unseen_ = 0;
};

}  // namespace tandem::frontend
