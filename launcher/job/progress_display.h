#pragma once

#include <chrono>
#include <string>

#include "core/base/progress.h"

namespace tandem::launcher {

/// Progress of long work on standard error: a bar on a terminal, otherwise a line now and then (and
/// none for work that is done within a second). Thread safety: none.
class ProgressDisplay {
 public:
  ProgressDisplay();
  /// Clears the bar.
  ~ProgressDisplay();
  ProgressDisplay(const ProgressDisplay&) = delete;
  ProgressDisplay& operator=(const ProgressDisplay&) = delete;

  void Show(double fraction, std::string_view what);
  core::Progress callback() {
    return [this](double fraction, std::string_view what) {
      Show(fraction, what);
      return absl::OkStatus();
    };
  }

 private:
  const bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point last_;
};

}  // namespace tandem::launcher
