#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <string_view>

namespace tandem::core {

/// What a rank's time goes to.
enum class Phase : uint8_t {
  kAttention,    // norms, projections, attention itself, in all layers
  kFeedForward,  // norms, projections, activation, in all layers
  kVocabulary,   // the embedding's rows, the last norm, the head
  kAllReduce,    // sums over the ranks, with the wait for the slowest
  kSampling,     // penalties, the gather of candidates, the token
  kIdle,         // between steps: waiting for a plan, scheduling, and all else
};
inline constexpr size_t kPhases = 6;
std::string_view PhaseName(Phase phase);  // "attention", "feed-forward", ...

/// Where the time of some steps went on one rank. Plain memory, so that ranks can gather it.
struct PhaseTimes {
  std::array<int64_t, kPhases> nanoseconds{};
  int64_t product_nanoseconds = 0;  // of them, in matrix products (with rounding their input)
  int64_t steps = 0;
  int64_t tokens = 0;  // that went through the layers

  int64_t& operator[](Phase phase) { return nanoseconds[static_cast<size_t>(phase)]; }
  int64_t operator[](Phase phase) const { return nanoseconds[static_cast<size_t>(phase)]; }
  int64_t total_nanoseconds() const;
  PhaseTimes& operator+=(const PhaseTimes& other);
  bool operator==(const PhaseTimes&) const = default;
};

/// A rank's stopwatch: every lap gives the time since the lap before to a phase, so that phases add
/// up to the whole. Reads a clock once a lap, at borders of phases only. Thread safety: the rank's
/// step thread alone, or others when it has ended.
class PhaseClock {
 public:
  using Now = std::function<int64_t()>;  // nanoseconds, never going back

  /// Of std::chrono::steady_clock, or a test's own clock.
  PhaseClock();
  explicit PhaseClock(Now now) : now_(std::move(now)) {}

  /// A step begins that computes `tokens` tokens; laps count for it until the next one begins. What
  /// has passed since the last lap is its idle time (none before the first step). `decoding`: how
  /// many sequences get their next token, or 0 if the step computes prompts.
  void BeginStep(int64_t decoding, int64_t tokens);
  void Lap(Phase phase) { Add(phase, false); }
  /// A lap that was a matrix product.
  void LapProduct(Phase phase) { Add(phase, true); }

  /// The steps that decoded this many sequences together, or (0) that computed prompts.
  PhaseTimes Steps(int64_t decoding) const;

 private:
  void Add(Phase phase, bool product);

  Now now_;
  std::map<int64_t, PhaseTimes> steps_;  // by number of sequences decoded
  PhaseTimes* current_ = nullptr;        // into steps_
  int64_t last_ = 0;
};

}  // namespace tandem::core
