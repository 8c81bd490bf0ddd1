#include "frontend/server/answer_frames.h"

#include <nlohmann/json.hpp>

#include "frontend/chat/generation.h"
#include "frontend/chat/logprobs_json.h"
#include "frontend/protocol/frame_json.h"
#include "frontend/protocol/json_document.h"

namespace tandem::frontend {

using Json = nlohmann::ordered_json;

namespace {

Json ReusedFromJson(const parallel::ReusedFrom& from) {
  return {
      {"device", from.device}, {"host", from.host}, {"disk", from.disk}, {"remote", from.remote}};
}

Json RecoveryJson(const parallel::RecoveryStatus& recovery) {
  Json last = Json::array();
  for (const parallel::RecoveryStatus::Restart& restart : recovery.last) {
    last.push_back(
        {{"epoch", restart.epoch}, {"reason", restart.reason}, {"seconds", restart.seconds}});
  }
  return {{"epoch", recovery.epoch},
          {"down", recovery.down},
          {"down_seconds", recovery.down_seconds},
          {"reason", recovery.reason.empty() ? Json(nullptr) : Json(recovery.reason)},
          {"restarts", recovery.restarts},
          {"lost_seconds", recovery.lost_seconds},
          {"last", std::move(last)}};
}

}  // namespace

std::string AcceptedFrame(std::string_view id) { return DumpJson(FrameHead(id, "accepted")); }

std::string DeltaFrame(std::string_view id, int64_t seq, std::string_view text,
                       const DeltaExtras& extras) {
  Json frame = FrameHead(id, "delta");
  frame["seq"] = seq;
  if (extras.choice) frame["index"] = *extras.choice;
  frame["text"] = text;
  if (extras.logprobs) frame["logprobs"] = *extras.logprobs;
  return DumpJson(frame);
}

std::string ScaleFrame(std::string_view id, const parallel::EngineScale& scale) {
  Json frame = FrameHead(id, "scale");
  frame["ranks"] = scale.ranks;
  frame["epoch"] = scale.epoch;
  frame["seconds"] = scale.seconds;
  return DumpJson(frame);
}

std::string NoticeFrame(std::string_view id, std::string_view text) {
  Json frame = FrameHead(id, "notice");
  frame["message"] = text;
  return DumpJson(frame);
}

std::string DoneFrame(std::string_view id, const DoneContents& done, const TextModel& model) {
  const auto put = [&](Json& out, const DoneContents::Choice& choice) {
    out["finish_reason"] = FinishReasonName(choice.reason);
    out["text"] = choice.text;
    if (choice.logprobs) out["logprobs"] = LogprobsJson(model, *choice.logprobs);
  };
  Json frame = FrameHead(id, "done");
  if (done.choices.size() == 1) {
    put(frame, done.choices.front());
  } else {
    frame["choices"] = Json::array();
    for (size_t i = 0; i < done.choices.size(); ++i) {
      Json choice = {{"index", i}};
      put(choice, done.choices[i]);
      frame["choices"].push_back(std::move(choice));
    }
  }
  if (done.conversation) frame["conversation"] = *done.conversation;
  if (done.durable) frame["durable"] = *done.durable;
  if (done.seed) frame["seed"] = *done.seed;
  if (done.dropped.any()) {
    frame["dropped"] = {{"messages", done.dropped.messages}, {"tokens", done.dropped.tokens}};
  }
  const parallel::Usage& usage = done.usage;
  frame["usage"] = {{"prompt_tokens", usage.prompt_tokens},
                    {"completion_tokens", usage.completion_tokens},
                    {"computed_tokens", usage.computed_tokens},
                    {"reused_tokens", usage.reused_tokens},
                    {"reused_from", ReusedFromJson(usage.reused_from)},
                    {"reuse_limit", ReuseLimitName(usage.reuse_limit)},
                    {"preemptions", usage.preemptions},
                    {"drafted_tokens", usage.drafted_tokens},
                    {"accepted_tokens", usage.accepted_tokens}};
  frame["timings"] = {{"queue_seconds", usage.queue_seconds},
                      {"prefill_seconds", usage.prefill_seconds},
                      {"decode_seconds", usage.decode_seconds}};
  return DumpJson(frame);
}

std::string ErrorFrame(std::string_view id, ErrorCode code, std::string_view message,
                       std::optional<double> retry_after) {
  Json frame = {{"v", 1}, {"id", nullptr}, {"type", "error"}};
  if (!id.empty()) frame["id"] = id;
  frame["code"] = ErrorCodeName(code);
  frame["message"] = message;
  if (retry_after) frame["retry_after"] = *retry_after;
  return DumpJson(frame);
}

std::string PongFrame(std::string_view id, bool ready) {
  Json frame = FrameHead(id, "pong");
  frame["ready"] = ready;
  return DumpJson(frame);
}

std::string StatusFrame(std::string_view id, int64_t clients, const ServiceStatus& status) {
  const parallel::EngineStatus& engine = status.engine;
  Json frame = FrameHead(id, "status");
  frame["model"] = {{"name", status.model}, {"vocab", status.vocab}, {"context", status.context}};
  frame["engine"] = {{"answers", status.engine_answers},
                     {"figures_age_seconds", status.engine_figures_age_seconds}};
  frame["ranks"] = Json::array();
  for (const parallel::RankStatus& rank : engine.ranks) {
    frame["ranks"].push_back(
        {{"rank", rank.rank},
         {"host", rank.host},
         {"device", rank.device},
         {"weight_bytes", rank.weight_bytes},
         {"weights_mapped", rank.weights_mapped},
         {"reduce_seconds", static_cast<double>(rank.reduce_nanoseconds) / 1e9}});
  }
  if (engine.recovery.supervised) frame["recovery"] = RecoveryJson(engine.recovery);
  frame["requests"] = {{"running", engine.running},
                       {"waiting", engine.waiting},
                       {"open", status.open_requests},
                       {"answered", status.answered_requests},
                       {"cancelled", status.cancelled_requests},
                       {"failed", status.failed_requests}};
  frame["pages"] = {{"total", engine.blocks_total},
                    {"used", engine.blocks_used},
                    {"cached", engine.blocks_cached}};
  frame["reuse"] = {{"prompt_tokens", engine.prompt_tokens},
                    {"reused_tokens", engine.reused_tokens},
                    {"reused_from", ReusedFromJson(engine.reused_from)}};
  if (engine.host_tier.bytes_limit > 0) {
    const parallel::HostTierStatus& tier = engine.host_tier;
    frame["host_tier"] = {
        {"bytes_limit", tier.bytes_limit}, {"bytes", tier.bytes},
        {"spilled", tier.spilled},         {"spilled_bytes", tier.spilled_bytes},
        {"returned", tier.returned},       {"returned_bytes", tier.returned_bytes}};
  }
  if (engine.keeps_records) {
    const parallel::RecordCounts& records = engine.records;
    frame["records"] = {{"saved", records.put},
                        {"dropped", records.dropped},
                        {"refused", records.refused},
                        {"fetched", records.fetched},
                        {"damaged", records.damaged},
                        {"late_fetches", engine.late_fetches},
                        {"not_durable", engine.not_durable}};
  }
  frame["speculation"] = {{"drafted_tokens", engine.drafted_tokens},
                          {"accepted_tokens", engine.accepted_tokens}};
  frame["rates"] = {{"tokens_per_second", engine.tokens_per_second}};
  frame["totals"] = {{"steps", engine.steps},
                     {"tokens_generated", engine.tokens_generated},
                     {"tokens_prefilled", engine.tokens_prefilled},
                     {"preemptions", engine.preemptions}};
  frame["conversations"] = {{"count", status.conversations}, {"bytes", status.conversation_bytes}};
  if (status.state) {
    const ConversationLogStatus& state = *status.state;
    frame["state"] = {{"directory", state.directory},
                      {"encrypted", state.encrypted},
                      {"conversations", state.conversations},
                      {"unreadable", state.unreadable},
                      {"damaged", status.damaged_conversations + state.damaged},
                      {"damage", nullptr},
                      {"unwritten_changes", state.unwritten_changes},
                      {"unfinished_erasures", state.unfinished_erasures},
                      {"trouble", nullptr}};
    if (state.copied) {
      Json& copied = frame["state"]["copied"];
      copied = {{"host", nullptr}, {"uncopied_changes", state.copied->uncopied_changes}};
      if (!state.copied->host.empty()) copied["host"] = state.copied->host;
    }
    if (!state.damage.empty()) frame["state"]["damage"] = state.damage;
    if (!state.trouble.empty()) frame["state"]["trouble"] = state.trouble;
  }
  frame["clients"] = clients;
  if (status.http) {
    frame["http"] = {{"address", status.http->address},
                     {"connections", status.http->connections},
                     {"requests", status.http->requests}};
  }
  uint64_t refused = 0;
  frame["refused"] = Json::object();
  for (const auto& [code, count] : status.refused) {
    frame["refused"][std::string(ErrorCodeName(code))] = count;
    refused += count;
  }
  frame["refused_frames"] = refused;
  frame["unknown_fields"] = status.unknown_fields;
  frame["uptime_seconds"] = status.uptime_seconds;
  return DumpJson(frame);
}

}  // namespace tandem::frontend
