#pragma once

#include <chrono>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <utility>
#include <vector>

#include "parallel/engine/engine.h"

namespace tandem::testing {

/// Keeps what an engine produces for one request, and lets a test wait for it.
/// Thread safety: all methods. Must outlive the request.
class CollectingSink {
 public:
  parallel::EngineSink Sink() {
    return {.on_tokens =
                [this](std::span<const int32_t> tokens) {
                  const std::lock_guard lock(mutex_);
                  late_ |= finish_.has_value();
                  tokens_.insert(tokens_.end(), tokens.begin(), tokens.end());
                  changed_.notify_all();
                },
            .on_logits =
                [this](int64_t position, std::span<const float> logits) {
                  const std::lock_guard lock(mutex_);
                  late_ |= finish_.has_value();
                  logits_.emplace_back(position, std::vector<float>(logits.begin(), logits.end()));
                },
            .on_logprobs =
                [this](int64_t position, std::span<const parallel::TokenLogprobs> logprobs) {
                  const std::lock_guard lock(mutex_);
                  late_ |= finish_.has_value();
                  for (const parallel::TokenLogprobs& of_token : logprobs) {
                    logprobs_.emplace_back(position++, of_token);
                  }
                },
            .on_finish =
                [this](const parallel::Finish& finish) {
                  const std::lock_guard lock(mutex_);
                  late_ |= finish_.has_value();
                  finish_ = finish;
                  changed_.notify_all();
                }};
  }

  /// The end of the request, or nothing within `patience`.
  std::optional<parallel::Finish> WaitForFinish(
      std::chrono::seconds patience = std::chrono::seconds(60)) {
    std::unique_lock lock(mutex_);
    changed_.wait_for(lock, patience, [&] { return finish_.has_value(); });
    return finish_;
  }
  /// True once there are at least `count` tokens.
  bool WaitForTokens(size_t count, std::chrono::seconds patience = std::chrono::seconds(60)) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, patience, [&] { return tokens_.size() >= count; });
  }

  std::vector<int32_t> tokens() const {
    const std::lock_guard lock(mutex_);
    return tokens_;
  }
  std::vector<std::pair<int64_t, std::vector<float>>> logits() const {
    const std::lock_guard lock(mutex_);
    return logits_;
  }
  std::vector<std::pair<int64_t, parallel::TokenLogprobs>> logprobs() const {
    const std::lock_guard lock(mutex_);
    return logprobs_;
  }
  bool finished() const {
    const std::lock_guard lock(mutex_);
    return finish_.has_value();
  }
  /// True if anything came after the end.
  bool called_late() const {
    const std::lock_guard lock(mutex_);
    return late_;
  }

 private:
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<int32_t> tokens_;
  std::vector<std::pair<int64_t, std::vector<float>>> logits_;
  std::vector<std::pair<int64_t, parallel::TokenLogprobs>> logprobs_;
  std::optional<parallel::Finish> finish_;
  bool late_ = false;
};

}  // namespace tandem::testing
