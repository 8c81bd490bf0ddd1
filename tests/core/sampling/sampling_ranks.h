#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>
#include <memory>
#include <numeric>
#include <span>
#include <thread>
#include <vector>

#include "core/sampling/sample_rows.h"
#include "core/sampling/sampler.h"
#include "parallel/communicators/thread_communicator.h"
#include "tests/support/random.h"

namespace tandem::testing {

inline void OneAfterTheOther(int64_t tasks, absl::FunctionRef<void(int64_t)> body) {
  for (int64_t task = 0; task < tasks; ++task) body(task);
}

/// Rows that are sampled, with what they point to.
struct SamplingCase {
  int64_t vocab = 0;
  std::vector<float> logits;  // [rows, vocab]
  std::vector<core::SamplingParams> params;
  std::vector<std::vector<int32_t>> histories;
  std::vector<bool> scored = {};  // none: no row is

  int64_t rows() const { return static_cast<int64_t>(params.size()); }
  /// In an order that is not that of the logits.
  std::vector<core::SampleRow> SampleRows(int64_t largest_shard) const {
    std::vector<core::SampleRow> rows;
    for (size_t i = params.size(); i-- > 0;) {
      rows.push_back(
          {.row = static_cast<int64_t>(i),
           .params = &params[i],
           .history = histories[i],
           .token_index = 3 * i,
           .candidates = core::CandidatesPerRank(params[i], static_cast<int>(largest_shard)),
           .scored = i < scored.size() && scored[i]});
    }
    return rows;
  }
};

/// Random rows with ties, every parameter and combination, some with a logit that is not finite.
inline SamplingCase RandomSamplingCase(int64_t vocab, int64_t rows, uint64_t seed) {
  SplitMix random(seed);
  const auto pick = [&](std::initializer_list<float> values) {
    return values.begin()[random.Below(values.size())];
  };
  SamplingCase of{.vocab = vocab, .logits = {}, .params = {}, .histories = {}};
  for (int64_t row = 0; row < rows; ++row) {
    const float spread = pick({0.0F, 0.5F, 8.0F, 30.0F, 30.0F, 3e38F});
    const float steps = pick({1.0F, 8.0F, 65536.0F});  // few make ties
    for (int64_t i = 0; i < vocab; ++i) {
      const float unit = 2 * random.Unit() - 1;
      of.logits.push_back(std::round(unit * steps) / steps * spread);
    }
    if (random.Below(6) == 0) {
      of.logits[of.logits.size() - 1 - random.Below(static_cast<uint64_t>(vocab))] =
          pick({std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
                std::numeric_limits<float>::quiet_NaN()});
    }
    core::SamplingParams params{
        .temperature = pick({0.0F, 0.3F, 0.8F, 1.0F, 1.0F, 2.5F}),
        .top_k = static_cast<int32_t>(pick({0, 0, 0, 1, 40, 300, 1500, 1e6F})),
        .top_p = pick({1.0F, 1.0F, 0.9F, 0.5F, 0.9999F, 1e-6F, 0.99999994F}),
        .min_p = pick({0.0F, 0.0F, 0.02F, 1.0F}),
        .repetition_penalty = pick({1.0F, 1.0F, 1.3F, 0.7F}),
        .presence_penalty = pick({0.0F, 0.0F, 0.6F, -2.0F}),
        .frequency_penalty = pick({0.0F, 0.0F, 0.1F, -0.3F}),
        .seed = random.Next(),
        .sample_number = static_cast<uint32_t>(random.Below(3)),
        .logit_bias = {}};
    if (random.Below(3) == 0) {
      for (int i = 0; i < 9; ++i) {  // the same tokens again, and some that are nobody's
        params.logit_bias.emplace_back(
            static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab / 2 + 3))),
            pick({2.5F, -1.0F, 0.1F, -100.0F}));
      }
    }
    if (random.Below(3) == 0) {
      params.min_tokens = static_cast<int32_t>(random.Below(60));
      for (uint64_t i = random.Below(5); i > 0; --i) {
        params.end_tokens.push_back(
            static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab + 9))));
      }
    }
    of.params.push_back(params);
    of.scored.push_back(random.Below(3) == 0);
    std::vector<int32_t>& history = of.histories.emplace_back();
    for (uint64_t i = random.Below(60); i > 0; --i) {
      history.push_back(static_cast<int32_t>(random.Below(static_cast<uint64_t>(vocab + 9))));
    }
  }
  return of;
}

/// Each row by itself, of one rank's logits in host memory, by SampleToken. Changes `logits` of
/// rows that are not scored.
inline std::vector<core::SampledToken> SampleEachRow(const SamplingCase& of,
                                                     std::vector<float>& logits) {
  logits = of.logits;
  std::vector<core::SampledToken> sampled;
  for (const core::SampleRow& row : of.SampleRows(of.vocab)) {
    const std::span<float> of_row(logits.data() + row.row * of.vocab,
                                  static_cast<size_t>(of.vocab));
    const std::vector<float> before(of_row.begin(), of_row.end());
    core::ApplyPenalties(*row.params, row.token_index, row.history, 0, of_row);
    std::vector<core::Candidate> candidates(static_cast<size_t>(row.candidates));
    core::SelectCandidates(of_row, 0, candidates);
    sampled.push_back(core::SampleToken(*row.params, row.token_index, candidates));
    if (row.scored) std::copy(before.begin(), before.end(), of_row.begin());
  }
  return sampled;
}

