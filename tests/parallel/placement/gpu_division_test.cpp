#include "parallel/placement/gpu_division.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "parallel/communicators/thread_communicator.h"
#include "parallel/sharding/model_costs.h"
#include "tests/parallel/communicators/thread_ranks.h"
#include "tests/support/tiny_model.h"

namespace tandem::parallel {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int64_t kPlenty = int64_t{64} << 30;

/// A model of 8 KV heads with two query heads each, whose weights are much of what a GPU needs.
class DivisionOfAModel : public ::testing::Test {
 protected:
  DivisionOfAModel()
      : bytes_(testing::TinyModel({.layers = 8,
                                   .dim = 1024,
                                   .ffn_dim = 4096,
                                   .heads = 16,
                                   .kv_heads = 8,
                                   .head_dim = 64,
                                   .vocab = 512,
                                   .dtype = core::DType::kF16,
                                   .embedding_dtype = core::DType::kF16})) {
    auto file = core::ModelFile::OpenBuffer(bytes_, "tiny");
    EXPECT_TRUE(file.ok()) << file.status();
    file_ = *std::move(file);
  }

  static std::vector<GpuFacts> Facts(const std::vector<double>& speeds,
                                     const std::vector<int64_t>& free) {
    std::vector<GpuFacts> facts;
    for (size_t r = 0; r < speeds.size(); ++r) {
      facts.push_back({.device = fmt::format("GPU {}, NVIDIA G", r),
                       .driver = "580.1 (CUDA 13.0)",
                       .free_bytes = free[r],
                       .bytes_per_second = speeds[r]});
    }
    return facts;
  }
  GpuDivision Divide(const std::vector<GpuFacts>& facts,
                     const std::vector<double>& weights = {}) const {
    const auto places = PlacesOf(std::vector<std::string>(facts.size(), "n1"), facts);
    auto division = DivideAmongGpus(*file_, facts, places, weights, options_);
    EXPECT_TRUE(division.ok()) << division.status();
    return *std::move(division);
  }
  static std::vector<int64_t> KvHeads(const GpuDivision& division) {
    std::vector<int64_t> heads;
    for (const core::Shard& shard : division.plan.shards) {
      EXPECT_EQ(shard.query_heads.count, 2 * shard.kv_heads.count) << "a split group";
      heads.push_back(shard.kv_heads.count);
    }
    return heads;
  }
  /// What a rank needs at least.
  int64_t LeastOf(const core::Shard& shard) const {
    const GpuMemory memory = MemoryOnGpu(*file_, shard, options_);
    return memory.weights + memory.least_cache + memory.workspace + kGpuReserve;
  }

