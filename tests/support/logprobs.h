#pragma once

#include <vector>

#include "core/sampling/logprobs.h"

namespace tandem::testing {

/// Log-probabilities after one row of logits, [vocab], on one rank.
inline core::TokenScore LogprobsOf(std::vector<float> logits, int32_t chosen, int32_t top) {
  const auto one_after_the_other = [](int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    for (int64_t task = 0; task < tasks; ++task) body(task);
  };
  const auto vocab = static_cast<int64_t>(logits.size());
  core::HostLogits in_memory(logits.data(), {0, vocab}, one_after_the_other);
  const core::ScoreRow row{.row = 0, .token = chosen, .top = top, .largest_shard = vocab};
  core::OneRank alone;
  core::TokenScore score;
  const absl::Status status =
      ScoreRows({&row, 1}, in_memory, alone, {}, one_after_the_other, {&score, 1});
  return status.ok() ? score : std::nullopt;
}

}  // namespace tandem::testing
