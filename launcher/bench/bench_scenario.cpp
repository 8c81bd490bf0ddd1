#include "launcher/bench/bench_scenario.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <vector>

#include "core/base/mutex.h"

namespace tandem::launcher {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kBetweenProgress = std::chrono::milliseconds(100);
constexpr int32_t kStepsToBegin = 2;  // in which requests may arrive one after the other
constexpr int kAttempts = 3;

/// When each sequence got its tokens. Thread safety: all methods.
class Record {
 public:
  explicit Record(size_t sequences) : times_(sequences) {}

  parallel::EngineSink Sink(size_t sequence) {
    return {.on_tokens =
                [this, sequence](std::span<const int32_t> tokens) {
                  const Clock::time_point now = Clock::now();
                  const MutexLock lock(mutex_);
                  times_[sequence].insert(times_[sequence].end(), tokens.size(), now);
                  tokens_ += tokens.size();
                },
            .on_logits = {},
            .on_finish =
                [this](const parallel::Finish& finish) {
                  const MutexLock lock(mutex_);
                  last_finish_ = finish;
                  if (!finish.status.ok()) status_ = finish.status;
                  ++finished_;
                  changed_.NotifyAll();
                }};
  }

  /// Until `sequences` of them are finished; the last one's usage.
  absl::StatusOr<parallel::Usage> Wait(size_t sequences, int64_t tokens,
                                       const ScenarioProgress& progress) {
    MutexLock lock(mutex_);
    while (finished_ < sequences) {
      changed_.WaitFor(mutex_, kBetweenProgress);
      const double fraction = static_cast<double>(tokens_) / static_cast<double>(tokens);
      lock.Unlock();
      if (progress) progress(std::min(fraction, 1.0));
      lock.Lock();
    }
    if (!status_.ok()) return status_;
    return last_finish_.usage;
  }

  /// Tokens a second of all sequences together, from when the last one has begun until the first
  /// one ends; nothing if that is no time at all.
  std::optional<double> TogetherRate() const {
    const MutexLock lock(mutex_);
    Clock::time_point begin = Clock::time_point::min();
    const std::vector<Clock::time_point>* first_to_end = nullptr;
    for (const std::vector<Clock::time_point>& times : times_) {
      if (times.empty()) return std::nullopt;
      begin = std::max(begin, times.front());
      if (first_to_end == nullptr || times.back() < first_to_end->back()) first_to_end = &times;
    }
    const Clock::time_point end = first_to_end->back();
    if (begin >= end) return std::nullopt;
    const auto steps = std::count_if(first_to_end->begin(), first_to_end->end(),
                                     [&](const Clock::time_point& time) { return time > begin; });
    const auto tokens = static_cast<double>(steps) * static_cast<double>(times_.size());
    return tokens / std::chrono::duration<double>(end - begin).count();
  }

 private:
  mutable Mutex mutex_;
  CondVar changed_;
  // [sequences][tokens]
  std::vector<std::vector<Clock::time_point>> times_ ABSL_GUARDED_BY(mutex_);
  size_t tokens_ ABSL_GUARDED_BY(mutex_) = 0;
  size_t finished_ ABSL_GUARDED_BY(mutex_) = 0;
  parallel::Finish last_finish_ ABSL_GUARDED_BY(mutex_);
  absl::Status status_ ABSL_GUARDED_BY(mutex_);
};

/// Spread over the vocabulary without pattern: the finalizer of SplitMix64 (Steele et al. 2014).
int32_t TokenAt(uint64_t sequence, uint64_t position, int32_t vocab) {
  uint64_t z = (sequence << 32) + position + 0x9e3779b97f4a7c15U;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
  z ^= z >> 31;
  return static_cast<int32_t>(z % static_cast<uint64_t>(vocab));
}

parallel::EngineRequest Request(size_t sequence, int32_t prompt, int32_t max_tokens,
                                int32_t vocab) {
  parallel::EngineRequest request;
  for (int32_t i = 0; i < prompt; ++i) {
    request.prompt.push_back(TokenAt(sequence, static_cast<uint64_t>(i), vocab));
  }
  request.max_tokens = max_tokens;
  request.reuse = false;  // a prompt is to be computed in every attempt
  return request;
}

}  // namespace

int32_t BenchScenario::asked(int32_t prefill_chunk) const {
  if (prefill()) return 1;
  const int64_t prompts = int64_t{sequences} * prompt;
  const int64_t steps = (prompts + prefill_chunk - 1) / prefill_chunk + kStepsToBegin;
  // A single sequence has nobody to wait for. Its first token comes with the prompt.
  return 1 + generated + (sequences == 1 ? 0 : static_cast<int32_t>(steps));
}

absl::StatusOr<double> MeasureScenario(parallel::Engine& engine, const BenchScenario& scenario,
                                       int32_t prefill_chunk, int32_t vocab,
                                       const ScenarioProgress& progress) {
  const int32_t asked = scenario.asked(prefill_chunk);
  const auto slots = static_cast<size_t>(scenario.slots());
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    Record record(slots);
    std::vector<parallel::EngineRequest> requests;
    for (size_t s = 0; s < slots; ++s) {
      requests.push_back(Request(s, scenario.prompt, asked, vocab));
    }
    absl::Status refused;
    std::vector<parallel::RequestId> ids;
    for (size_t s = 0; s < slots && refused.ok(); ++s) {
      const auto id = engine.Submit(std::move(requests[s]), record.Sink(s));
      if (id.ok()) ids.push_back(*id);
      refused = id.status();
    }
    if (!refused.ok()) {
      // The engine still knows the record.
      for (const parallel::RequestId id : ids) engine.Cancel(id);
    }
    const absl::StatusOr<parallel::Usage> usage =
        record.Wait(ids.size(), int64_t{asked} * scenario.slots(), progress);
    TANDEM_RETURN_IF_ERROR(refused);
    TANDEM_RETURN_IF_ERROR(usage.status());
    if (scenario.prefill()) return scenario.prompt / usage->prefill_seconds;
    if (const std::optional<double> rate = record.TogetherRate()) return *rate;
  }
  return FailedPrecondition(
      "{} sequences were never decoded together in {} attempts; use a longer --gen or a less busy "
      "machine",
      scenario.sequences, kAttempts);
}

}  // namespace tandem::launcher