/// Logits in host memory, which may say that they are elsewhere, and count what is taken from them.
template <bool kInHostMemory>
class CountedLogits final : public core::ShardLogits {
 public:
  CountedLogits(float* data, core::Range vocab_rows)
      : logits_(data, vocab_rows, OneAfterTheOther) {}
  core::Range vocab_rows() const override { return logits_.vocab_rows(); }
  bool in_host_memory() const override { return kInHostMemory; }
  void ApplyPenalties(std::span<const core::SampleRow> rows) override {
    logits_.ApplyPenalties(rows);
  }
  void SelectCandidates(std::span<const BestOfRow> wanted) override {
    for (const BestOfRow& of : wanted) bytes += of.out.size_bytes();
    logits_.SelectCandidates(wanted);
  }
  void Restore() override { logits_.Restore(); }
  void SumWholeBlocks(std::span<const SumsOfRow> wanted, core::SumOrder order) override {
    for (const SumsOfRow& of : wanted) bytes += of.out.size_bytes();
    logits_.SumWholeBlocks(wanted, order);
  }
  void Read(std::span<const PartOfRow> wanted) override {
    for (const PartOfRow& of : wanted) bytes += of.out.size_bytes();
    logits_.Read(wanted);
  }
  size_t bytes = 0;

 private:
  core::HostLogits logits_;
};
using NearLogits = CountedLogits<true>;
using FarLogits = CountedLogits<false>;

/// Where a rank has its logits, and how they come back.
class LogitsOfRank {
 public:
  virtual ~LogitsOfRank() = default;
  virtual core::ShardLogits& logits() = 0;
  virtual std::vector<float> Read() = 0;
};
using MakeLogitsOfRank = std::function<std::unique_ptr<LogitsOfRank>(
    size_t rank, core::Range vocab_rows, const std::vector<float>& logits)>;

template <typename Logits>
std::unique_ptr<LogitsOfRank> MakeInMemory(size_t, core::Range vocab_rows,
                                           const std::vector<float>& logits) {
  struct InMemory final : LogitsOfRank {
    InMemory(core::Range rows, std::vector<float> of_rank)
        : values(std::move(of_rank)), in_memory(values.data(), rows) {}
    core::ShardLogits& logits() override { return in_memory; }
    std::vector<float> Read() override { return values; }
    std::vector<float> values;
    Logits in_memory;
  };
  return std::make_unique<InMemory>(vocab_rows, logits);
}

/// Calls run(rank, its logits, its collective) on ranks that are threads, whose shards of
/// `logits`, [rows, vocab], have these sizes. What becomes of the logits.
template <typename Run>
std::vector<float> OnRanks(const std::vector<float>& logits, int64_t vocab,
                           const std::vector<int64_t>& shards, const MakeLogitsOfRank& make,
                           const Run& run) {
  const auto rows = static_cast<int64_t>(logits.size()) / vocab;
  std::vector<float> changed = logits;
  auto worlds = parallel::MakeThreadWorld(static_cast<int>(shards.size()));
  std::vector<std::thread> threads;
  int64_t begin = 0;
  for (size_t rank = 0; rank < shards.size(); begin += shards[rank++]) {
    threads.emplace_back([&, rank, shard = core::Range{begin, shards[rank]}] {
      std::vector<float> mine;
      for (int64_t row = 0; row < rows; ++row) {
        const auto first = logits.begin() + row * vocab + shard.begin;
        mine.insert(mine.end(), first, first + shard.count);
      }
      const auto on_rank = make(rank, shard, mine);
      const absl::Status status = run(rank, on_rank->logits(), *worlds[rank]);
      EXPECT_TRUE(status.ok()) << status;
      mine = on_rank->Read();
      for (int64_t row = 0; row < rows; ++row) {
        std::copy_n(mine.begin() + row * shard.count, shard.count,
                    changed.begin() + row * vocab + shard.begin);
      }
      worlds[rank].reset();
    });
  }
  for (std::thread& thread : threads) thread.join();
  return changed;
}

struct RanksSampled {
  std::vector<std::vector<core::SampledToken>> of_rank;
  std::vector<float> logits;  // afterwards
};

/// By ranks that are threads, whose shards have these sizes.
inline RanksSampled SampleOnRanks(const SamplingCase& of, const std::vector<int64_t>& shards,
                                  const MakeLogitsOfRank& make) {
  const int64_t largest = *std::max_element(shards.begin(), shards.end());
  const std::vector<core::SampleRow> rows = of.SampleRows(largest);
  RanksSampled result;
  result.of_rank.assign(shards.size(), std::vector<core::SampledToken>(rows.size()));
  result.logits = OnRanks(of.logits, of.vocab, shards, make,
                          [&](size_t rank, core::ShardLogits& logits, core::Collective& world) {
                            return core::SampleRows(rows, logits, world, {}, OneAfterTheOther,
                                                    result.of_rank[rank]);
                          });
  return result;
}

/// Ways to cut a vocabulary for 1, 2 and 3 ranks, some of them empty or at borders of blocks.
inline std::vector<std::vector<int64_t>> VocabularyCuts(int64_t vocab) {
  const int64_t block = std::min<int64_t>(core::kSumRows, vocab);
  return {{vocab},
          {vocab / 2, vocab - vocab / 2},
          {block, vocab - block},
          {vocab - 1, 1},
          {0, vocab},
          {vocab / 3, vocab / 3 + 1, vocab - 2 * (vocab / 3) - 1},
          {1, vocab - 2, 1}};
}

}  // namespace tandem::testing
