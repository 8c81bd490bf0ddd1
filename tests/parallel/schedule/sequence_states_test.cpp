// States of a sequence: which are held, which are kept, and what is saved of them.

#include <gtest/gtest.h>

#include <algorithm>

#include "kv_store/pages/pool_size.h"
#include "parallel/schedule/sequence_pages.h"

namespace tandem::parallel {
namespace {

constexpr size_t kStates = 1;

const std::vector<core::KvLayerGroup> kGroups = {
    {.layers = {0}, .segment = 128},
    {.layers = {0}, .segment = 128, .states = true, .state_interval = 512}};

std::vector<int32_t> Tokens(int32_t count) {
  std::vector<int32_t> tokens;
  for (int32_t i = 0; i < count; ++i) tokens.push_back(i % 97);
  return tokens;
}

/// Computes `tokens` from `start` on, `step` at a time.
void Compute(SequencePages& pages, const std::vector<int32_t>& tokens, int32_t start, int32_t step,
             std::vector<BlockSave>* saves) {
  const auto count = static_cast<int32_t>(tokens.size());
  for (int32_t at = start; at < count; at += step) {
    const int32_t end = std::min(count, at + step);
    ASSERT_TRUE(pages.Grow(at, end));
    for (size_t g = 0; g < kGroups.size(); ++g) {
      EXPECT_LE(pages.held(g), kv_store::MostBlocksHeld(kGroups[g], count, step)) << "group " << g;
    }
    pages.AddFull(tokens, end, saves);
  }
}

int64_t StatesIn(const std::vector<BlockSave>& saves) {
  return std::count_if(saves.begin(), saves.end(), [](const BlockSave& save) {
    return save.blocks[kStates] != core::kNoBlock;
  });
}

TEST(SequenceStates, AFewAreHeldHoweverLongTheSequence) {
  kv_store::PrefixIndex index(kGroups, {40, 40});
  const std::vector<int32_t> tokens = Tokens(20'000);
  SequencePages pages(index, kGroups, 1, tokens, 0);
  Compute(pages, tokens, 0, 1, nullptr);
  EXPECT_EQ(pages.held(0), 1 + 20'000 % 128 / 64);
  EXPECT_EQ(pages.held(kStates), 1);
  pages.Release();
}

TEST(SequenceStates, ThoseOfTurnsAndOfTheIntervalAreFoundAgain) {
  kv_store::PrefixIndex index(kGroups, {200, 200});
  const std::vector<int32_t> tokens = Tokens(2000);
  {
    SequencePages pages(index, kGroups, 1, tokens, 2000);
    Compute(pages, std::vector(tokens.begin(), tokens.begin() + 700), 0, 50, nullptr);
    pages.AddTail(tokens, 700, nullptr);
    pages.KeepBorder();  // a turn ends at 700: its border is 640
    pages.Release();
  }
  {
    SequencePages pages(index, kGroups, 1, tokens, 1999);
    EXPECT_EQ(pages.taken(), 700);
    std::vector<PageMove> moves;
    pages.Copy(moves);
    Compute(pages, tokens, 700, 50, nullptr);
    pages.AddTail(tokens, 2000, nullptr);
    pages.KeepBorder();
    pages.Release();
  }
  // [most tokens, what is found]: behind the states at 512, 640, 1024, 1536 and 1920, where tokens
  // of their segments are left whole blocks of these, and before the first.
  const std::pair<int32_t, int32_t> kFound[] = {
      {2000, 2000}, {1919, 1600}, {1600, 1600}, {1535, 1088}, {800, 704}, {639, 639}, {500, 64}};
  for (const auto& [most, found] : kFound) {
    kv_store::PrefixMatch match = index.Take(1, tokens, most);
    EXPECT_EQ(match.tokens, found) << most;
    index.GiveBack(match);
  }
}

TEST(SequenceStates, RecordsAreMadeOfThoseOfTheIntervalAndOfTheLast) {
  kv_store::PrefixIndex index(kGroups, {200, 200});
  const std::vector<int32_t> tokens = Tokens(1500);
  SequencePages pages(index, kGroups, 1, tokens, 0);
  std::vector<BlockSave> saves;
  Compute(pages, tokens, 0, 100, &saves);
  EXPECT_EQ(saves.size(), 23U);
  EXPECT_EQ(StatesIn(saves), 2);  // at 512 and 1024
  pages.AddTail(tokens, 1500, &saves);
  pages.SaveTail(tokens, 1500, saves);
  EXPECT_EQ(StatesIn(saves), 3);  // and at 1408
  const auto border = std::find_if(saves.begin() + 23, saves.end(), [](const BlockSave& save) {
    return save.blocks[kStates] != core::kNoBlock;
  });
  ASSERT_NE(border, saves.end());
  EXPECT_EQ(border->blocks[0], core::kNoBlock);
  EXPECT_EQ(border->hash, saves[21].hash);
  EXPECT_EQ(saves.back().tokens, 1500 % 64);
  EXPECT_EQ(saves.back().blocks[kStates], core::kNoBlock);
  pages.Release();
}

TEST(SequenceStates, OneThatWasEvictedMeansAShorterBeginning) {
  kv_store::PrefixIndex index(kGroups, {60, 3});
  const std::vector<int32_t> tokens = Tokens(700);
  {
    SequencePages pages(index, kGroups, 1, tokens, 700);
    Compute(pages, tokens, 0, 50, nullptr);
    pages.AddTail(tokens, 700, nullptr);
    pages.KeepBorder();
    pages.Release();
  }
  const auto known = [&] {
    kv_store::PrefixMatch match = index.Take(1, tokens, 700);
    index.GiveBack(match);
    return match.tokens;
  };
  EXPECT_EQ(known(), 700);
  std::vector<core::BlockId> taken;
  while (index.idle(kStates) > 0) taken.push_back(*index.Allocate(kStates));
  EXPECT_EQ(known(), 64);
  for (const core::BlockId block : taken) index.Release(kStates, block);
}

}  // namespace
}  // namespace tandem::parallel