  std::vector<std::byte> bytes_;
  std::unique_ptr<core::ModelFile> file_;
  GpuMemoryOptions options_{.max_running = 4, .prefill_chunk = 64};
};

TEST_F(DivisionOfAModel, IsEqualWhereGpusCopyAlike) {
  const GpuDivision alike = Divide(Facts({3.9e12, 4e12}, {kPlenty, kPlenty}));
  EXPECT_THAT(KvHeads(alike), ElementsAre(4, 4));
  EXPECT_TRUE(alike.fits);
  EXPECT_THAT(alike.why, HasSubstr("equal weights, since the GPUs copy alike: rank 0 on host n1 "
                                   "(GPU 0, NVIDIA G) 3900 GB/s, rank 1"));
  const auto plain = PlanShards(file_->config(), *CostsOf(*file_), {.ranks = 2});
  EXPECT_EQ(PlanHash(alike.plan.shards), PlanHash(plain->shards));
  // Where one was not measured, none counts.
  EXPECT_THAT(KvHeads(Divide(Facts({0, 4e12}, {kPlenty, kPlenty}))), ElementsAre(4, 4));
}

TEST_F(DivisionOfAModel, FollowsWhatGpusCopy) {
  const GpuDivision division = Divide(Facts({3e12, 1e12}, {kPlenty, kPlenty}));
  EXPECT_THAT(KvHeads(division), ElementsAre(6, 2));
  EXPECT_THAT(division.why, HasSubstr("weights 3,1 by how fast the GPUs copy"));
  EXPECT_THAT(KvHeads(Divide(Facts({1e12, 2e12, 1e12}, {kPlenty, kPlenty, kPlenty}))),
              ElementsAre(2, 4, 2));
  std::vector<GpuFacts> shared = Facts({2e12, 2e12, 2e12}, {kPlenty, kPlenty, kPlenty});
  shared[0].sharers = shared[1].sharers = 2;
  EXPECT_THAT(KvHeads(Divide(shared)), ElementsAre(2, 2, 4));
}

TEST_F(DivisionOfAModel, TakesTheUsersWeightsBeforeWhatWasMeasured) {
  const GpuDivision division = Divide(Facts({3e12, 1e12}, {kPlenty, kPlenty}), {1, 3});
  EXPECT_THAT(KvHeads(division), ElementsAre(2, 6));
  EXPECT_THAT(division.why, HasSubstr("weights 1,3, as --weights says"));
  EXPECT_THAT(KvHeads(Divide(Facts({3e12, 1e12}, {kPlenty, kPlenty}), {1, 1})), ElementsAre(4, 4));
}

TEST_F(DivisionOfAModel, FitsIntoTheMemoryOfEachGpu) {
  const ShardPlan even = Divide(Facts({1e12, 1e12, 1e12}, {kPlenty, kPlenty, kPlenty})).plan;
  const int64_t all = LeastOf(core::WholeModel(file_->config())) - kGpuReserve;
  for (const int64_t part : {2, 4, 6}) {
    // The second has room for less than an even share.
    const int64_t small = LeastOf(even.shards[1]) - all / (4 * part) + (int64_t{32} << 20);
    const GpuDivision division = Divide(Facts({1e12, 1e12, 1e12}, {kPlenty, small, kPlenty}));
    EXPECT_TRUE(division.fits) << part;
    EXPECT_LE(LeastOf(division.plan.shards[1]), small) << part;
    EXPECT_LT(division.plan.bytes[1].total(), even.bytes[1].total());
    EXPECT_THAT(division.why, HasSubstr("; rank 1 on host n1 (GPU 1, NVIDIA G) takes less, since "))
        << part;
    EXPECT_TRUE(CheckPlan(file_->config(), division.plan.shards).ok());
  }
}

TEST_F(DivisionOfAModel, ThatDoesNotFitIsSaid) {
  const GpuDivision division = Divide(Facts({1e12, 1e12}, {kGpuReserve, kGpuReserve}));
  EXPECT_FALSE(division.fits);
  EXPECT_EQ(division.plan.ranks(), 2);
}

TEST_F(DivisionOfAModel, HasRoomForASequenceWhereThatIsToBeHad) {
  // Enough for the least cache on even shares, and for a sequence's only on uneven ones.
  const ShardPlan even = Divide(Facts({1e12, 1e12}, {kPlenty, kPlenty})).plan;
  const int64_t small = LeastOf(even.shards[1]) + (int64_t{33} << 20);
  const GpuDivision division = Divide(Facts({1e12, 1e12}, {kPlenty, small}));
  EXPECT_TRUE(division.fits);
  GpuMemoryOptions one = options_;
  one.max_running = 1;
  const GpuMemory memory = MemoryOnGpu(*file_, division.plan.shards[1], options_);
  EXPECT_LE(memory.weights + memory.workspace + kGpuReserve +
                MemoryOnGpu(*file_, division.plan.shards[1], one).cache,
            small);
}

TEST(GpuFacts, TravelToAllRanks) {
  ThreadWorldOptions options;
  options.hosts = {"n0", "n1"};
  const auto statuses = RunRanks(MakeThreadWorld(2, options), [](Communicator& world) {
    const int rank = world.rank();
    const auto facts = GatherGpuFacts(world, {.device = fmt::format("GPU {}, G", rank),
                                              .driver = rank == 0 ? "1" : "2",
                                              .free_bytes = 5 + rank,
                                              .bytes_per_second = 2.5,
                                              .sharers = 1 + rank});
    TANDEM_RETURN_IF_ERROR(facts.status());
    EXPECT_EQ((*facts)[1].free_bytes, 6);
    EXPECT_EQ((*facts)[1].sharers, 2);
    const auto places = PlacesOf(world.hosts(), *facts);
    EXPECT_THAT(places, ElementsAre("n0 (GPU 0, G)", "n1 (GPU 1, G)"));
    EXPECT_EQ(DriverDifferences(places, *facts),
              "NVIDIA drivers differ: 1 on rank 0 on host n0 (GPU 0, G); 2 on rank 1 on host n1 "
              "(GPU 1, G)");
    EXPECT_THAT(DriverDifferences(places, {(*facts)[0], (*facts)[0]}), IsEmpty());
    EXPECT_THAT(PlacesOf(world.hosts(), {GpuFacts(), GpuFacts()}), ElementsAre("n0", "n1"));
    return absl::OkStatus();
  });
  for (const absl::Status& status : statuses) EXPECT_TRUE(status.ok()) << status;
}

}  // namespace
}  // namespace tandem::parallel
