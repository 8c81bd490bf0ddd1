#include "parallel/engine/engine_link_codec.h"

#include <optional>
#include <utility>

#include "core/base/retry_after.h"
#include "core/base/wire.h"
#include "parallel/plan/sampling_codec.h"

namespace tandem::parallel {
namespace {

using core::WireReader;
using core::WireWriter;

constexpr size_t kMostTokens = 1 << 24;
constexpr size_t kMostLogits = 1 << 24;
constexpr size_t kMostLogprobs = 1 << 20;
constexpr size_t kMostRanks = 1 << 16;
constexpr size_t kLongestText = 1 << 16;
constexpr int kHighestCode = 16;  // absl::StatusCode::kUnauthenticated

void WriteStatus(const absl::Status& status, WireWriter& writer) {
  writer.Number(static_cast<int32_t>(status.code()));
  writer.Text(Message(status).substr(0, kLongestText));
  const std::optional<double> retry_after = RetryAfter(status);
  writer.Bool(retry_after.has_value());
  writer.Number(retry_after.value_or(0));
}

absl::Status ReadStatus(WireReader& reader) {
  const auto code = reader.Number<int32_t>();
  const std::string text = reader.Text(kLongestText, "bytes of a status");
  const bool has_retry_after = reader.Bool();
  const auto retry_after = reader.Number<double>();
  if (code < 0 || code > kHighestCode) {
    reader.Fail(InvalidArgument("engine link: {} is no status code", code));
    return absl::OkStatus();
  }
  absl::Status status(static_cast<absl::StatusCode>(code), text);
  return has_retry_after ? WithRetryAfter(std::move(status), retry_after) : status;
}

// One pair of functions a message: fields in the order of the struct.

void Write(const LinkHello&, WireWriter&) {}
void Write(const LinkWelcome&, WireWriter&) {}
void Write(const LinkPing&, WireWriter&) {}
void Write(const LinkStop&, WireWriter&) {}
void Read(LinkHello&, WireReader&) {}
void Read(LinkWelcome&, WireReader&) {}
void Read(LinkPing&, WireReader&) {}
void Read(LinkStop&, WireReader&) {}

void Write(const LinkSubmit& message, WireWriter& writer) {
  const EngineRequest& request = message.request;
  writer.Number(message.id);
  writer.Numbers(std::span(request.prompt));
  writer.Number(request.max_tokens);
  WriteSampling(request.sampling, writer);
  writer.Numbers(std::span(request.stop_tokens));
  writer.Bool(request.want_prompt_logits);
  writer.Bool(request.logprobs.has_value());
  writer.Number(request.logprobs.value_or(0));
  writer.Bool(request.prompt_logprobs);
  writer.Number(request.tenant);
  writer.Number(request.client);
  writer.Number(request.priority);
  writer.Bool(request.reuse);
  writer.Bool(request.speculate);
  writer.Bool(request.durable);
}
void Read(LinkSubmit& message, WireReader& reader) {
  EngineRequest& request = message.request;
  message.id = reader.Number<RequestId>();
  request.prompt = reader.Numbers<int32_t>(kMostTokens, "prompt tokens");
  request.max_tokens = reader.Number<int32_t>();
  request.sampling = ReadSampling(reader);
  request.stop_tokens = reader.Numbers<int32_t>(kMostTokens, "stop tokens");
  request.want_prompt_logits = reader.Bool();
  const bool logprobs = reader.Bool();
  const auto count = reader.Number<int32_t>();
  if (logprobs) request.logprobs = count;
  request.prompt_logprobs = reader.Bool();
  request.tenant = reader.Number<uint64_t>();
  request.client = reader.Number<uint64_t>();
  request.priority = reader.Number<int32_t>();
  request.reuse = reader.Bool();
  request.speculate = reader.Bool();
  request.durable = reader.Bool();
}

void Write(const LinkCancel& message, WireWriter& writer) { writer.Number(message.id); }
void Read(LinkCancel& message, WireReader& reader) { message.id = reader.Number<RequestId>(); }

void Write(const LinkAccepted& message, WireWriter& writer) { writer.Number(message.id); }
void Read(LinkAccepted& message, WireReader& reader) { message.id = reader.Number<RequestId>(); }

void Write(const LinkRefused& message, WireWriter& writer) {
  writer.Number(message.id);
  WriteStatus(message.status, writer);
}
void Read(LinkRefused& message, WireReader& reader) {
  message.id = reader.Number<RequestId>();
  message.status = ReadStatus(reader);
}

void Write(const LinkTokens& message, WireWriter& writer) {
  writer.Number(message.id);
  writer.Numbers(std::span(message.tokens));
}
void Read(LinkTokens& message, WireReader& reader) {
  message.id = reader.Number<RequestId>();
  message.tokens = reader.Numbers<int32_t>(kMostTokens, "tokens");
}

void Write(const LinkLogits& message, WireWriter& writer) {
  writer.Number(message.id);
  writer.Number(message.position);
  writer.Numbers(std::span(message.logits));
}
void Read(LinkLogits& message, WireReader& reader) {
  message.id = reader.Number<RequestId>();
  message.position = reader.Number<int64_t>();
  message.logits = reader.Numbers<float>(kMostLogits, "logits");
}

void WriteLogprob(const TokenLogprob& logprob, WireWriter& writer) {
  writer.Number(logprob.token);
  writer.Number(logprob.logprob);
}
TokenLogprob ReadLogprob(WireReader& reader) {
  const auto token = reader.Number<int32_t>();
  return {.token = token, .logprob = reader.Number<float>()};
}

void Write(const LinkLogprobs& message, WireWriter& writer) {
  writer.Number(message.id);
  writer.Number(message.position);
  writer.Count(message.logprobs.size());
  for (const TokenLogprobs& token : message.logprobs) {
    WriteLogprob(token.chosen, writer);
    writer.Count(token.top.size());
    for (const TokenLogprob& top : token.top) WriteLogprob(top, writer);
  }
}
void Read(LinkLogprobs& message, WireReader& reader) {
  message.id = reader.Number<RequestId>();
  message.position = reader.Number<int64_t>();
  message.logprobs.resize(reader.Count(kMostTokens, 12, "tokens with log-probabilities"));
  for (TokenLogprobs& token : message.logprobs) {
    token.chosen = ReadLogprob(reader);
    token.top.resize(reader.Count(kMostLogprobs, 8, "log-probabilities"));
    for (TokenLogprob& top : token.top) top = ReadLogprob(reader);
  }
}

void Write(const ReusedFrom& from, WireWriter& writer) {
  writer.Number(from.device);
  writer.Number(from.host);
  writer.Number(from.disk);
  writer.Number(from.remote);
}
void Read(ReusedFrom& from, WireReader& reader) {
  from.device = reader.Number<uint64_t>();
  from.host = reader.Number<uint64_t>();
  from.disk = reader.Number<uint64_t>();
  from.remote = reader.Number<uint64_t>();
}

void Write(const RecordStatus& records, WireWriter& writer) {
  writer.Number(records.put);
  writer.Number(records.dropped);
  writer.Number(records.refused);
  writer.Number(records.fetched);
  writer.Number(records.damaged);
  writer.Number(records.late);
  writer.Number(records.not_durable);
}
void Read(RecordStatus& records, WireReader& reader) {
  records.put = reader.Number<uint64_t>();
  records.dropped = reader.Number<uint64_t>();
  records.refused = reader.Number<uint64_t>();
  records.fetched = reader.Number<uint64_t>();
  records.damaged = reader.Number<uint64_t>();
  records.late = reader.Number<uint64_t>();
  records.not_durable = reader.Number<uint64_t>();
}

void Write(const LinkFinish& message, WireWriter& writer) {
  const Usage& usage = message.finish.usage;
  writer.Number(message.id);
  writer.Number(static_cast<uint8_t>(message.finish.reason));
  WriteStatus(message.finish.status, writer);
  writer.Number(usage.prompt_tokens);
  writer.Number(usage.completion_tokens);
  writer.Number(usage.reused_tokens);
  Write(usage.reused_from, writer);
  writer.Number(usage.computed_tokens);
  writer.Number(static_cast<uint8_t>(usage.reuse_limit));
  writer.Number(usage.preemptions);
  writer.Number(usage.drafted_tokens);
  writer.Number(usage.accepted_tokens);
  writer.Number(usage.queue_seconds);
  writer.Number(usage.prefill_seconds);
  writer.Number(usage.decode_seconds);
  writer.Bool(message.finish.saved);
}
void Read(LinkFinish& message, WireReader& reader) {
  Usage& usage = message.finish.usage;
  message.id = reader.Number<RequestId>();
  const auto reason = reader.Number<uint8_t>();
  if (reason > static_cast<uint8_t>(FinishReason::kFailed)) {
    reader.Fail(InvalidArgument("engine link: {} is no finish reason", reason));
    return;
  }
  message.finish.reason = static_cast<FinishReason>(reason);
  message.finish.status = ReadStatus(reader);
  usage.prompt_tokens = reader.Number<int32_t>();
  usage.completion_tokens = reader.Number<int32_t>();
  usage.reused_tokens = reader.Number<int32_t>();
  Read(usage.reused_from, reader);
  usage.computed_tokens = reader.Number<int32_t>();
  const auto limit = reader.Number<uint8_t>();
  if (limit > static_cast<uint8_t>(ReuseLimit::kDamaged)) {
    reader.Fail(InvalidArgument("engine link: {} is no reason to reuse nothing", limit));
    return;
  }
  usage.reuse_limit = static_cast<ReuseLimit>(limit);
  usage.preemptions = reader.Number<int32_t>();
  usage.drafted_tokens = reader.Number<int32_t>();
  usage.accepted_tokens = reader.Number<int32_t>();
  usage.queue_seconds = reader.Number<double>();
  usage.prefill_seconds = reader.Number<double>();
  usage.decode_seconds = reader.Number<double>();
  message.finish.saved = reader.Bool();
}

void Write(const LinkStatusQuery& message, WireWriter& writer) { writer.Number(message.query); }
void Read(LinkStatusQuery& message, WireReader& reader) {
  message.query = reader.Number<uint64_t>();
}

void Write(const LinkStatus& message, WireWriter& writer) {
  const EngineStatus& status = message.status;
  writer.Number(message.query);
  WriteStatus(message.error, writer);
  writer.Count(status.ranks.size());
  for (const RankStatus& rank : status.ranks) {
    writer.Number<int32_t>(rank.rank);
    writer.Text(rank.host);
    writer.Number(rank.weight_bytes);
    writer.Text(rank.device);
  }
  writer.Number(status.running);
  writer.Number(status.waiting);
  writer.Number(status.blocks_total);
  writer.Number(status.blocks_used);
  writer.Number(status.blocks_cached);
  writer.Number(status.prompt_tokens);
  writer.Number(status.reused_tokens);
  Write(status.reused_from, writer);
  writer.Bool(status.keeps_records);
  Write(status.records, writer);
  writer.Number(status.preemptions);
  writer.Number(status.drafted_tokens);
  writer.Number(status.accepted_tokens);
  writer.Number(status.steps);
  writer.Number(status.tokens_generated);
  writer.Number(status.tokens_prefilled);
  writer.Number(status.tokens_per_second);
}
void Read(LinkStatus& message, WireReader& reader) {
  EngineStatus& status = message.status;
  message.query = reader.Number<uint64_t>();
  message.error = ReadStatus(reader);
  status.ranks.resize(reader.Count(kMostRanks, 20, "ranks"));
  for (RankStatus& rank : status.ranks) {
    rank.rank = reader.Number<int32_t>();
    rank.host = reader.Text(kLongestText, "bytes of a host name");
    rank.weight_bytes = reader.Number<int64_t>();
    rank.device = reader.Text(kLongestText, "bytes of a device name");
  }
  status.running = reader.Number<int32_t>();
  status.waiting = reader.Number<int32_t>();
  status.blocks_total = reader.Number<int64_t>();
  status.blocks_used = reader.Number<int64_t>();
  status.blocks_cached = reader.Number<int64_t>();
  status.prompt_tokens = reader.Number<uint64_t>();
  status.reused_tokens = reader.Number<uint64_t>();
  Read(status.reused_from, reader);
  status.keeps_records = reader.Bool();
  Read(status.records, reader);
  status.preemptions = reader.Number<uint64_t>();
  status.drafted_tokens = reader.Number<uint64_t>();
  status.accepted_tokens = reader.Number<uint64_t>();
  status.steps = reader.Number<uint64_t>();
  status.tokens_generated = reader.Number<uint64_t>();
  status.tokens_prefilled = reader.Number<uint64_t>();
  status.tokens_per_second = reader.Number<double>();
}

void Write(const LinkDead& message, WireWriter& writer) { WriteStatus(message.why, writer); }
void Read(LinkDead& message, WireReader& reader) { message.why = ReadStatus(reader); }

/// The empty message of a kind, or nothing if there is no such kind.
template <size_t kind = 0>
bool MakeKind(size_t wanted, LinkMessage& message) {
  if constexpr (kind == std::variant_size_v<LinkMessage>) {
    return false;
  } else {
    if (wanted != kind) return MakeKind<kind + 1>(wanted, message);
    message.emplace<kind>();
    return true;
  }
}

}  // namespace

std::vector<std::byte> EncodeLinkMessage(const LinkMessage& message) {
  WireWriter writer;
  writer.Number(kLinkVersion);
  writer.Number(static_cast<uint8_t>(message.index()));
  std::visit([&](const auto& fields) { Write(fields, writer); }, message);
  return writer.Take();
}

absl::StatusOr<LinkMessage> DecodeLinkMessage(std::span<const std::byte> bytes) {
  WireReader reader("engine link", bytes);
  const auto version = reader.Number<uint8_t>();
  const auto kind = reader.Number<uint8_t>();
  if (reader.ok() && version != kLinkVersion) {
    return InvalidArgument(
        "engine link: version {}, this program knows {}; start gateway and ranks from the same "
        "build",
        version, kLinkVersion);
  }
  LinkMessage message;
  if (reader.ok() && !MakeKind(kind, message)) {
    return InvalidArgument("engine link: {} is no kind of message", kind);
  }
  if (reader.ok()) std::visit([&](auto& fields) { Read(fields, reader); }, message);
  TANDEM_RETURN_IF_ERROR(reader.Finish());
  return message;
}

}  // namespace tandem::parallel
