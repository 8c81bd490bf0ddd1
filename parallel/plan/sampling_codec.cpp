#include "parallel/plan/sampling_codec.h"

namespace tandem::parallel {

void WriteSampling(const core::SamplingParams& sampling, core::WireWriter& writer) {
  writer.Number(sampling.temperature);
  writer.Number(sampling.top_k);
  writer.Number(sampling.top_p);
  writer.Number(sampling.min_p);
  writer.Number(sampling.repetition_penalty);
  writer.Number(sampling.seed);
  writer.Number(sampling.sample_number);
  writer.Count(sampling.logit_bias.size());
  for (const auto& [token, bias] : sampling.logit_bias) {
    writer.Number(token);
    writer.Number(bias);
  }
}

core::SamplingParams ReadSampling(core::WireReader& reader) {
  core::SamplingParams sampling;
  sampling.temperature = reader.Number<float>();
  sampling.top_k = reader.Number<int32_t>();
  sampling.top_p = reader.Number<float>();
  sampling.min_p = reader.Number<float>();
  sampling.repetition_penalty = reader.Number<float>();
  sampling.seed = reader.Number<uint64_t>();
  sampling.sample_number = reader.Number<uint32_t>();
  const size_t biases = reader.Count(kMostLogitBiases, 8, "logit biases");
  sampling.logit_bias.reserve(biases);
  for (size_t i = 0; i < biases; ++i) {
    const auto token = reader.Number<int32_t>();
    sampling.logit_bias.emplace_back(token, reader.Number<float>());
  }
  return sampling;
}

}  // namespace tandem::parallel
