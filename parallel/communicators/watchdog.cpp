#include "parallel/communicators/watchdog.h"

#include <algorithm>
#include <utility>

#include "core/base/status.h"
#include "parallel/communicators/communicator.h"

namespace tandem::parallel {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

bool Seen(const RankProgress& progress) { return progress.since != Clock::time_point(); }

std::string Describe(const ProgressBoard& board, const std::vector<RankProgress>& all,
                     const StalledCollective& stalled, Clock::time_point now) {
  std::string text = fmt::format("rank {} on host {} has waited {:.1f} s in {}",
                                 stalled.waiting_rank, board.host(stalled.waiting_rank),
                                 stalled.waited.count(), PhaseText(stalled.phase));
  for (const int rank : stalled.laggards) {
    const RankProgress& progress = all[static_cast<size_t>(rank)];
    const double since = duration<double>(now - progress.since).count();
    text += fmt::format("; rank {} on host {} has not come, it {} {} {:.1f} s ago", rank,
                        board.host(rank), progress.waiting ? "entered" : "left",
                        PhaseText(progress.phase), since);
  }
  for (const int rank : stalled.unseen) {
    text += fmt::format("; nothing is known of rank {} on host {}", rank, board.host(rank));
  }
  if (stalled.laggards.empty() && stalled.unseen.empty()) {
    text += "; all ranks have come, so the messages between them are stalled";
  }
  return text;
}

}  // namespace

std::optional<StalledCollective> FindStalledCollective(const ProgressBoard& board,
                                                       Clock::duration deadline,
                                                       Clock::time_point now) {
  std::vector<RankProgress> all;
  all.reserve(static_cast<size_t>(board.ranks()));
  for (int rank = 0; rank < board.ranks(); ++rank) all.push_back(board.Read(rank));
  std::optional<StalledCollective> stalled;
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const RankProgress& progress = all[static_cast<size_t>(rank)];
    const duration<double> waited = now - progress.since;
    if (!progress.waiting || waited < deadline) continue;
    if (stalled.has_value() && stalled->waited >= waited) continue;
    stalled = {rank, progress.phase, progress.collectives, waited, {}, {}, {}};
  }
  if (!stalled.has_value()) return std::nullopt;
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const RankProgress& progress = all[static_cast<size_t>(rank)];
    if (!Seen(progress)) {
      stalled->unseen.push_back(rank);
    } else if (progress.collectives < stalled->collective) {
      stalled->laggards.push_back(rank);
    }
  }
  stalled->text = Describe(board, all, *stalled, now);
  return stalled;
}

Watchdog::Watchdog(const ProgressBoard& board, Clock::duration deadline,
                   std::function<void(const StalledCollective&)> report)
    : board_(board),
      deadline_(deadline),
      report_(std::move(report)),
      thread_([this] { Watch(); }) {}

Watchdog::~Watchdog() {
  {
    const MutexLock lock(mutex_);
    stopping_ = true;
  }
  changed_.NotifyAll();
  thread_.join();
}

void Watchdog::TellFirst(std::function<void(const StalledCollective&)> told,
                         Clock::duration grace) {
  const MutexLock lock(mutex_);
  told_ = std::move(told);
  grace_ = grace;
}

void Watchdog::Watch() {
  const Clock::duration pause =
      std::clamp<Clock::duration>(deadline_ / 8, milliseconds(1), milliseconds(1000));
  // By collective, not by who waits: the one that waited longest may leave first when the laggard
  // has come, and another still stand in the same collective.
  std::optional<uint64_t> reported;
  MutexLock lock(mutex_);
  while (!stopping_) {
    changed_.WaitFor(mutex_, pause);
    if (stopping_) return;
    const std::optional<StalledCollective> stalled =
        FindStalledCollective(board_, deadline_, Clock::now());
    if (!stalled.has_value() || reported == stalled->collective) continue;
    reported = stalled->collective;
    if (told_) {
      told_(*stalled);
      const auto end = Clock::now() + grace_;
      while (!stopping_ && changed_.WaitUntil(mutex_, end)) {
      }
      if (stopping_) return;
    }
    lock.Unlock();
    report_(*stalled);
    lock.Lock();
  }
}

}  // namespace tandem::parallel
