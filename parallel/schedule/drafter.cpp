#include "parallel/schedule/drafter.h"

#include <algorithm>

namespace tandem::parallel {
namespace {

constexpr double kRemembered = 48;  // guesses of a length that count for its odds
constexpr double kMostCredit = 24;  // tokens' worth; old success pays for no more than that

}  // namespace

Drafter::Drafter(std::span<const int32_t> prompt)
    // What is believed at first, as if of four guesses of each length: too much rather than too
    // little, since the first guesses correct it.
    : odds_{{{1.2, 4}, {1.6, 4}, {2.4, 4}, {3.4, 4}, {3.7, 4}, {3.9, 4}}} {
  for (const int32_t token : prompt) index_.Append(token);
  match_ = index_.Find();
}

size_t Drafter::LengthClass(int32_t length) {
  constexpr std::array<int32_t, kLengthClasses - 1> kLongest = {2, 3, 5, 8, 16};
  size_t c = 0;
  while (c < kLongest.size() && length > kLongest[c]) ++c;
  return c;
}

int32_t Drafter::Worthwhile(const DraftIndex::Match& match, int32_t most, double price) const {
  if (match.length == 0) return 0;
  double all_right = 1;  // the odds that all tokens so far are
  double gain = 1, cost = 1;
  for (int32_t count = 0; count < most; ++count) {
    const Odds& odds = odds_[LengthClass(match.length + count)];
    all_right *= odds.right / odds.tried;
    // One more pays as long as it gives more for its cost than the step does without it.
    if (all_right * cost < price * gain) return count;
    gain += all_right;
    cost += price;
  }
  return most;
}

std::vector<int32_t> Drafter::Guess(int32_t most, double price) {
  const double paid_for = std::max(0.0, ledger_ / price);
  most = std::min({most, kMostDrafts, static_cast<int32_t>(std::min(paid_for, 1e6))});
  const int32_t count = Worthwhile(match_, most, price);
  if (count <= 0) return {};
  price_ = price;
  return index_.Continue(match_, count);
}

bool Drafter::Hopeful(double price) const {
  return ledger_ >= price && Worthwhile(match_, 2, price) == 2;
}

void Drafter::Learn(int32_t token) {
  if (match_.length == 0) return;
  Odds& odds = odds_[LengthClass(match_.length)];
  if (odds.tried >= kRemembered) odds = {odds.right / 2, odds.tried / 2};
  odds.tried += 1;
  if (index_.tokens()[static_cast<size_t>(match_.next)] == token) odds.right += 1;
}

void Drafter::Take(std::span<const int32_t> tokens, int32_t drafted, int32_t accepted) {
  ledger_ += accepted - drafted * price_;
  for (const int32_t token : tokens) {
    Learn(token);
    index_.Append(token);
    match_ = index_.Find();
    ledger_ += kAllowance;
  }
  ledger_ = std::min(ledger_, kMostCredit);
}

}  // namespace tandem::parallel
