#include "tests/support/fake_model.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <thread>

#include "core/sampling/logprobs.h"
#include "core/sampling/sample_rows.h"
#include "core/sampling/sampler.h"

namespace tandem::testing {
namespace {

uint64_t Mix(uint64_t a, uint64_t b) {
  uint64_t z = a * 0x9E3779B97F4A7C15 + b + 0x632BE59BD9B4E019;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EB;
  return z ^ (z >> 31);
}

/// What a layer stores for a token: a small integer, exact in float16 bits.
uint16_t Stored(int32_t token, int64_t position, int layer, int64_t kv_head) {
  return static_cast<uint16_t>(
      Mix(Mix(static_cast<uint64_t>(token), static_cast<uint64_t>(position)),
          Mix(static_cast<uint64_t>(layer), static_cast<uint64_t>(kv_head))));
}

/// Elements of 16 or 32 bits are treated as raw numbers.
void Put(std::byte* elements, int64_t index, core::KvDtype dtype, uint16_t value) {
  const uint32_t wide = value;
  const auto size = static_cast<size_t>(core::KvElementBytes(dtype));
  std::memcpy(elements + index * static_cast<int64_t>(size), &wide, size);
}

uint16_t Get(const std::byte* elements, int64_t index, core::KvDtype dtype) {
  uint32_t wide = 0;
  const auto size = static_cast<size_t>(core::KvElementBytes(dtype));
  std::memcpy(&wide, elements + index * static_cast<int64_t>(size), size);
  return static_cast<uint16_t>(wide);
}

/// Sum over the visible positions; `read` gives what stands at a position.
template <typename Read>
int64_t HeadSum(int64_t position, int window, int64_t head, Read read) {
  const int64_t first = window == 0 ? 0 : std::max<int64_t>(0, position - window + 1);
  int64_t sum = 0;
  for (int64_t q = first; q <= position; ++q) {
    sum += static_cast<int64_t>(Mix(read(q), static_cast<uint64_t>(q * 64 + head)) >> 40);
  }
  return sum;
}

float Logit(uint64_t state, int64_t row) {
  return static_cast<float>(Mix(state, static_cast<uint64_t>(row)) >> 44) / 65536.0F;
}

}  // namespace

core::ModelConfig FakeConfig() {
  core::ModelConfig config;
  config.name = "fake";
  config.layers = 3;
  config.dim = 64;
  config.ffn_dim = 640;
  config.heads = 6;
  config.kv_heads = 3;
  config.head_dim = 32;
  config.vocab = 211;
  config.context = 700;
  config.layer_window = {0, 100, 0};
  return config;
}

absl::Status FakeModel::Forward(const core::Batch& given, const core::KvView& cache,
                                core::Collective& collective) {
  std::vector<int32_t> tokens(given.tokens.begin(), given.tokens.end());
  for (int32_t& token : tokens) {
    const int32_t row = core::KeptRow(token);
    if (row >= 0) token = std::max(sampled_.at(static_cast<size_t>(row)), 0);
  }
  core::Batch batch = given;
  batch.tokens = tokens;
  if (hook_) TANDEM_RETURN_IF_ERROR(hook_(batch.step));
  const core::KvGeometry& geometry = cache.geometry();
  const size_t n = batch.tokens.size();
  std::vector<uint64_t> state(n, 0);
  token_failed_.assign(n, 0);
  for (int layer = 0; layer < config_.layers; ++layer) {
    std::vector<int64_t> sums(n, 0);
    for (const core::SequenceSlice& slice : batch.sequences) {
      const auto& table = slice.block_tables[static_cast<size_t>(cache.group_of(layer))];
      const auto block = [&](int64_t position) {
        return table[static_cast<size_t>(position / core::kPageTokens)];
      };
      for (int32_t i = 0; i < slice.tokens; ++i) {
        const int64_t position = slice.start_position + i;
        const auto token = static_cast<size_t>(slice.first_token + i);
        const int64_t in_page = position % core::kPageTokens;
        for (int64_t kv = 0; kv < shard_.kv_heads.count; ++kv) {
          const core::KvPage page = cache.Page(layer, static_cast<int>(kv), block(position));
          const uint16_t value =
              Stored(batch.tokens[token], position, layer, shard_.kv_heads.begin + kv);
          Put(page.keys, (geometry.head_dim - 1) * core::kPageTokens + in_page, geometry.dtype,
              value);
          Put(page.values, in_page * geometry.head_dim, geometry.dtype, value);
        }
        for (int64_t head = shard_.query_heads.begin; head < shard_.query_heads.end(); ++head) {
          const auto kv = static_cast<int>(head / config_.group_size() - shard_.kv_heads.begin);
          sums[token] += HeadSum(
              position, config_.layer_window[static_cast<size_t>(layer)], head, [&](int64_t q) {
                const core::KvPage page = cache.Page(layer, kv, block(q));
                const int64_t at = q % core::kPageTokens;
                return uint64_t{Get(page.keys, (geometry.head_dim - 1) * core::kPageTokens + at,
                                    geometry.dtype)} *
                           65537 +
                       Get(page.values, at * geometry.head_dim, geometry.dtype);
              });
        }
      }
    }
    TANDEM_RETURN_IF_ERROR(collective.AllReduceSum(
        sums, {.step = batch.step, .layer = layer, .kind = core::StepPhase::Kind::kAttention}));
    for (size_t t = 0; t < n; ++t) state[t] = Mix(state[t], static_cast<uint64_t>(sums[t]));
  }
  for (size_t t = 0; t < n; ++t) token_failed_[t] = batch.tokens[t] == failing_token_ ? 1 : 0;
  logits_.clear();
  for (const int32_t token : batch.logit_tokens) {
    for (int64_t row = shard_.vocab_rows.begin; row < shard_.vocab_rows.end(); ++row) {
      const bool broken = batch.tokens[static_cast<size_t>(token)] == broken_token_;
      logits_.push_back(broken ? std::numeric_limits<float>::infinity()
                               : Logit(state[static_cast<size_t>(token)], row));
    }
  }
  return absl::OkStatus();
}

absl::Status FakeModel::Sample(std::span<const core::SampleRow> rows, core::Collective& collective,
                               const core::StepPhase& phase, std::span<core::SampledToken> out) {
  const auto parallel_for = [this](int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    ParallelFor(tasks, body);
  };
  core::HostLogits logits(logits_.data(), shard_.vocab_rows, parallel_for);
  return core::SampleRows(rows, logits, collective, phase, parallel_for, out);
}

bool FakeModel::CanKeep(std::span<const core::SampleRow> rows, const core::Collective&) const {
  return std::all_of(rows.begin(), rows.end(), [](const core::SampleRow& row) {
    return row.params->temperature == 0.0F && !row.scored && !core::ChangesLogits(*row.params);
  });
}

absl::Status FakeModel::Keep(std::span<const core::SampleRow> rows, core::Collective& collective,
                             const core::StepPhase& phase) {
  std::vector<core::SampledToken> sampled(rows.size());
  TANDEM_RETURN_IF_ERROR(Sample(rows, collective, phase, sampled));
  sampled_.clear();
  for (const core::SampledToken& token : sampled) sampled_.push_back(token.value_or(-1));
  kept_.push_back({token_failed_, sampled_});
  *most_ahead_ = std::max(*most_ahead_, kept_.size());
  return absl::OkStatus();
}

absl::Status FakeModel::AwaitKept(absl::FunctionRef<bool()> until) {
  // A device that is as fast as others, or much faster, or much slower.
  constexpr int kTries[] = {0, 1, 10, 1000};
  const int tries = kTries[++waits_ % 4];
  for (int i = 0; i < tries && !until(); ++i) std::this_thread::yield();
  return absl::OkStatus();
}

absl::StatusOr<core::KeptResults> FakeModel::TakeKept() {
  taken_ = std::move(kept_.front());
  kept_.pop_front();
  return core::KeptResults{.failures = taken_.failed, .sampled = taken_.sampled};
}

absl::Status FakeModel::Score(std::span<const core::ScoreRow> rows, core::Collective& collective,
                              const core::StepPhase& phase, std::span<core::TokenScore> out) {
  const auto parallel_for = [this](int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    ParallelFor(tasks, body);
  };
  core::HostLogits logits(logits_.data(), shard_.vocab_rows, parallel_for);
  return core::ScoreRows(rows, logits, collective, phase, parallel_for, out);
}

absl::Status FakeModel::ReadLogits(core::Range rows, float* out, int64_t stride) {
  const int64_t count = shard_.vocab_rows.count;
  for (int64_t i = 0; i < rows.count; ++i) {
    std::copy_n(logits_.begin() + (rows.begin + i) * count, count, out + i * stride);
  }
  return absl::OkStatus();
}

std::vector<float> FakeLogits(const core::ModelConfig& config, const std::vector<int32_t>& tokens) {
  const auto position = static_cast<int64_t>(tokens.size()) - 1;
  uint64_t state = 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    int64_t sum = 0;
    for (int64_t head = 0; head < config.heads; ++head) {
      sum +=
          HeadSum(position, config.layer_window[static_cast<size_t>(layer)], head, [&](int64_t q) {
            return uint64_t{Stored(tokens[static_cast<size_t>(q)], q, layer,
                                   head / config.group_size())} *
                   65538;
          });
    }
    state = Mix(state, static_cast<uint64_t>(sum));
  }
  std::vector<float> logits;
  for (int64_t row = 0; row < config.vocab; ++row) logits.push_back(Logit(state, row));
  return logits;
}

std::vector<int32_t> FakeAnswer(const core::ModelConfig& config, std::vector<int32_t> prompt,
                                int count) {
  std::vector<int32_t> answer;
  for (int i = 0; i < count; ++i) {
    const std::vector<float> logits = FakeLogits(config, prompt);
    const auto best = std::max_element(logits.begin(), logits.end()) - logits.begin();
    answer.push_back(static_cast<int32_t>(best));
    prompt.push_back(answer.back());
  }
  return answer;
}

}  // namespace tandem::testing
