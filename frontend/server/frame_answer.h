#pragma once

#include <string>

#include "frontend/chat/text_model.h"
#include "frontend/server/router.h"
#include "frontend/service/answer_events.h"

namespace tandem::frontend {

/// Sends what becomes of one request to its client, as frames. Thread safety: the router's thread.
class FrameAnswer final : public AnswerEvents {
 public:
  /// What its deltas say besides their text.
  struct Form {
    bool several = false;   // answers: each delta says which it belongs to
    bool logprobs = false;  // each delta has those of its tokens
  };

  /// Router and model must outlive all calls. `id`: empty where the request had none.
  FrameAnswer(Router& router, const TextModel& model, std::string client, std::string id, Form form)
      : router_(router),
        model_(model),
        client_(std::move(client)),
        id_(std::move(id)),
        form_(form) {}

  Delivery OnAccepted(int32_t prompt_tokens) override;
  Delivery OnDelta(const AnswerDelta& delta) override;
  void OnNotice(uint64_t number, std::string_view text) override;
  Delivery OnDone(const DoneContents& done) override;
  void OnFailed(ErrorCode code, std::string_view message,
                std::optional<double> retry_after) override;
  Repeats repeats() const override;
  bool ReadsOn() const override;

 private:
  Router& router_;
  const TextModel& model_;
  const std::string client_;
  const std::string id_;
  const Form form_;
};

}  // namespace tandem::frontend
