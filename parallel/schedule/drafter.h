#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "parallel/schedule/draft_index.h"

namespace tandem::parallel {

/// Guesses how one sequence goes on, from what it said before (prompt lookup), as far as it pays.
///
/// Every token of the answer is compared with what the index would have guessed, drafted or not. So
/// the odds of a guess are known, by the length of its match, without trying. A draft grows as long
/// as its last token promises more than it costs. A ledger, in tokens' worth of time, bounds the
/// loss whatever the text: drafts are paid for with what earlier ones saved and with a small
/// allowance for each token. So drafts never cost more than kFirstAllowance and a part kAllowance
/// of the time. Source: Saxena 2023; Leviathan et al. 2023 (acceptance and gain). Thread safety:
/// none.
class Drafter {
 public:
  static constexpr int32_t kMostDrafts = 16;
  static constexpr double kAllowance = 0.02;      // tokens' worth, for each token
  static constexpr double kFirstAllowance = 0.6;  // tokens' worth

  explicit Drafter(std::span<const int32_t> prompt);

  /// Guesses of the tokens that come next: at most `most` of them, maybe none. price:
  /// StepCost::Price of the step that will carry them.
  std::vector<int32_t> Guess(int32_t most, double price);

  /// Whether a guess is likely once the next token is known.
  bool Hopeful(double price) const;

  /// Tokens of the answer that a step gave which carried the first `drafted` of the last guesses,
  /// `accepted` of them right.
  void Take(std::span<const int32_t> tokens, int32_t drafted, int32_t accepted);

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
  double price_ = 0;  // of the last guesses
};

}  // namespace tandem::parallel
