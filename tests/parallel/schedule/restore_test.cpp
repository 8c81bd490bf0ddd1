#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <numeric>
#include <vector>

#include "kv_store/tiers/memory_tier.h"
#include "parallel/coordinator/pending_durable_answers.h"
#include "parallel/plan/record_probe.h"
#include "parallel/schedule/fetch_tracker.h"
#include "parallel/schedule/restore_rates.h"
#include "parallel/schedule/sequence_pages.h"

namespace tandem::parallel {
namespace {

using kv_store::TierKind;
using std::chrono::milliseconds;

TEST(RestoreRates, TheFasterOneWinsAndTheSlowerIsTriedAgain) {
  RestoreRates rates;
  const auto disk = TierKind::kDisk;
  EXPECT_TRUE(rates.Worth(disk, 64)) << "nothing is known";
  rates.StepTook(100, 0.1);  // 1 ms a token
  rates.FetchTook(disk, 1000, 0.1);
  EXPECT_TRUE(rates.Worth(disk, 1000));
  EXPECT_FALSE(rates.Worth(disk, 64)) << "the fetch took 100 ms, and a small one may, too";
  for (int i = 0; i < 20; ++i) rates.FetchTook(disk, 1000, 10);
  EXPECT_FALSE(rates.Worth(disk, 1000));
  int refusals = 0;
  while (!rates.Worth(disk, 1000) && refusals < 100) ++refusals;
  EXPECT_GT(refusals, 5);
  EXPECT_LT(refusals, 50);
  EXPECT_NEAR(rates.ComputeSeconds(50).value_or(0), 0.05, 1e-9);
}

TEST(RestoreRates, AnotherHostThatIsSlowSaysNothingOfTheDisk) {
  RestoreRates rates;
  rates.StepTook(100, 0.1);
  for (int i = 0; i < 20; ++i) rates.FetchTook(TierKind::kRemote, 1000, 10);
  EXPECT_FALSE(rates.Worth(TierKind::kRemote, 1000));
  EXPECT_TRUE(rates.Worth(TierKind::kDisk, 1000)) << "nothing is known";
  EXPECT_TRUE(rates.Worth(std::nullopt, 1000)) << "it may be there";
  rates.FetchTook(TierKind::kDisk, 1000, 0.1);
  EXPECT_TRUE(rates.Worth(TierKind::kDisk, 1000));
  // Nobody answered where it is: all that is known of becomes suspect, and is tried again later.
  for (int i = 0; i < 20; ++i) rates.FetchTook(std::nullopt, 1000, 10);
  EXPECT_FALSE(rates.Worth(TierKind::kDisk, 1000));
  EXPECT_TRUE(rates.Worth(TierKind::kHost, 1000));
  rates.FetchTook(TierKind::kHost, 1000, 10);
  int refusals = 0;
  while (!rates.Worth(std::nullopt, 1000) && refusals < 100) ++refusals;
  EXPECT_GT(refusals, 5);
  EXPECT_LT(refusals, 50);
}

RecordReport Fetched(int32_t rank, FetchId id, std::vector<TierKind> from) {
  RecordReport report;
  report.kind = RecordReport::Kind::kFetched;
  report.rank = rank;
  report.id = id;
  report.from = std::move(from);
  return report;
}

TEST(FetchTracker, TakesWhatAllHaveFromTheFarthestTier) {
  FetchTracker watch(3, milliseconds(20), milliseconds(1000));
  const auto now = FetchTracker::Time::clock::now();
  watch.FetchBegins({.id = 5, .tokens = 200}, now);
  const auto host = TierKind::kHost;
  EXPECT_FALSE(watch.Take(Fetched(1, 5, {host, host, host}), now));
  EXPECT_FALSE(watch.Take(Fetched(0, 5, {host, TierKind::kRemote}), now));
  const auto outcome = watch.Take(Fetched(2, 5, {TierKind::kDisk, host, host}), now);
  ASSERT_TRUE(outcome);
  EXPECT_EQ(outcome->from, (std::vector<TierKind>{TierKind::kDisk, TierKind::kRemote}));
  EXPECT_FALSE(watch.next_deadline());
}

TEST(FetchTracker, LongOnesHaveMoreTimeButNoMoreThanComputingTakes) {
  FetchTracker watch(1, milliseconds(20), milliseconds(1000));
  const auto now = FetchTracker::Time::clock::now();
  const auto wait = [&](FetchId id, int32_t tokens) {
    watch.FetchBegins({.id = id, .tokens = tokens, .from = TierKind::kRemote}, now);
    const auto deadline = watch.next_deadline().value_or(now);
    watch.Take(Fetched(0, id, {}), now);
    return std::chrono::duration_cast<milliseconds>(deadline - now).count();
  };
  EXPECT_EQ(wait(1, 200), 1000);
  EXPECT_EQ(wait(2, 4096), 4000);
  ScheduledStep step;
  step.prompt_tokens = 100;
  watch.StepTook(step, 0.05);  // half a millisecond a token
  EXPECT_EQ(wait(3, 200), 100);
  EXPECT_EQ(wait(4, 4096), 2048);
  EXPECT_EQ(wait(5, 10), 20);
}

TEST(FetchTracker, PagesAreFilledWhenAllRanksHaveFilledThem) {
  FetchTracker watch(3, milliseconds(20), milliseconds(1000));
  EXPECT_FALSE(watch.TakeLoaded(5));
  EXPECT_FALSE(watch.TakeLoaded(6));
  EXPECT_FALSE(watch.TakeLoaded(5));
  EXPECT_TRUE(watch.TakeLoaded(5));
  EXPECT_FALSE(watch.TakeLoaded(6));
  EXPECT_TRUE(watch.TakeLoaded(6));
}

TEST(FetchTracker, WhoOwesAnAnswerIsAskedNothingElse) {
  FetchTracker watch(2, milliseconds(20), milliseconds(1000));
  const auto now = FetchTracker::Time::clock::now();
  watch.FetchBegins({.id = 1, .tokens = 200}, now);
  watch.ProbeBegins(2, 200, now);
  EXPECT_FALSE(watch.Take(Fetched(0, 1, {}), now));
  EXPECT_TRUE(watch.TakeLate(now + milliseconds(999)).empty());
  EXPECT_EQ(watch.TakeLate(now + milliseconds(1001)).size(), 2U);
  EXPECT_FALSE(watch.Worth(1000, {}));
  EXPECT_FALSE(watch.Take(Fetched(1, 1, {}), now + milliseconds(1500)));
  EXPECT_FALSE(watch.Worth(1000, {})) << "the probe is owed";
  watch.ProbeEnds(2);
  EXPECT_TRUE(watch.Worth(1000, {}));
}

RecordReport Flushed(int32_t rank, uint64_t step, bool safe) {
  RecordReport report;
  report.kind = RecordReport::Kind::kFlushed;
  report.rank = rank;
  report.id = step;
  report.safe = safe;
  return report;
}

TEST(PendingDurableAnswers, EndWhenAllRanksHaveFlushedOrItIsLate) {
  PendingDurableAnswers held(2, milliseconds(100));
  const auto now = PendingDurableAnswers::Time::clock::now();
  held.Hold(1, FinishReason::kStop, now);
  held.MarkLeft(10);
  held.Hold(2, FinishReason::kLength, now);
  held.MarkLeft(11);
  held.Hold(3, FinishReason::kStop, now + milliseconds(50));
  EXPECT_TRUE(held.Take(Flushed(0, 11, true)).empty());
  const auto second = held.Take(Flushed(1, 11, true));
  ASSERT_EQ(second.size(), 1U);
  EXPECT_EQ(second[0].id, 2U);
  EXPECT_TRUE(second[0].saved);
  EXPECT_EQ(second[0].reason, FinishReason::kLength);
  EXPECT_TRUE(held.Take(Flushed(1, 10, false)).empty());
  const auto first = held.Take(Flushed(0, 10, true));
  ASSERT_EQ(first.size(), 1U);
  EXPECT_FALSE(first[0].saved) << "one rank has lost something";
  EXPECT_TRUE(held.TakeLate(now + milliseconds(120)).empty());
  EXPECT_EQ(held.TakeLate(now + milliseconds(150)).size(), 1U);
  EXPECT_FALSE(held.Release(3));
}

TEST(SequencePages, ABlockThatWasCopiedMayBeLoadedIntoLater) {
  const std::vector<core::KvLayerGroup> groups = {{.window = 0, .layers = {0}}};
  kv_store::PrefixIndex index(groups, {3});
  const auto numbers = [](size_t count, int32_t first) {
    std::vector<int32_t> tokens(count);
    std::iota(tokens.begin(), tokens.end(), first);
    return tokens;
  };
  {
    const auto tokens = numbers(10, 0);
    SequencePages ended(index, groups, 0, tokens, 9);
    ASSERT_TRUE(ended.Grow(0, 10));
    ended.AddTail(tokens, 10, nullptr);
    ended.Release();
  }
  std::vector<PageMove> moves;
  SequencePages sharing(index, groups, 0, numbers(20, 0), 19);
  ASSERT_EQ(sharing.taken(), 10);
  sharing.Copy(moves);
  const core::BlockId shared = std::get<BlockCopy>(moves.at(0)).from;

  const auto prompt = numbers(140, 1000);
  SequencePages restored(index, groups, 0, prompt, 139);
  std::vector<FetchBlock> blocks;
  kv_store::BlockHash hash = kv_store::TenantHash(0);
  for (size_t i = 0; i < 2; ++i) {
    hash = kv_store::ChainHash(hash, std::span(prompt).subspan(i * 64, 64));
    blocks.push_back({.hash = hash, .tokens = 64, .groups = 1});
  }
  ASSERT_EQ(restored.Restorable(0, blocks), 2U);
  ASSERT_TRUE(restored.Restore(4, 0, blocks, prompt, moves));
  EXPECT_EQ(restored.taken(), 128);
  // The shared block was evicted for it: the copy must be made before the load.
  ASSERT_EQ(moves.size(), 3U);
  EXPECT_EQ(std::get<BlockLoad>(moves[1]).blocks.size(), 1U);
  EXPECT_TRUE(std::get<BlockLoad>(moves[1]).blocks[0] == shared ||
              std::get<BlockLoad>(moves[2]).blocks[0] == shared);

  // Without memory nothing changes.
  auto other = numbers(70, 2000);
  SequencePages late(index, groups, 0, other, 69);
  blocks.resize(1);
  EXPECT_FALSE(late.Restore(5, 0, blocks, other, moves));
  EXPECT_EQ(moves.size(), 3U);
  EXPECT_EQ(late.taken(), 0);
  late.Release();
  sharing.Release();
  restored.Release();
  EXPECT_EQ(index.used(0), 0);
  EXPECT_EQ(index.Known(0, prompt, 139).tokens, 128) << "a prefix like any other";
}

/// Puts records without content of the blocks of `tokens` and of a tail.
void PutAll(kv_store::Tier& tier, const std::vector<int32_t>& tokens,
            const std::vector<std::pair<size_t, int32_t>>& but) {
  kv_store::BlockHash hash = kv_store::TenantHash(0);
  for (size_t i = 0; i * 64 < tokens.size(); ++i) {
    const size_t count = std::min<size_t>(64, tokens.size() - i * 64);
    const kv_store::BlockHash before = hash;
    hash = kv_store::ChainHash(hash, std::span(tokens).subspan(i * 64, count));
    for (int32_t g = 0; g < 2; ++g) {
      if (std::find(but.begin(), but.end(), std::pair(i, g)) != but.end()) continue;
      const kv_store::TierRecord record{
          .key = kv_store::RecordKeyOf(
              {}, {.block = hash, .tokens = static_cast<int32_t>(count), .kv_head = 2, .group = g}),
          .block = hash,
          .before = before,
          .tenant = 0,
          .bytes = std::vector<std::byte>(8)};
      ASSERT_TRUE(tier.Put(std::span(&record, 1)).ok());
    }
  }
}

TEST(FindSaved, FindsTheLongestBeginningThatWindowsAllow) {
  const std::vector<core::KvLayerGroup> groups = {{.window = 0, .layers = {0}},
                                                  {.window = 70, .layers = {1}}};
  std::vector<int32_t> tokens(64 * 5 + 23);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * i % 97);
  std::vector<int32_t> prompt = tokens;
  for (int i = 0; i < 90; ++i) prompt.push_back(7);
  const auto find = [&](const std::vector<std::pair<size_t, int32_t>>& but, int32_t head = 2) {
    kv_store::MemoryTier tier({});
    PutAll(tier, tokens, but);
    return FindSaved(
               tier, {}, groups, head,
               {.id = 1, .first_block = 0, .before = kv_store::TenantHash(0), .tokens = prompt})
        .tokens;
  };
  EXPECT_EQ(find({}), 64 * 5 + 23) << "the tail, whose length nobody told";
  EXPECT_EQ(find({{5, 0}}), 64 * 5);
  EXPECT_EQ(find({{5, 1}}), 64 * 5);
  EXPECT_EQ(find({{1, 0}}), 64) << "full attention needs all blocks";
  EXPECT_EQ(find({{1, 1}, {0, 1}}), 64 * 5 + 23) << "the window has left them behind";
  EXPECT_EQ(find({{4, 1}}), 64 * 4);
  EXPECT_EQ(find({{0, 0}}), 0);
  EXPECT_EQ(find({}, 1), 0) << "another head";
}

TEST(FindSaved, SparseAttentionNeedsGlobalTokensAndTheLastOnes) {
  const std::vector<core::KvLayerGroup> groups = {
      {.window = 70, .layers = {0}, .global = 4},
      {.window = 70, .layers = {1}, .global = 4, .global_reach = 200}};
  std::vector<int32_t> tokens(64 * 5 + 23);
  for (size_t i = 0; i < tokens.size(); ++i) tokens[i] = static_cast<int32_t>(i * i % 97);
  const auto find = [&](const std::vector<std::pair<size_t, int32_t>>& but) {
    kv_store::MemoryTier tier({});
    PutAll(tier, tokens, but);
    return FindSaved(
               tier, {}, groups, 2,
               {.id = 1, .first_block = 0, .before = kv_store::TenantHash(0), .tokens = tokens})
        .tokens;
  };
  EXPECT_EQ(find({}), 64 * 5 + 23);
  EXPECT_EQ(find({{1, 0}, {2, 0}, {1, 1}, {2, 1}}), 64 * 5 + 23) << "a hole that nobody sees";
  EXPECT_EQ(find({{0, 0}}), 0) << "the first tokens are seen by all";
  EXPECT_EQ(find({{0, 1}}), 64 * 5 + 23) << "the layer's own window has left them behind";
  EXPECT_EQ(find({{3, 0}}), 64 * 3);
}

/// Has what it has in different places.
class ScatteredTier : public kv_store::MemoryTier {
 public:
  ScatteredTier() : MemoryTier({}) {}
  std::vector<std::optional<TierKind>> Where(std::span<const kv_store::RecordKey> keys) override {
    std::vector<std::optional<TierKind>> where = MemoryTier::Where(keys);
    for (size_t i = 0; i < where.size(); ++i) {
      if (where[i] && keys[i] == far) where[i] = TierKind::kRemote;
    }
    return where;
  }
  kv_store::RecordKey far{};
};

TEST(FindSaved, TellsTheFarthestPlace) {
  const std::vector<core::KvLayerGroup> groups = {{.window = 0, .layers = {0}},
                                                  {.window = 70, .layers = {1}}};
  std::vector<int32_t> tokens(64 * 3 + 5, 1);
  ScatteredTier tier;
  PutAll(tier, tokens, {});
  const auto find = [&] {
    return FindSaved(
        tier, {}, groups, 2,
        {.id = 1, .first_block = 0, .before = kv_store::TenantHash(0), .tokens = tokens});
  };
  EXPECT_EQ(find().tokens, 64 * 3 + 5);
  EXPECT_EQ(find().from, TierKind::kHost);
  const auto first =
      kv_store::ChainHash(kv_store::TenantHash(0), std::span(tokens).first(size_t{64}));
  tier.far = kv_store::RecordKeyOf({}, {.block = first, .tokens = 64, .kv_head = 2, .group = 0});
  EXPECT_EQ(find().tokens, 64 * 3 + 5);
  EXPECT_EQ(find().from, TierKind::kRemote);
}

}  // namespace
}  // namespace tandem::parallel
