#include "parallel/engine/engine_link_codec.h"

#include <optional>
#include <utility>

#include "core/base/retry_after.h"
#include "core/base/wire.h"
#include "core/sampling/sampling_fields.h"

namespace tandem::parallel {

using core::AtMost;
using core::KindOf;
using core::UpTo;

namespace {

constexpr size_t kMostTokens = 1 << 24;
constexpr size_t kMostLogits = 1 << 24;
constexpr size_t kMostRanks = 1 << 16;
constexpr size_t kLongestText = 1 << 16;

/// A flag and a value, which stands there without meaning if the flag is not set.
template <typename Archive, typename T>
void FlagAndValue(Archive& archive, std::optional<T>& optional) {
  bool there = optional.has_value();
  T value = optional.value_or(T{});
  archive(there, value);
  archive.WhenRead([&] { optional = there ? std::optional(value) : std::nullopt; });
}

/// A status and when to try again.
template <typename Archive>
void StatusFields(Archive& archive, absl::Status& status) {
  archive(status);
  std::optional<double> retry_after = RetryAfter(status);
  FlagAndValue(archive, retry_after);
  archive.WhenRead([&] {
    if (retry_after) status = WithRetryAfter(std::move(status), *retry_after);
  });
}

}  // namespace

template <typename Archive>
void Fields(Archive& archive, EngineRequest& request) {
  archive(AtMost(request.prompt, kMostTokens, "prompt tokens"),
          AtMost(request.answered, kMostTokens, "answered tokens"), request.max_tokens,
          request.sampling, AtMost(request.stop_tokens, kMostTokens, "stop tokens"),
          request.want_prompt_logits);
  FlagAndValue(archive, request.logprobs);
  archive(request.prompt_logprobs, request.first_prompt_logprob, request.tenant, request.client,
          request.priority, request.reuse, request.speculate, request.durable);
}

template <typename Archive>
void Fields(Archive& archive, ReusedFrom& from) {
  archive(from.device, from.host, from.disk, from.remote);
}

template <typename Archive>
void Fields(Archive& archive, Usage& usage) {
  archive(usage.prompt_tokens, usage.completion_tokens, usage.reused_tokens, usage.reused_from,
          usage.computed_tokens,
          UpTo(usage.reuse_limit, ReuseLimit::kNoState, "reason to reuse nothing"),
          usage.preemptions, usage.drafted_tokens, usage.accepted_tokens, usage.queue_seconds,
          usage.prefill_seconds, usage.decode_seconds);
}

template <typename Archive>
void Fields(Archive& archive, Finish& finish) {
  archive(UpTo(finish.reason, FinishReason::kFailed, "finish reason"));
  StatusFields(archive, finish.status);
  archive(finish.engine_died, finish.usage, finish.saved);
}

template <typename Archive>
void Fields(Archive& archive, RankStatus& rank) {
  archive(rank.rank, AtMost(rank.host, kLongestText, "bytes of a host name"), rank.weight_bytes,
          rank.weights_mapped, AtMost(rank.device, kLongestText, "bytes of a device name"),
          rank.reduce_nanoseconds);
}

template <typename Archive>
void Fields(Archive& archive, EngineStatus& status) {
  archive(AtMost(status.ranks, kMostRanks, "ranks"), status.running, status.waiting, status.context,
          status.blocks_total, status.blocks_used, status.blocks_cached, status.prompt_tokens,
          status.reused_tokens, status.reused_from, status.keeps_records, status.records,
          status.late_fetches, status.not_durable, status.preemptions, status.host_tier.bytes_limit,
          status.host_tier.bytes, status.host_tier.spilled, status.host_tier.spilled_bytes,
          status.host_tier.returned, status.host_tier.returned_bytes, status.drafted_tokens,
          status.accepted_tokens, status.steps, status.tokens_generated, status.tokens_prefilled,
          status.tokens_per_second);
}

template <typename Archive>
void Fields(Archive& archive, LinkWelcome& message) {
  archive(message.epoch);
}
template <typename Archive>
void Fields(Archive& archive, LinkSubmit& message) {
  archive(message.id, message.request);
}
template <typename Archive>
void Fields(Archive& archive, LinkCancel& message) {
  archive(message.id);
}
template <typename Archive>
void Fields(Archive& archive, LinkAccepted& message) {
  archive(message.id);
}
template <typename Archive>
void Fields(Archive& archive, LinkRefused& message) {
  archive(message.id);
  StatusFields(archive, message.status);
}
template <typename Archive>
void Fields(Archive& archive, LinkTokens& message) {
  archive(message.id, AtMost(message.tokens, kMostTokens, "tokens"));
}
template <typename Archive>
void Fields(Archive& archive, LinkLogits& message) {
  archive(message.id, message.position, AtMost(message.logits, kMostLogits, "logits"));
}
template <typename Archive>
void Fields(Archive& archive, LinkLogprobs& message) {
  archive(message.id, message.position,
          AtMost(message.logprobs, kMostTokens, "tokens with log-probabilities"));
}
template <typename Archive>
void Fields(Archive& archive, LinkFinish& message) {
  archive(message.id, message.finish);
}
template <typename Archive>
void Fields(Archive& archive, LinkStatusQuery& message) {
  archive(message.query);
}
template <typename Archive>
void Fields(Archive& archive, LinkStatus& message) {
  archive(message.query);
  StatusFields(archive, message.error);
  archive(message.status);
}
template <typename Archive>
void Fields(Archive& archive, LinkDead& message) {
  StatusFields(archive, message.why);
}
template <typename Archive>
void Fields(Archive& archive, LinkAdmitted& message) {
  archive(message.id);
}

std::vector<std::byte> EncodeLinkMessage(const LinkMessage& message) {
  core::WireWriter writer;
  writer(kLinkVersion, KindOf(message, "message"), message);
  return writer.Take();
}

absl::StatusOr<LinkMessage> DecodeLinkMessage(std::span<const std::byte> bytes) {
  core::WireReader reader("engine link", bytes);
  uint8_t version = kLinkVersion;
  reader(version);
  if (version != kLinkVersion) {
    return InvalidArgument(
        "engine link: version {}, this program knows {}; start gateway and ranks from the same "
        "build",
        version, kLinkVersion);
  }
  LinkMessage message;
  reader(KindOf(message, "message"), message);
  TANDEM_RETURN_IF_ERROR(reader.Finish());
  return message;
}

}  // namespace tandem::parallel
