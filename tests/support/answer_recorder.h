#pragma once

#include <optional>
#include <string>
#include <vector>

#include "core/base/mutex.h"
#include "frontend/service/answer_events.h"

namespace tandem::testing {

/// Remembers what a request's client is told. Thread safety: all functions from any thread.
class AnswerRecorder final : public frontend::AnswerEvents {
 public:
  struct Choice {
    std::string text;                               // of its deltas
    std::vector<parallel::TokenLogprobs> logprobs;  // of its deltas
    std::string done_text;
    size_t done_logprobs = 0;
  };
  struct Told {
    int accepted = 0;
    int32_t prompt_tokens = 0;  // that were told when it was accepted
    size_t deltas = 0;
    int64_t next_seq = 0;  // of the last delta, and 1
    std::vector<Choice> choices;
    std::vector<std::string> notices;
    /// Without views: text and log-probabilities are in `choices`.
    std::optional<frontend::DoneContents> done;
    std::optional<frontend::ErrorCode> code;
    std::string message;
    std::optional<double> retry_after;
    bool ended = false;
  };

  frontend::Delivery OnAccepted(int32_t prompt_tokens) override {
    const MutexLock lock(mutex_);
    ++told_.accepted;
    told_.prompt_tokens = prompt_tokens;
    return frontend::Delivery::kSent;
  }
  frontend::Delivery OnDelta(const frontend::AnswerDelta& delta) override {
    const MutexLock lock(mutex_);
    if (delivery_ != frontend::Delivery::kSent) return delivery_;
    Choice& choice = ChoiceAt(delta.choice);
    choice.text += delta.text;
    choice.logprobs.insert(choice.logprobs.end(), delta.logprobs.begin(), delta.logprobs.end());
    ++told_.deltas;
    told_.next_seq = delta.seq + 1;
    return delivery_;
  }
  void OnNotice(uint64_t /*number*/, std::string_view text) override {
    const MutexLock lock(mutex_);
    told_.notices.emplace_back(text);
  }
  frontend::Delivery OnDone(const frontend::DoneContents& done) override {
    const MutexLock lock(mutex_);
    told_.done = done;
    for (size_t i = 0; i < done.choices.size(); ++i) {
      Choice& choice = ChoiceAt(i);
      choice.done_text = done.choices[i].text;
      if (done.choices[i].logprobs) choice.done_logprobs = done.choices[i].logprobs->size();
      told_.done->choices[i].text = {};
      told_.done->choices[i].logprobs.reset();
    }
    End();
    return delivery_;
  }
  void OnFailed(frontend::ErrorCode code, std::string_view message,
                std::optional<double> retry_after) override {
    const MutexLock lock(mutex_);
    told_.code = code;
    told_.message = message;
    told_.retry_after = retry_after;
    End();
  }

  /// What deltas and the end of the answer meet with.
  void set_delivery(frontend::Delivery delivery) {
    const MutexLock lock(mutex_);
    delivery_ = delivery;
  }
  /// Until the answer has ended.
  void Wait() {
    const MutexLock lock(mutex_);
    while (!told_.ended) changed_.Wait(mutex_);
  }
  Told told() {
    const MutexLock lock(mutex_);
    return told_;
  }

 private:
  Choice& ChoiceAt(size_t choice) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (told_.choices.size() <= choice) told_.choices.resize(choice + 1);
    return told_.choices[choice];
  }
  void End() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    told_.ended = true;
    changed_.NotifyOne();
  }

  Mutex mutex_;
  CondVar changed_;
  Told told_ ABSL_GUARDED_BY(mutex_);
  frontend::Delivery delivery_ ABSL_GUARDED_BY(mutex_) = frontend::Delivery::kSent;
};

}  // namespace tandem::testing
