#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>

namespace tandem::parallel {

/// How many prompt tokens fit into a step so that sequences that decode do not wait for long. It is
/// learnt from how long steps took.
///
/// A step of m decoding sequences alone takes a(m), and each prompt token adds b. Both are medians
/// of the last few such steps: one disturbed step changes nothing, and three show a change. b grows
/// along a prompt, as attention does. The budget keeps a step below kMostStretch * a(m). Source:
/// Agrawal et al. 2024, "Sarathi-Serve" (stall-free batching; there the budget is found by
/// profiling). Thread safety: none.
class PromptBudget {
 public:
  /// The most by which prompts may stretch the time between tokens of a running stream. It is below
  /// the promised 3, since steps vary.
  static constexpr double kMostStretch = 2.4;
  /// A prompt advances by this many tokens in any case. More would break the promise where a token
  /// of a prompt costs as much as one of a stream.
  static constexpr int32_t kLeast = 2;
  /// Where nothing is known yet.
  static constexpr int32_t kFirst = 4;

  /// most: tokens of a step, however short it is.
  explicit PromptBudget(int32_t most) : most_(most) {}

  /// A step took so long.
  void Add(int32_t decoding, int32_t prompt_tokens, double seconds);

  /// Prompt tokens, kLeast to `most`, for a step in which `decoding` sequences decode and `prompts`
  /// read their prompts. Each prompt gets the room that one alone would have: a client that waits
  /// for its first token counts as much as one that waits for the next, and small steps waste the
  /// machine.
  int32_t Tokens(int32_t decoding, int32_t prompts) const;

 private:
  /// The median of the last five numbers.
  class Recent {
   public:
    void Add(double value);
    bool empty() const { return count_ == 0; }
    size_t count() const { return count_; }
    double Median() const;

   private:
    std::array<double, 5> values_{};
    size_t count_ = 0;
    size_t next_ = 0;
  };

  double StepAlone(int32_t decoding) const;

  int32_t most_;
  std::map<int32_t, Recent> alone_;  // seconds of steps without prompts, by sequences that decode
  Recent each_;                      // seconds a prompt token added
  int32_t last_ = kFirst;            // prompt tokens of the last step that had any beside others
};

}  // namespace tandem::parallel
