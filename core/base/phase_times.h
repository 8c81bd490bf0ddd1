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

/// A rank's stopwatch. The time of a step goes to the innermost PhaseScope around it, or to
/// kVocabulary outside of all; the time between steps is idle. So phases add up to the whole. A
/// clock is read once at each border of a scope. Thread safety: the rank's step thread alone, or
/// others when it has ended.
class PhaseClock {
 public:
  using Now = std::function<int64_t()>;  // nanoseconds, never going back

  /// Of std::chrono::steady_clock, or a test's own clock.
  PhaseClock();
  explicit PhaseClock(Now now) : now_(std::move(now)) {}

  /// A step begins that computes `tokens` tokens; scopes count for it until the next one begins.
  /// What has passed since the last border is its idle time (none before the first step).
  /// `decoding`: how many sequences get their next token, or 0 if the step computes prompts.
  void BeginStep(int64_t decoding, int64_t tokens);

  /// The steps that decoded this many sequences together, or (0) that computed prompts.
  PhaseTimes Steps(int64_t decoding) const;

 private:
  friend class PhaseScope;

  /// What time is spent on.
  struct Activity {
    Phase phase = Phase::kVocabulary;
    bool product = false;
  };
  /// Gives the time since the last border to the activity so far, and goes on with `next`. Returns
  /// the activity so far.
  Activity Switch(Activity next);

  Now now_;
  std::map<int64_t, PhaseTimes> steps_;  // by number of sequences decoded
  PhaseTimes* current_ = nullptr;        // into steps_
  int64_t last_ = 0;                     // border
  Activity activity_;
};

/// The time until its end goes to a phase, or to the matrix products of the phase around it, except
/// for what scopes inside of it take. clock: null measures nothing; before a first step neither.
class PhaseScope {
 public:
  PhaseScope(PhaseClock* clock, Phase phase) : PhaseScope(clock, {.phase = phase}) {}
  static PhaseScope Product(PhaseClock* clock) {
    return {clock, {.phase = clock != nullptr ? clock->activity_.phase : Phase(), .product = true}};
  }
  ~PhaseScope() {
    if (clock_ != nullptr) clock_->Switch(around_);
  }
  PhaseScope(const PhaseScope&) = delete;
  PhaseScope& operator=(const PhaseScope&) = delete;

 private:
  PhaseScope(PhaseClock* clock, PhaseClock::Activity activity) : clock_(clock) {
    if (clock_ != nullptr) around_ = clock_->Switch(activity);
  }

  PhaseClock* const clock_;
  PhaseClock::Activity around_;
};

}  // namespace tandem::core
