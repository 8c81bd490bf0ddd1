#include "core/transformer/transformer.h"

#include <utility>

#include "absl/cleanup/cleanup.h"
#include "core/model/device_status.h"

namespace tandem::core {

absl::Status Transformer::Forward(const Batch& batch, const KvView& cache, Collective& collective) {
  return WithDeviceFailures([&] { return Layers(batch, cache, collective); });
}

absl::Status Transformer::Sample(std::span<const SampleRow> rows, Collective& collective,
                                 const StepPhase& phase, std::span<SampledToken> out) {
  return WithDeviceFailures([&] {
    return ops_.Sample(scratch_.logits, shard_.vocab_rows, rows, collective, phase, out);
  });
}

absl::Status Transformer::Score(std::span<const ScoreRow> rows, Collective& collective,
                                const StepPhase& phase, std::span<TokenScore> out) {
  return WithDeviceFailures(
      [&] { return ops_.Score(scratch_.logits, shard_.vocab_rows, rows, collective, phase, out); });
}

absl::Status Transformer::ReadLogits(Range rows, float* out, int64_t stride) {
  return WithDeviceFailures([&] { ops_.ReadRows(scratch_.logits, rows, out, stride); });
}

absl::StatusOr<std::span<const uint8_t>> Transformer::TokenFailures() {
  return WithDeviceFailures(
      [&]() -> absl::StatusOr<std::span<const uint8_t>> { return ops_.TokenFailures(); });
}

absl::Status Transformer::Keep(std::span<const SampleRow> rows, Collective& collective,
                               const StepPhase& phase) {
  return WithDeviceFailures(
      [&] { return ops_.Keep(scratch_.logits, shard_.vocab_rows, rows, collective, phase); });
}

absl::Status Transformer::AwaitKept(absl::FunctionRef<bool()> until) {
  return WithDeviceFailures([&] { return ops_.AwaitKept(until); });
}

absl::StatusOr<KeptResults> Transformer::TakeKept() {
  return WithDeviceFailures([&]() -> absl::StatusOr<KeptResults> { return ops_.TakeKept(); });
}

absl::Status Transformer::Layers(const Batch& batch, const KvView& cache, Collective& collective) {
  Scratch& s = scratch_;
  ops_.BeginStep(batch);
  ops_.BeginPass(collective);
  absl::Cleanup abandon = [this] { ops_.AbandonPass(); };
  ops_.Embed(embedding_, batch.tokens, config_.embedding_scale, s.x);
  if (!embedding_norm_.empty()) ops_.Normalize(s.x, embedding_norm_, s.x);
  for (const Layer& layer : layers_) {
    TANDEM_RETURN_IF_ERROR(Attention(batch, layer, cache, collective));
    TANDEM_RETURN_IF_ERROR(FeedForward(batch, layer, collective));
  }
  ops_.SelectRows(s.x, batch.logit_tokens, s.chosen);
  ops_.Normalize(s.chosen, output_norm_, s.chosen);
  ops_.Linear(s.chosen, {{head_.get(), &head_bias_, &s.logits}});
  std::move(abandon).Cancel();
  ops_.EndPass();
  return absl::OkStatus();
}

absl::Status Transformer::Attention(const Batch& batch, const Layer& layer, const KvView& cache,
                                    Collective& collective) {
  const PhaseScope scope(batch.phases, Phase::kAttention);
  Scratch& s = scratch_;
  ops_.Normalize(s.x, layer.attention_norm, s.normed);
  if (config_.parallel_residual) ops_.Normalize(s.x, layer.feed_forward_norm, s.fed);
  ops_.Linear(s.normed, {{layer.query.get(), &layer.query_bias, &s.query},
                         {layer.key.get(), &layer.key_bias, &s.key},
                         {layer.value.get(), &layer.value_bias, &s.value}});
  if (config_.query_key_norm) {
    ops_.NormHeads(s.query, layer.query_norm);
    ops_.NormHeads(s.key, layer.key_norm);
  }
  ops_.RotateAndStore(layer.attention, s.query, s.key, s.value, cache);
  ops_.Attend(layer.attention, s.query, cache, s.attended);
  ops_.LinearPartialSums(*layer.attention_output, s.attended,
                         int64_t{config_.heads_per_partial_sum()} * config_.head_dim, s.sums);
  TANDEM_RETURN_IF_ERROR(ops_.AllReduce(
      s.sums, collective, {batch.step, layer.attention.layer, StepPhase::Kind::kAttention}));
  ops_.AddPartialSums(s.sums, layer.attention_output_bias, layer.post_attention_norm, s.x);
  return absl::OkStatus();
}

absl::Status Transformer::FeedForward(const Batch& batch, const Layer& layer,
                                      Collective& collective) {
  const PhaseScope scope(batch.phases, Phase::kFeedForward);
  Scratch& s = scratch_;
  if (!config_.parallel_residual) ops_.Normalize(s.x, layer.feed_forward_norm, s.fed);
  ops_.FeedForwardPartialSums(s.fed,
                              {.kind = config_.activation,
                               .gate = layer.gate.get(),
                               .up = *layer.up,
                               .up_bias = layer.up_bias,
                               .down = *layer.down,
                               .partial_columns = config_.ffn_partial_columns()},
                              s.sums);
  TANDEM_RETURN_IF_ERROR(ops_.AllReduce(
      s.sums, collective, {batch.step, layer.attention.layer, StepPhase::Kind::kFeedForward}));
  ops_.AddPartialSums(s.sums, layer.down_bias, layer.post_feed_forward_norm, s.x);
  return absl::OkStatus();
}

}  // namespace tandem::core
