#include "core/transformer/transformer.h"

namespace tandem::core {

absl::Status Transformer::Forward(const Batch& batch, const KvView& cache, Collective& collective,
                                  ShardLogits& out) {
  Scratch& s = scratch_;
  out.vocab_rows = shard_.vocab_rows;
  out.token_failed.assign(batch.tokens.size(), 0);

  phases_ = batch.phases;
  ops_.BeginStep(batch);
  ops_.Embed(embedding_, batch.tokens, config_.embedding_scale, s.x);
  Lap(Phase::kVocabulary);
  for (const Layer& layer : layers_) {
    StepPhase phase{.step = batch.step, .layer = layer.attention.layer};
    phase.kind = StepPhase::Kind::kAttention;
    TANDEM_RETURN_IF_ERROR(Attention(layer, cache, collective, phase, out.token_failed));
    phase.kind = StepPhase::Kind::kFeedForward;
    TANDEM_RETURN_IF_ERROR(FeedForward(layer, collective, phase, out.token_failed));
  }

  ops_.SelectRows(s.x, batch.logit_tokens, s.chosen);
  ops_.RmsNorm(s.chosen, output_norm_, config_.norm_epsilon, s.chosen);
  Lap(Phase::kVocabulary);
  ops_.Linear(s.chosen, {{head_.get(), nullptr, &s.logits}});
  LapProduct(Phase::kVocabulary);
  out.values.resize(batch.logit_tokens.size() * static_cast<size_t>(shard_.vocab_rows.count));
  ops_.ReadRows(s.logits, out.values);
  Lap(Phase::kVocabulary);
  return absl::OkStatus();
}

absl::Status Transformer::Attention(const Layer& layer, const KvView& cache, Collective& collective,
                                    StepPhase phase, std::span<uint8_t> token_failed) {
  Scratch& s = scratch_;
  ops_.RmsNorm(s.x, layer.attention_norm, config_.norm_epsilon, s.normed);
  Lap(Phase::kAttention);
  ops_.Linear(s.normed, {{layer.query.get(), &layer.query_bias, &s.query},
                         {layer.key.get(), &layer.key_bias, &s.key},
                         {layer.value.get(), &layer.value_bias, &s.value}});
  LapProduct(Phase::kAttention);
  if (config_.query_key_norm) {
    ops_.NormHeads(s.query, layer.query_norm, config_.norm_epsilon);
    ops_.NormHeads(s.key, layer.key_norm, config_.norm_epsilon);
  }
  ops_.RotateAndStore(layer.attention, s.query, s.key, s.value, cache);
  ops_.Attend(layer.attention, s.query, cache, s.attended);
  Lap(Phase::kAttention);
  ops_.LinearPartialSums(*layer.attention_output, s.attended,
                         int64_t{config_.heads_per_partial_sum()} * config_.head_dim, s.sums);
  LapProduct(Phase::kAttention);
  TANDEM_RETURN_IF_ERROR(ops_.AllReduce(s.sums, collective, phase));
  Lap(Phase::kAllReduce);
  ops_.AddPartialSums(s.sums, layer.post_attention_norm, config_.norm_epsilon, s.x, token_failed);
  Lap(Phase::kAttention);
  return absl::OkStatus();
}

absl::Status Transformer::FeedForward(const Layer& layer, Collective& collective, StepPhase phase,
                                      std::span<uint8_t> token_failed) {
  Scratch& s = scratch_;
  ops_.RmsNorm(s.x, layer.feed_forward_norm, config_.norm_epsilon, s.normed);
  Lap(Phase::kFeedForward);
  ops_.GatedLinearPartialSums(s.normed, config_.gate, *layer.gate, *layer.up, *layer.down,
                              config_.ffn_partial_columns(), s.sums);
  LapProduct(Phase::kFeedForward);
  TANDEM_RETURN_IF_ERROR(ops_.AllReduce(s.sums, collective, phase));
  Lap(Phase::kAllReduce);
  ops_.AddPartialSums(s.sums, layer.post_feed_forward_norm, config_.norm_epsilon, s.x,
                      token_failed);
  Lap(Phase::kFeedForward);
  return absl::OkStatus();
}

}  // namespace tandem::core
