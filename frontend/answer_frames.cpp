#include "frontend/answer_frames.h"

#include <nlohmann/json.hpp>

namespace tandem::frontend {
namespace {

using Json = nlohmann::ordered_json;

Json Head(std::string_view id, std::string_view type) {
  Json frame = {{"v", 1}};
  if (!id.empty()) frame["id"] = id;
  frame["type"] = type;
  return frame;
}

std::string Dump(const Json& frame) {
  return frame.dump(-1, ' ', /*ensure_ascii=*/false, Json::error_handler_t::replace);
}

}  // namespace

std::string AcceptedFrame(std::string_view id) { return Dump(Head(id, "accepted")); }

std::string DeltaFrame(std::string_view id, int64_t seq, std::string_view text) {
  Json frame = Head(id, "delta");
  frame["seq"] = seq;
  frame["text"] = text;
  return Dump(frame);
}

std::string DoneFrame(std::string_view id, const Answer& answer) {
  Json frame = Head(id, "done");
  frame["finish_reason"] = FinishReasonName(answer.reason);
  frame["text"] = answer.text;
  if (answer.seed) frame["seed"] = *answer.seed;
  const AnswerUsage& usage = answer.usage;
  frame["usage"] = {{"prompt_tokens", usage.prompt_tokens},
                    {"completion_tokens", usage.completion_tokens},
                    {"reused_tokens", usage.reused_tokens},
                    {"reused_from",
                     {{"device", usage.reused_from.device},
                      {"host", usage.reused_from.host},
                      {"disk", usage.reused_from.disk},
                      {"remote", usage.reused_from.remote}}}};
  frame["timings"] = {{"queue_seconds", answer.timings.queue_seconds},
                      {"prefill_seconds", answer.timings.prefill_seconds},
                      {"decode_seconds", answer.timings.decode_seconds}};
  return Dump(frame);
}

std::string ErrorFrame(const std::optional<std::string>& id, ErrorCode code,
                       std::string_view message) {
  Json frame = {{"v", 1}, {"id", nullptr}, {"type", "error"}};
  if (id) frame["id"] = *id;
  frame["code"] = ErrorCodeName(code);
  frame["message"] = message;
  return Dump(frame);
}

std::string PongFrame(std::string_view id, bool ready) {
  Json frame = Head(id, "pong");
  frame["ready"] = ready;
  return Dump(frame);
}

std::string StatusFrame(std::string_view id, const ServerStatus& server,
                        const parallel::EngineStatus& engine) {
  Json frame = Head(id, "status");
  frame["model"] = {{"name", server.model}, {"vocab", server.vocab}, {"context", server.context}};
  frame["ranks"] = Json::array();
  for (const parallel::RankStatus& rank : engine.ranks) {
    frame["ranks"].push_back({{"rank", rank.rank},
                              {"host", rank.host},
                              {"device", rank.device},
                              {"weight_bytes", rank.weight_bytes}});
  }
  frame["requests"] = {{"running", engine.running},
                       {"waiting", engine.waiting},
                       {"open", server.open_requests},
                       {"answered", server.answered_requests},
                       {"cancelled", server.cancelled_requests},
                       {"failed", server.failed_requests}};
  frame["pages"] = {{"total", engine.blocks_total},
                    {"used", engine.blocks_used},
                    {"cached", engine.blocks_cached}};
  frame["reuse"] = {{"prompt_tokens", engine.prompt_tokens},
                    {"reused_tokens", engine.reused_tokens}};
  frame["speculation"] = {{"drafted_tokens", engine.drafted_tokens},
                          {"accepted_tokens", engine.accepted_tokens}};
  frame["rates"] = {{"tokens_per_second", engine.tokens_per_second}};
  frame["totals"] = {{"steps", engine.steps},
                     {"tokens_generated", engine.tokens_generated},
                     {"tokens_prefilled", engine.tokens_prefilled},
                     {"preemptions", engine.preemptions}};
  frame["clients"] = server.clients;
  frame["refused_frames"] = server.refused_frames;
  frame["uptime_seconds"] = server.uptime_seconds;
  return Dump(frame);
}

}  // namespace tandem::frontend
