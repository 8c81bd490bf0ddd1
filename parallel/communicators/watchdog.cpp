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

std::string Who(const ProgressBoard& board, int rank) {
  return fmt::format("rank {} on host {}", rank, board.place(rank));
}

std::string DescribeLaggard(const ProgressBoard& board, int rank, const RankProgress& progress,
                            Clock::time_point now) {
  const double since = duration<double>(now - progress.since).count();
  if (progress.collectives == 0) {
    return fmt::format("; {} has not come, it has been in none since it was ready {:.1f} s ago",
                       Who(board, rank), since);
  }
  return fmt::format("; {} has not come, it {} {} {:.1f} s ago", Who(board, rank),
                     progress.waiting ? "entered" : "left", PhaseText(progress.phase), since);
}

/// All ranks are in it: none is more to blame than another.
std::string DescribeAll(const ProgressBoard& board, const StalledCollective& stalled) {
  std::string text = fmt::format(
      "all {} ranks have waited in {}, for up to {:.1f} s, so the messages between "
      "them{} are stalled",
      board.ranks(), PhaseText(stalled.phase), stalled.waited.count(),
      board.on_gpus() ? ", or one of their GPUs," : "");
  for (int rank = 0; rank < board.ranks(); ++rank) {
    text += (rank == 0 ? ": " : ", ") + Who(board, rank);
  }
  return text;
}

std::string Describe(const ProgressBoard& board, const std::vector<RankProgress>& all,
                     const StalledCollective& stalled, Clock::time_point now) {
  if (stalled.laggards.empty() && stalled.passed.empty() && stalled.unseen.empty()) {
    return DescribeAll(board, stalled);
  }
  std::string text = fmt::format("{} has waited {:.1f} s in {}", Who(board, stalled.waiting_rank),
                                 stalled.waited.count(), PhaseText(stalled.phase));
  for (const int rank : stalled.laggards) {
    text += DescribeLaggard(board, rank, all[static_cast<size_t>(rank)], now);
  }
  for (const int rank : stalled.unseen) {
    text += fmt::format("; nothing is known of {}", Who(board, rank));
  }
  if (stalled.laggards.empty()) {
    for (const int rank : stalled.passed) {
      text += fmt::format("; {} has gone on from there", Who(board, rank));
    }
  }
  return text;
}

/// of_others: of all ranks the one that has come furthest, and of several the first; else of those
/// of this process the one that has waited longest.
std::optional<StalledCollective> Find(const ProgressBoard& board, Clock::duration deadline,
                                      bool of_others, Clock::time_point now) {
  std::vector<RankProgress> all;
  all.reserve(static_cast<size_t>(board.ranks()));
  for (int rank = 0; rank < board.ranks(); ++rank) all.push_back(board.Read(rank));
  std::optional<StalledCollective> stalled;
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const RankProgress& progress = all[static_cast<size_t>(rank)];
    const duration<double> waited = now - progress.since;
    if (!progress.waiting || waited < deadline || (progress.heard && !of_others)) continue;
    const bool further = stalled.has_value() && progress.collectives > stalled->collective;
    const bool longer = stalled.has_value() && waited > stalled->waited;
    if (stalled.has_value() && !(of_others ? further : longer)) continue;
    stalled = {rank, progress.phase, progress.collectives, waited, {}, {}, {}, {}};
  }
  if (!stalled.has_value()) return std::nullopt;
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const RankProgress& progress = all[static_cast<size_t>(rank)];
    if (!Seen(progress)) {
      stalled->unseen.push_back(rank);
    } else if (progress.collectives < stalled->collective) {
      stalled->laggards.push_back(rank);
    } else if (progress.collectives > stalled->collective || !progress.waiting) {
      stalled->passed.push_back(rank);
    }
  }
  stalled->text = Describe(board, all, *stalled, now);
  return stalled;
}

}  // namespace

std::optional<StalledCollective> FindStalledCollective(const ProgressBoard& board,
                                                       Clock::duration deadline,
                                                       Clock::time_point now) {
  return Find(board, deadline, /*of_others=*/false, now);
}

std::optional<StalledCollective> FindFurthestWait(const ProgressBoard& board,
                                                  Clock::time_point now) {
  return Find(board, Clock::duration::zero(), /*of_others=*/true, now);
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
