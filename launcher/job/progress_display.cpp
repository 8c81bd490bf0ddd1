#include "launcher/job/progress_display.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "fmt/format.h"

namespace tandem::launcher {
namespace {

constexpr int kBarWidth = 30;
constexpr auto kBetweenBars = std::chrono::milliseconds(100);
constexpr auto kBetweenLines = std::chrono::seconds(1);

}  // namespace

ProgressDisplay::ProgressDisplay()
    : terminal_(isatty(STDERR_FILENO) != 0), last_(std::chrono::steady_clock::now()) {}

ProgressDisplay::~ProgressDisplay() {
  if (drawn_) std::fputs("\r\033[K", stderr);
}

void ProgressDisplay::Show(double fraction, std::string_view what) {
  const auto now = std::chrono::steady_clock::now();
  if (now - last_ < (terminal_ ? std::chrono::milliseconds(kBetweenBars) : kBetweenLines)) return;
  last_ = now;
  fraction = std::clamp(fraction, 0.0, 1.0);
  std::string line;
  if (terminal_) {
    const int filled = static_cast<int>(fraction * kBarWidth);
    line = fmt::format("\r{} [{:=<{}}{:<{}}] {:3.0f} %\033[K", what, "", filled, "",
                       kBarWidth - filled, fraction * 100);
    drawn_ = true;
  } else {
    line = fmt::format("{}: {:.0f} %\n", what, fraction * 100);
  }
  std::fputs(line.c_str(), stderr);
}

}  // namespace tandem::launcher
