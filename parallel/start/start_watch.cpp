#include "parallel/start/start_watch.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <utility>

#include "parallel/start/stopped_ranks.h"

namespace tandem::parallel {
namespace {

using std::chrono::microseconds;
using std::chrono::seconds;
using Clock = std::chrono::steady_clock;

constexpr auto kOthersFirst = seconds(10);     // for whoever reads the lines
constexpr auto kTrifle = microseconds(20000);  // of computing, in an interval

microseconds ComputingTime(const rusage& usage) {
  return seconds(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
         microseconds(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec);
}

}  // namespace

StartWatch::StartWatch(Options options) : options_(std::move(options)) {
  news_ = {.rank = options_.rank, .host = options_.host, .pid = getpid()};
  getrusage(RUSAGE_SELF, &used_);
  thread_ = std::thread([this] { Watch(); });
}

StartWatch::~StartWatch() { Finish(); }

void StartWatch::Finish() {
  {
    const MutexLock lock(mutex_);
    if (stopping_) return;
    stopping_ = true;
    news_.phase = StartPhase::kReady;
    news_.percent = 0;
  }
  changed_.NotifyAll();
  thread_.join();
  Publish(nullptr);
}

void StartWatch::Enter(StartPhase phase) {
  {
    const MutexLock lock(mutex_);
    news_.phase = phase;
    news_.percent = 0;
    moved_ = true;
  }
  changed_.NotifyAll();
}

void StartWatch::Progress(double fraction) {
  const MutexLock lock(mutex_);
  news_.percent = static_cast<int>(std::clamp(fraction, 0.0, 1.0) * 100);
  moved_ = true;
}

void StartWatch::SetMode(Mode mode) {
  const MutexLock lock(mutex_);
  mode_ = mode;
  moved_ = true;
}

void StartWatch::SetPatient(bool patient) {
  const MutexLock lock(mutex_);
  patient_ = patient;
  moved_ = true;
}

void StartWatch::Publish(std::function<void(const StartNews& news)> publish) {
  const MutexLock lock(publishing_);
  publish_ = std::move(publish);
}

StartNews StartWatch::News() {
  const MutexLock lock(mutex_);
  return news_;
}

bool StartWatch::Moves() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const rusage before = std::exchange(used_, usage);
  return ComputingTime(usage) - ComputingTime(before) >= kTrifle ||
         usage.ru_majflt != before.ru_majflt || usage.ru_inblock != before.ru_inblock;
}

void StartWatch::Watch() {
  for (bool over = false; !over;) {
    Look();
    MutexLock lock(mutex_);
    const StartPhase phase = news_.phase;
    const auto end = Clock::now() + options_.interval;
    while (!stopping_ && news_.phase == phase && changed_.WaitUntil(mutex_, end)) {
    }
    over = stopping_;
  }
  if (!options_.lines) return;
  const std::string line = StartLine(News());
  [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
}

void StartWatch::Look() {
  Mode mode = Mode::kWorking;
  bool moved = Moves();
  StartNews news;
  {
    const MutexLock lock(mutex_);
    mode = mode_;
    moved = std::exchange(moved_, false) || moved || patient_ || mode != Mode::kWorking;
    news = news_;
  }
  // Looks are counted, not time: a process that was stopped for a while goes on.
  quiet_ = moved ? Duration(0) : quiet_ + options_.interval;
  inside_ = mode == Mode::kInside ? inside_ + options_.interval : Duration(0);
  if (moved) {
    if (options_.lines) {
      const std::string line = StartLine(news);
      [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line.data(), line.size());
    }
    const MutexLock lock(publishing_);
    if (publish_) publish_(news);
  }
  const auto limit = options_.patience + (options_.lines ? Duration(kOthersFirst) : Duration(0));
  if (quiet_ >= options_.patience) {
    StartTable table(options_.rank + 1);
    table.Hear(news);
    const std::vector<int> mine = {options_.rank};
    for (Duration left = quiet_; left > Duration(0); left -= options_.interval) {
      table.Pass(options_.interval);
    }
    options_.end(table.Describe(mine));
  } else if (inside_ >= limit) {
    const std::string stopped = StoppedRanksHere();
    // Those that see more than others speak first.
    if (stopped.empty() && inside_ < limit + Duration(seconds(3))) return;
    options_.end(fmt::format(
        "rank {} on host {} has waited {:.0f} s, {}, for ranks that have not come: {}",
        options_.rank, options_.host, std::chrono::duration<double>(inside_).count(),
        StartPhaseText(news.phase),
        stopped.empty() ? "none of this host is known to stand still, so look at the others"
                        : stopped));
  }
}

}  // namespace tandem::parallel
