#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>

namespace tandem::parallel {

/// How many prompt tokens fit into a step without making those who decode wait for long: learnt
/// from how long steps took.
///
/// A step of m decoding sequences alone takes a(m), and each prompt token adds b: the median of the
/// last few such steps each, so that one disturbed step says nothing and a change is followed
/// within three. b grows along a prompt, as attention does. The budget keeps a step below
/// kMostStretch * a(m). Source: Agrawal et al. 2024, "Sarathi-Serve" (stall-free batching; there
/// the budget is found by profiling). Thread safety: none.
class PromptBudget {
 public:
  /// Time between tokens of a running stream over that without prompts, at most: below the 3 that
  /// are promised, since steps vary.
  static constexpr double kMostStretch = 2.4;
  /// A prompt moves on by this many tokens in any case: where a token of a prompt costs as much as
  /// one of a stream, more would break the promise.
  static constexpr int32_t kLeast = 2;
  /// Where nothing is known yet.
  static constexpr int32_t kFirst = 4;

  /// most: tokens of a step, however short it is.
  explicit PromptBudget(int32_t most) : most_(most) {}

  /// A step took so long.
  void Add(int32_t decoding, int32_t prompt_tokens, double seconds);

  /// Prompt tokens for a step in which so many sequences decode and so many read their prompts,
  /// kLeast to `most`. Each prompt gets the room that one alone would have: whoever waits for a
  /// first token counts as much as who waits for the next one, and small steps waste the machine.
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
