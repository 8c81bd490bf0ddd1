#include "parallel/watchdog.h"

#include <algorithm>
#include <utility>

#include "core/status.h"
#include "parallel/communicator.h"

namespace tandem::parallel {
namespace {

using std::chrono::duration;
using std::chrono::milliseconds;
using Clock = std::chrono::steady_clock;

bool Seen(const RankProgress& progress) { return progress.since != Clock::time_point(); }

std::string Describe(const ProgressBoard& board, const std::vector<RankProgress>& all,
                     const StuckMeeting& stuck, Clock::time_point now) {
  std::string text =
      fmt::format("rank {} on host {} has waited {:.1f} s in {}", stuck.waiting_rank,
                  board.host(stuck.waiting_rank), stuck.waited.count(), PhaseText(stuck.phase));
  for (const int rank : stuck.laggards) {
    const RankProgress& progress = all[static_cast<size_t>(rank)];
    const double since = duration<double>(now - progress.since).count();
    text += fmt::format("; rank {} on host {} has not come, it {} {} {:.1f} s ago", rank,
                        board.host(rank), progress.waiting ? "entered" : "left",
                        PhaseText(progress.phase), since);
  }
  for (const int rank : stuck.unseen) {
    text += fmt::format("; nothing is known of rank {} on host {}", rank, board.host(rank));
  }
  if (stuck.laggards.empty() && stuck.unseen.empty()) {
    text += "; all ranks have come, so the messages between them are stuck";
  }
  return text;
}

}  // namespace

std::optional<StuckMeeting> FindStuckMeeting(const ProgressBoard& board, Clock::duration deadline,
                                             Clock::time_point now) {
  std::vector<RankProgress> all;
  for (int rank = 0; rank < board.ranks(); ++rank) all.push_back(board.Read(rank));
  std::optional<StuckMeeting> stuck;
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const RankProgress& progress = all[static_cast<size_t>(rank)];
    const duration<double> waited = now - progress.since;
    if (!progress.waiting || waited < deadline) continue;
    if (stuck.has_value() && stuck->waited >= waited) continue;
    stuck = {rank, progress.phase, progress.meetings, waited, {}, {}, {}};
  }
  if (!stuck.has_value()) return std::nullopt;
  for (int rank = 0; rank < board.ranks(); ++rank) {
    const RankProgress& progress = all[static_cast<size_t>(rank)];
    if (!Seen(progress)) {
      stuck->unseen.push_back(rank);
    } else if (progress.meetings < stuck->meeting) {
      stuck->laggards.push_back(rank);
    }
  }
  stuck->text = Describe(board, all, *stuck, now);
  return stuck;
}

Watchdog::Watchdog(const ProgressBoard& board, Clock::duration deadline,
                   std::function<void(const StuckMeeting&)> report)
    : board_(board),
      deadline_(deadline),
      report_(std::move(report)),
      thread_([this] { Watch(); }) {}

Watchdog::~Watchdog() {
  {
    std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  changed_.notify_all();
  thread_.join();
}

void Watchdog::Watch() {
  const Clock::duration pause =
      std::clamp<Clock::duration>(deadline_ / 8, milliseconds(1), milliseconds(1000));
  // By meeting, not by who waits: the one that waited longest may leave first when the laggard has
  // come, and another still stand in the same meeting.
  std::optional<uint64_t> reported;
  std::unique_lock lock(mutex_);
  while (!changed_.wait_for(lock, pause, [this] { return stopping_; })) {
    const std::optional<StuckMeeting> stuck = FindStuckMeeting(board_, deadline_, Clock::now());
    if (!stuck.has_value() || reported == stuck->meeting) continue;
    reported = stuck->meeting;
    lock.unlock();
    report_(*stuck);
    lock.lock();
  }
}

}  // namespace tandem::parallel
