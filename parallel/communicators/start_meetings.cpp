#include "parallel/communicators/start_meetings.h"

#include <algorithm>
#include <thread>

namespace tandem::parallel {
namespace {

using Clock = std::chrono::steady_clock;

constexpr int kTag = 23;                               // of signs; other messages have others
constexpr auto kHurry = std::chrono::milliseconds(5);  // polls, before it sleeps between looks
constexpr auto kNap = std::chrono::microseconds(200);
constexpr auto kLowerFirst = std::chrono::seconds(3);

}  // namespace

StartMeetings::StartMeetings(StartWatch& watch, int size)
    : watch_(watch), sent_(static_cast<size_t>(size)), table_(size) {
  watch_.Publish([this](const StartNews& news) {
    if (!mutex_.TryLock()) return;  // the rank waits, and tells by itself
    Tell(news);
    mutex_.Unlock();
  });
}

void StartMeetings::Tell(const StartNews& news) {
  told_ = news.phase;
  for (size_t rank = 0; rank < sent_.size(); ++rank) {
    Sent& sent = sent_[rank];
    if (static_cast<int>(rank) == news.rank) continue;
    int done = 1;
    if (sent.request != MPI_REQUEST_NULL) MPI_Test(&sent.request, &done, MPI_STATUS_IGNORE);
    if (done == 0) continue;  // it takes nothing: the next sign says the same
    sent.wire = {.rank = news.rank,
                 .phase = static_cast<int32_t>(news.phase),
                 .percent = news.percent,
                 .host = {}};
    news.host.copy(sent.wire.host.data(), sent.wire.host.size() - 1);
    MPI_Isend(&sent.wire, sizeof(sent.wire), MPI_BYTE, static_cast<int>(rank), kTag, MPI_COMM_WORLD,
              &sent.request);
  }
}

void StartMeetings::Listen() {
  for (;;) {
    int there = 0;
    MPI_Status status;
    if (MPI_Iprobe(MPI_ANY_SOURCE, kTag, MPI_COMM_WORLD, &there, &status) != MPI_SUCCESS) return;
    if (there == 0) return;
    Wire wire{};
    if (MPI_Recv(&wire, sizeof(wire), MPI_BYTE, status.MPI_SOURCE, kTag, MPI_COMM_WORLD,
                 MPI_STATUS_IGNORE) != MPI_SUCCESS) {
      return;
    }
    wire.host.back() = '\0';
    const int32_t phase = std::clamp<int32_t>(wire.phase, 0, kStartPhases - 1);
    table_.Hear({.rank = status.MPI_SOURCE,
                 .host = wire.host.data(),
                 .phase = static_cast<StartPhase>(phase),
                 .percent = wire.percent});
  }
}

void StartMeetings::Judge(Clock::duration passed) {
  const int mine = watch_.options().rank;
  table_.Pass(passed);
  table_.Hear(watch_.News());
  const Clock::duration patience = watch_.options().patience;
  const std::vector<int> silent = table_.Silent(patience, patience);
  if (silent.empty()) return;
  // One tells: the first that is well, or another if that one does not.
  int first = 0;
  while (std::find(silent.begin(), silent.end(), first) != silent.end()) ++first;
  if (first != mine) {
    const Clock::duration longer = patience + kLowerFirst;
    if (table_.Silent(longer, longer).empty()) return;
  }
  watch_.options().end(table_.Describe(silent));
}

int StartMeetings::Meet() {
  MPI_Request all_here = MPI_REQUEST_NULL;
  int code = MPI_Ibarrier(MPI_COMM_WORLD, &all_here);
  if (code != MPI_SUCCESS) return code;
  watch_.SetMode(StartWatch::Mode::kMeeting);
  // Of a rank that is stopped right after this, the others know where it was.
  if (const StartNews news = watch_.News(); told_ != news.phase) Tell(news);
  const auto begin = Clock::now();
  auto looked = begin;
  for (int done = 0;;) {
    code = MPI_Test(&all_here, &done, MPI_STATUS_IGNORE);
    if (code != MPI_SUCCESS || done != 0) break;
    const auto now = Clock::now();
    if (now - begin < kHurry) {
      std::this_thread::yield();
      continue;
    }
    std::this_thread::sleep_for(kNap);
    if (now - looked < watch_.options().interval) continue;
    Tell(watch_.News());
    Listen();
    Judge(now - looked);
    looked = now;
  }
  Listen();
  return code;
}

}  // namespace tandem::parallel
