#include "frontend/server/frame_answer.h"

#include "frontend/chat/logprobs_json.h"
#include "frontend/server/answer_frames.h"

namespace tandem::frontend {
namespace {

constexpr int64_t kUnreadBytes = int64_t{64} << 10;  // that wait for a client that reads on

}  // namespace

Delivery FrameAnswer::OnAccepted(int32_t /*prompt_tokens*/) {
  return router_.Send(client_, AcceptedFrame(id_));
}

Delivery FrameAnswer::OnDelta(const AnswerDelta& delta) {
  DeltaExtras extras;
  if (form_.several) extras.choice = delta.choice;
  if (form_.logprobs) extras.logprobs = LogprobsJson(model_, delta.logprobs);
  return router_.Send(client_, DeltaFrame(id_, delta.seq, delta.text, extras));
}

void FrameAnswer::OnNotice(uint64_t /*number*/, std::string_view text) {
  router_.Send(client_, NoticeFrame(id_, text));
}

Delivery FrameAnswer::OnDone(const DoneContents& done) {
  return router_.Send(client_, DoneFrame(id_, done, model_), /*must=*/true);
}

void FrameAnswer::OnFailed(ErrorCode code, std::string_view message,
                           std::optional<double> retry_after) {
  router_.Send(client_, ErrorFrame(id_, code, message, retry_after),
               /*must=*/true);
}

AnswerEvents::Repeats FrameAnswer::repeats() const {
  return Router::ComesBack(client_) ? Repeats::kAfterReturn : Repeats::kWhileConnected;
}

bool FrameAnswer::ReadsOn() const { return router_.WaitingFor(client_) <= kUnreadBytes; }

}  // namespace tandem::frontend
