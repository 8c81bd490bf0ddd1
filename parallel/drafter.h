#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "parallel/draft_index.h"

namespace tandem::parallel {

/// Guesses how one sequence goes on, from what it said before (prompt lookup), as far as it pays.
///
/// Every token of the answer is held against what the index would have guessed, drafted or not, so
/// the odds of a guess by the length of its match are known without trying. A draft is as long as
/// its last token promises more than it costs. A ledger in tokens' worth of time bounds the loss
/// whatever the text: a draft is paid for from what earlier ones saved and a small allowance for
/// each token, so in all, drafts never cost more than kAllowance of the time, and kFirstAllowance.
/// Source: Saxena 2023; Leviathan et al. 2023 (acceptance and gain).
/// Thread safety: none.
class Drafter {
 public:
  static constexpr int32_t kMostDrafts = 16;
  static constexpr double kAllowance = 0.02;      // tokens' worth, for each token
  static constexpr double kFirstAllowance = 0.6;  // tokens' worth

  explicit Drafter(std::span<const int32_t> prompt);

  /// Guesses of the tokens that come next: at most `most` of them, maybe none. price:
  /// StepCost::Price of the step that will carry them. They are paid for from now on; the next Take
  /// must be of what that step gave.
  std::vector<int32_t> Guess(int32_t most, double price);

  /// Whether a guess is likely once the next token is known.
  bool Hopeful(double price) const;

  /// Tokens of the answer: of a step with drafts all that it gave, one more than guesses that were
  /// right; else any.
  void Take(std::span<const int32_t> tokens);

  /// Whether Guess gave some since the last Take.
  bool under_way() const { return pending_; }
  int64_t drafted() const { return drafted_; }
  int64_t accepted() const { return accepted_; }

 private:
  struct Odds {
    double right;
    double tried;
  };
  static constexpr size_t kLengthClasses = 6;

  static size_t LengthClass(int32_t length);
  int32_t Worthwhile(const DraftIndex::Match& match, int32_t most, double price) const;
  void Learn(int32_t token);

  DraftIndex index_;
  DraftIndex::Match match_;  // of the tokens so far
  std::array<Odds, kLengthClasses> odds_;
  double ledger_ = kFirstAllowance;
  bool pending_ = false;
  int64_t drafted_ = 0;
  int64_t accepted_ = 0;
};

}  // namespace tandem::parallel
