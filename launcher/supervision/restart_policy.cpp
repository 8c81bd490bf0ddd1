#include "launcher/supervision/restart_policy.h"

#include <algorithm>

namespace tandem::launcher {
namespace {

constexpr auto kWindow = std::chrono::hours(1);
constexpr auto kOfUse = std::chrono::seconds(2);  // a life that answers requests for so long
constexpr std::chrono::milliseconds kFirstWait{250};
constexpr std::chrono::milliseconds kLongestWait{30000};
constexpr int kMostDoublings = 7;

}  // namespace

std::optional<RestartPolicy::Clock::duration> RestartPolicy::Next(Clock::time_point now,
                                                                  Clock::duration lived) {
  while (!restarts_.empty() && now - restarts_.front() >= kWindow) restarts_.pop_front();
  if (static_cast<int>(restarts_.size()) >= most_) return std::nullopt;
  restarts_.push_back(now);
  if (lived >= kOfUse) {
    short_lives_ = 0;
    return Clock::duration(0);
  }
  const auto wait = kFirstWait * (1 << std::min(short_lives_, kMostDoublings));
  ++short_lives_;
  return std::min<Clock::duration>(wait, kLongestWait);
}

}  // namespace tandem::launcher
