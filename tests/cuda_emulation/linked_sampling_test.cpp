// What ranks sample whose emulated GPUs are joined: candidates meet on the GPUs.

#include <gtest/gtest.h>

#include <algorithm>

#include "core/cuda/cuda_logits.h"
#include "parallel/communicators/thread_communicator.h"
#include "tests/core/sampling/sampling_ranks.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/cuda_emulation/linked_ranks.h"
#include "tests/cuda_emulation/streams.h"
#include "tests/parallel/communicators/thread_ranks.h"

namespace tandem::parallel {
namespace {

using core::SampledToken;
using testing::SamplingCase;

/// Counts what is gathered through the hosts.
class CountingWorld final : public Communicator {
 public:
  explicit CountingWorld(Communicator& world) : world_(world) {}
  int rank() const override { return world_.rank(); }
  int size() const override { return world_.size(); }
  const std::vector<std::string>& hosts() const override { return world_.hosts(); }
  absl::Status AllReduceSum(std::span<int64_t> values, const core::StepPhase& phase) override {
    return world_.AllReduceSum(values, phase);
  }
  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                         const core::StepPhase& phase) override {
    ++gathers;
    return world_.AllGather(mine, all, phase);
  }
  absl::Status Barrier() override { return world_.Barrier(); }
  absl::Status Broadcast(std::span<std::byte> bytes) override { return world_.Broadcast(bytes); }
  void Abort(const absl::Status& why) override { world_.Abort(why); }

  int gathers = 0;

 private:
  Communicator& world_;
};

/// The part of a vocabulary in each row.
std::vector<float> PartOf(const SamplingCase& of, const core::Range& shard) {
  std::vector<float> part;
  for (int64_t row = 0; row < of.rows(); ++row) {
    const auto first = of.logits.begin() + row * of.vocab + shard.begin;
    part.insert(part.end(), first, first + shard.count);
  }
  return part;
}

/// Samples on ranks with these shards, and expects the tokens of one CPU. How often hosts gathered,
/// on each rank.
int Gathers(const SamplingCase& of, const std::vector<int64_t>& cut, const LinkOf& link) {
  std::vector<float> changed;
  const std::vector<SampledToken> expected = testing::SampleEachRow(of, changed);
  const int64_t largest = *std::max_element(cut.begin(), cut.end());
  std::vector<int> gathers(cut.size());
  const auto statuses =
      RunRanks(MakeThreadWorld(static_cast<int>(cut.size())), [&](Communicator& of_threads) {
        CountingWorld world(of_threads);
        const auto index = static_cast<size_t>(world.rank());
        core::Range shard{0, cut[index]};
        for (size_t before = 0; before < index; ++before) shard.begin += cut[before];
        LinkedRank rank(world, world.rank());
        TANDEM_RETURN_IF_ERROR(rank.Link(link));
        auto& memory = static_cast<core::CudaMemory&>(rank.device->memory());
        core::CudaReductions reductions(memory);
        core::CudaLogits logits(memory, reductions);
        const std::vector<float> part = PartOf(of, shard);
        const auto sent = Sent(memory, std::as_bytes(std::span(part)));
        logits.Set(reinterpret_cast<float*>(sent.get()), shard);
        world.gathers = 0;
        std::vector<SampledToken> found(expected.size());
        TANDEM_RETURN_IF_ERROR(core::SampleRows(of.SampleRows(largest), logits, *rank.linked, {},
                                                testing::OneAfterTheOther, found));
        gathers[index] = world.gathers;
        return found == expected ? absl::OkStatus() : Internal("other tokens than a CPU's");
      });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
  for (const int count : gathers) EXPECT_EQ(count, gathers[0]);
  return gathers[0];
}

class LinkedSampling : public ::testing::TestWithParam<bool> {
 protected:
  LinkedSampling() { cuda_emulation::SetGpus({.count = 3}); }
  ~LinkedSampling() override { cuda_emulation::SetGpus({}); }
  static LinkOf Link() { return {.nccl = !GetParam(), .peers = GetParam()}; }
};

TEST_P(LinkedSampling, GivesTheTokensOfTheCpu) {
  const SamplingCase of = testing::RandomSamplingCase(5003, 25, 6);
  for (const std::vector<int64_t>& cut : testing::VocabularyCuts(of.vocab)) {
    if (cut.size() > 1) Gathers(of, cut, Link());
  }
}

/// Greedy tokens and those of top_k need nothing else: hosts do not meet at all, and take what all
/// GPUs gave at once.
TEST_P(LinkedSampling, HostsDoNotMeetForCandidates) {
  constexpr int64_t kVocab = 3000;
  SamplingCase of{.vocab = kVocab, .logits = {}, .params = {}, .histories = {}};
  testing::SplitMix random(12);
  for (const int32_t top_k : {0, 40}) {
    of.params.push_back(
        {.temperature = top_k == 0 ? 0.0F : 1.0F, .top_k = top_k, .logit_bias = {}});
    of.histories.emplace_back();
    for (int64_t i = 0; i < kVocab; ++i) of.logits.push_back(random.Unit() * 50.0F);
  }
  EXPECT_EQ(Gathers(of, {1000, 1500, 500}, Link()), 0);
}

INSTANTIATE_TEST_SUITE_P(Links, LinkedSampling, ::testing::Bool(),
                         [](const auto& of) { return std::string(of.param ? "Peers" : "Nccl"); });

}  // namespace
}  // namespace tandem::parallel
