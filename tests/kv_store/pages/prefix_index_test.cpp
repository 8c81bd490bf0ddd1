#include "kv_store/pages/prefix_index.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "tests/support/random.h"

namespace tandem::kv_store {
namespace {

using core::BlockId;
using core::kNoBlock;
using core::kPageTokens;

const std::vector<core::KvLayerGroup> kFullOnly = {{.window = 0, .layers = {0}}};
const std::vector<core::KvLayerGroup> kWithWindow = {{.window = 0, .layers = {0}},
                                                     {.window = 100, .layers = {1}}};

std::vector<int32_t> Counting(int32_t first, int32_t count) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

std::vector<int32_t> operator+(std::vector<int32_t> a, const std::vector<int32_t>& b) {
  a.insert(a.end(), b.begin(), b.end());
  return a;
}

int32_t Most(const std::vector<int32_t>& tokens) { return static_cast<int32_t>(tokens.size()); }

/// Leaves `tokens` in the index as an ended sequence would; `gone`: window blocks before this one
/// were left behind.
void Keep(PrefixIndex& index, uint64_t tenant, const std::vector<int32_t>& tokens,
          size_t gone = 0) {
  PrefixMatch match = index.Take(tenant, tokens, Most(tokens));
  auto tables = match.tables;
  for (size_t g = 0; g < tables.size() && match.copied > 0; ++g) {
    index.Release(g, match.copy_from[g]);
  }
  PrefixNode* place = match.place;
  for (size_t b = match.tables[0].size(); b * 64 < tokens.size(); ++b) {
    std::vector<BlockId> blocks;
    for (size_t g = 0; g < tables.size(); ++g) {
      const bool left_behind = g > 0 && b < gone;
      const auto block = left_behind ? std::optional(kNoBlock) : index.Allocate(g);
      ASSERT_TRUE(block.has_value());
      blocks.push_back(*block);
    }
    const auto own =
        std::span(tokens).subspan(b * 64, std::min<size_t>(64, tokens.size() - b * 64));
    if (own.size() == 64) {
      place = index.Extend(place, own, blocks, true);
    } else {
      index.AddTail(place, own, blocks);
    }
    for (size_t g = 0; g < tables.size(); ++g) tables[g].push_back(blocks[g]);
  }
  index.Leave(place);
  for (size_t g = 0; g < tables.size(); ++g) {
    for (const BlockId block : tables[g]) {
      if (block != kNoBlock) index.Release(g, block);
    }
  }
}

/// What a request with these tokens would find.
PrefixMatch Look(PrefixIndex& index, uint64_t tenant, const std::vector<int32_t>& tokens,
                 int32_t most) {
  PrefixMatch match = index.Take(tenant, tokens, most);
  index.GiveBack(match);
  return match;
}
int32_t Known(PrefixIndex& index, uint64_t tenant, const std::vector<int32_t>& tokens) {
  return Look(index, tenant, tokens, Most(tokens)).tokens;
}

TEST(PrefixIndex, HoldsASequenceThatIsLongerThanAStackIsDeep) {
  constexpr int32_t kBlocks = 60000;
  for (const bool to_its_end : {false, true}) {
    PrefixIndex index({{.window = 100, .layers = {0}, .global = 4}}, {8});
    PrefixNode* place = index.Enter(1);
    std::vector<BlockId> held;  // of the window
    const std::vector<int32_t> tokens = Counting(0, 64);
    for (int32_t i = 0; i < kBlocks; ++i) {
      BlockId block = *index.Allocate(0);
      place = index.Extend(place, tokens, {&block, 1}, true);
      held.push_back(block);
      if (held.size() < 4) continue;
      index.Release(0, held[1]);  // the first one is seen by all
      held.erase(held.begin() + 1);
    }
    EXPECT_EQ(index.nodes(), kBlocks);
    EXPECT_EQ(index.used(0), 3);
    if (!to_its_end) continue;
    for (const BlockId block : held) index.Release(0, block);
    index.Leave(place);
    index.Clear();
    EXPECT_EQ(index.nodes(), 0);
  }
}

TEST(PrefixIndex, FindsTheLongestKnownBeginning) {
  PrefixIndex index(kFullOnly, {20});
  const auto tokens = Counting(0, 200);
  EXPECT_EQ(Known(index, 1, tokens), 0);
  Keep(index, 1, tokens);
  EXPECT_EQ(index.idle(0), 4);
  EXPECT_EQ(index.used(0), 0);
  EXPECT_EQ(Known(index, 1, tokens), 200);
  EXPECT_EQ(Known(index, 1, tokens + Counting(7, 100)), 200);
  EXPECT_EQ(Known(index, 1, Counting(0, 150) + Counting(7, 100)), 150);
  EXPECT_EQ(Known(index, 1, Counting(0, 128) + Counting(7, 100)), 128);
  EXPECT_EQ(Known(index, 1, Counting(0, 10)), 10);
  EXPECT_EQ(Known(index, 1, Counting(1, 100)), 0);
  EXPECT_EQ(Known(index, 2, tokens), 0) << "another tenant";
  const PrefixMatch match = Look(index, 1, tokens, 192);
  EXPECT_EQ(match.tokens, 192);
  EXPECT_EQ(match.copied, 0);
  const PrefixMatch shorter = Look(index, 1, tokens, 191);
  EXPECT_EQ(shorter.tokens, 191);
  EXPECT_EQ(shorter.copied, 63);
  EXPECT_EQ(shorter.tables[0].size(), 2U);
  EXPECT_EQ(shorter.copy_from[0], match.tables[0][2]);
}

TEST(PrefixIndex, SaysWhatEndedAMatch) {
  PrefixIndex index(kFullOnly, {4});
  const auto tokens = Counting(0, 256);
  const auto end = [&](const std::vector<int32_t>& wanted) {
    return Look(index, 1, wanted, Most(wanted)).end;
  };
  EXPECT_EQ(end(tokens), MatchEnd::kNothing);
  Keep(index, 1, tokens);
  EXPECT_EQ(end(tokens), MatchEnd::kAll);
  EXPECT_EQ(end(tokens + Counting(0, 10)), MatchEnd::kDiffers);
  EXPECT_EQ(end(Counting(9, 70)), MatchEnd::kNothing);
  Keep(index, 1, Counting(500, 128));  // two blocks make room
  EXPECT_EQ(index.blocks_evicted(), 2U);
  EXPECT_EQ(end(tokens), MatchEnd::kEvicted);
  EXPECT_EQ(Known(index, 1, tokens), 128);
  EXPECT_EQ(end(Counting(0, 100) + Counting(0, 100)), MatchEnd::kDiffers);
}

TEST(PrefixIndex, EvictsLeavesFirstByLastUse) {
  PrefixIndex index(kFullOnly, {6});
  Keep(index, 1, Counting(0, 128) + Counting(1000, 64));
  Keep(index, 1, Counting(0, 128) + Counting(2000, 64));
  Keep(index, 1, Counting(3000, 128));
  EXPECT_EQ(index.idle(0), 6);
  // Looking at the first makes the second the oldest leaf.
  EXPECT_EQ(Known(index, 1, Counting(0, 128) + Counting(1000, 64)), 192);
  const auto block = index.Allocate(0);
  EXPECT_EQ(Known(index, 1, Counting(0, 128) + Counting(2000, 64)), 128);
  EXPECT_EQ(Known(index, 1, Counting(0, 128) + Counting(1000, 64)), 192);
  EXPECT_EQ(Known(index, 1, Counting(3000, 128)), 128);
  // A match in use, and what it stands on, stays.
  const PrefixMatch held = index.Take(1, Counting(0, 128), 128);
  std::vector<BlockId> got;
  while (const auto more = index.Allocate(0)) got.push_back(*more);
  EXPECT_EQ(got.size(), 3U);
  EXPECT_EQ(index.idle(0), 0);
  EXPECT_EQ(index.available(0), 0);
  EXPECT_EQ(Known(index, 1, Counting(0, 128) + Counting(1000, 64)), 128);
  index.GiveBack(held);
  EXPECT_EQ(index.available(0), 2);
  for (const BlockId each : got) index.Release(0, each);
  index.Release(0, *block);
  index.Clear();
  EXPECT_EQ(index.nodes(), 0);
  EXPECT_EQ(index.available(0), 6);
}

TEST(PrefixIndex, LongerTailsReplaceTheirBeginnings) {
  PrefixIndex index(kFullOnly, {8});
  Keep(index, 1, Counting(0, 10));
  Keep(index, 1, Counting(0, 10));
  EXPECT_EQ(index.nodes(), 1);
  Keep(index, 1, Counting(0, 30));
  EXPECT_EQ(index.nodes(), 1);
  EXPECT_EQ(Known(index, 1, Counting(0, 64)), 30);
  Keep(index, 1, Counting(0, 20));  // known
  EXPECT_EQ(index.nodes(), 1);
  Keep(index, 1, Counting(0, 20) + Counting(100, 20));  // goes on differently
  EXPECT_EQ(index.nodes(), 2);
  EXPECT_EQ(Known(index, 1, Counting(0, 64)), 30);
  EXPECT_EQ(Known(index, 1, Counting(0, 20) + Counting(100, 30)), 40);
  Keep(index, 1, Counting(0, 64));
  EXPECT_EQ(index.nodes(), 2);
  EXPECT_EQ(Known(index, 1, Counting(0, 64)), 64);
  EXPECT_EQ(index.idle(0), 2);
}

TEST(PrefixIndex, AMatchNeedsTheBlocksThatItsWindowSees) {
  // Window 100: after n tokens, positions from n - 99 on.
  PrefixIndex index(kWithWindow, {20, 20});
  Keep(index, 1, Counting(0, 400), 4);                // window blocks 4, 5 and the tail are there
  EXPECT_EQ(Known(index, 1, Counting(0, 400)), 400);  // sees from 301 on, block 4
  EXPECT_EQ(Known(index, 1, Counting(0, 384)), 384);  // from 285, block 4
  // 370 tokens are known, and see from 271 on: block 4 again.
  EXPECT_EQ(Known(index, 1, Counting(0, 370) + Counting(0, 50)), 370);
  // 350 tokens would see from 251 on, in block 3, and so would any shorter beginning down to one
  // that sees nothing.
  const auto differs = Counting(0, 350) + Counting(0, 50);
  const PrefixMatch match = Look(index, 1, differs, Most(differs));
  EXPECT_EQ(match.tokens, 0);
  EXPECT_EQ(match.end, MatchEnd::kEvicted);
  // Somebody who computes it again fills the gap.
  Keep(index, 1, differs);
  EXPECT_EQ(Known(index, 1, Counting(0, 350)), 350);
  EXPECT_EQ(Known(index, 1, Counting(0, 128)), 128);
  const PrefixMatch whole = Look(index, 1, Counting(0, 400), 400);
  EXPECT_EQ(whole.tables[1], (std::vector<BlockId>{kNoBlock, kNoBlock, kNoBlock, kNoBlock,
                                                   whole.tables[1][4], whole.tables[1][5]}));
}

TEST(PrefixIndex, WindowBlocksGoWithoutTheirNodes) {
  PrefixIndex index(kWithWindow, {20, 5});
  Keep(index, 1, Counting(0, 320));
  Keep(index, 1, Counting(1000, 128));  // takes the window blocks 0 and 1 of the first
  EXPECT_EQ(index.idle(0), 7);
  EXPECT_EQ(index.idle(1), 5);
  EXPECT_EQ(Known(index, 1, Counting(0, 320)), 320);
  const auto fork = Counting(0, 192);
  EXPECT_EQ(Look(index, 1, fork, 192).end, MatchEnd::kEvicted);
}

TEST(PrefixIndex, TheFirstKeepsItsPlaceAndOthersAdoptIt) {
  PrefixIndex index(kFullOnly, {8});
  const auto tokens = Counting(0, 64);
  PrefixNode* first = index.Enter(1);
  PrefixNode* second = index.Enter(1);
  PrefixNode* third = index.Enter(1);
  std::vector<BlockId> a = {*index.Allocate(0)};
  std::vector<BlockId> b = {*index.Allocate(0)};
  std::vector<BlockId> c = {*index.Allocate(0)};
  const BlockId own_a = a[0];
  const BlockId own_c = c[0];
  first = index.Extend(first, tokens, a, true);
  EXPECT_EQ(a[0], own_a);
  second = index.Extend(second, tokens, b, true);
  EXPECT_EQ(second, first);
  EXPECT_EQ(b[0], own_a);
  EXPECT_EQ(index.Extend(third, tokens, c, false), nullptr);
  EXPECT_EQ(c[0], own_c);
  EXPECT_EQ(index.used(0), 2);
  EXPECT_EQ(index.idle(0), 0);
  index.Release(0, a[0]);
  index.Leave(first);
  EXPECT_EQ(index.idle(0), 0);
  index.Release(0, b[0]);
  index.Leave(second);
  EXPECT_EQ(index.idle(0), 1);
  index.Release(0, c[0]);
  index.Leave(third);
  index.Clear();
  EXPECT_EQ(index.available(0), 8);
}

/// Sequences over real contents: what stands at each position of each block is known, and every
/// sequence must find exactly its own history in what it sees.
class ModelOfPages {
 public:
  ModelOfPages(std::vector<core::KvLayerGroup> groups, std::vector<int64_t> blocks, uint64_t seed)
      : groups_(std::move(groups)), index_(groups_, blocks), blocks_(blocks), random_(seed) {
    for (const int64_t count : blocks) {
      pages_.emplace_back(static_cast<size_t>(count * kPageTokens), 0);
    }
  }

  void Run(int operations) {
    for (int i = 0; i < operations && !::testing::Test::HasFatalFailure(); ++i) {
      const uint64_t what = random_.Below(20);
      if (sequences_.empty() || (what < 3 && sequences_.size() < 8)) {
        Begin();
      } else if (what < 18) {
        Grow(random_.Below(sequences_.size()));
      } else {
        End(random_.Below(sequences_.size()), random_.Below(8) != 0);
      }
      if (random_.Below(2000) == 0) index_.Clear();
      if (i % 64 == 0) CheckCounts();
    }
    while (!sequences_.empty()) End(0, true);
    CheckCounts();
    index_.Clear();
    EXPECT_EQ(index_.nodes(), 0);
    for (size_t g = 0; g < groups_.size(); ++g) {
      EXPECT_EQ(index_.available(g), blocks_[g]);
      EXPECT_EQ(index_.idle(g), 0);
    }
  }

  int64_t reused = 0;
  int64_t copied = 0;

 private:
  struct Sequence {
    uint64_t tenant = 0;
    std::vector<int32_t> tokens;   // wanted
    std::vector<uint64_t> hashes;  // [tokens] of the history up to each
    int32_t computed = 0;
    PrefixNode* place = nullptr;
    size_t kept = 0;  // full blocks in the tree
    bool adopts = true;
    bool stalled = false;  // its tokens stand in the tree in others' blocks
    std::vector<std::vector<BlockId>> tables;
  };

  static std::vector<uint64_t> Hashes(uint64_t tenant, const std::vector<int32_t>& tokens) {
    std::vector<uint64_t> hashes;
    uint64_t hash = testing::SplitMix(tenant + 77).Next();
    for (const int32_t token : tokens) {
      hash = testing::SplitMix(hash + static_cast<uint64_t>(token)).Next();
      hashes.push_back(hash);
    }
    return hashes;
  }

  uint64_t& At(size_t group, BlockId block, int64_t position) {
    return pages_[group][static_cast<size_t>(block * kPageTokens + position % kPageTokens)];
  }

  void Begin() {
    Sequence sequence;
    sequence.tenant = random_.Below(2);
    sequence.adopts = random_.Below(10) != 0;
    if (!past_.empty() && random_.Below(6) != 0) {
      sequence.tokens = past_[random_.Below(past_.size())];
      sequence.tokens.resize(1 + random_.Below(sequence.tokens.size()));
    }
    const size_t more = random_.Below(200);
    for (size_t i = 0; i < more || sequence.tokens.empty(); ++i) {
      sequence.tokens.push_back(static_cast<int32_t>(random_.Below(2)));
    }
    sequence.tokens.resize(std::min<size_t>(sequence.tokens.size(), 700));
    sequence.hashes = Hashes(sequence.tenant, sequence.tokens);
    if (past_.size() < 30) {
      past_.push_back(sequence.tokens);
    } else {
      past_[random_.Below(past_.size())] = sequence.tokens;
    }
    if (!sequence.adopts) {
      sequence.place = index_.Enter(sequence.tenant);
      sequence.tables.resize(groups_.size());
      sequences_.push_back(std::move(sequence));
      return;
    }
    const PrefixMatch match =
        index_.Take(sequence.tenant, sequence.tokens, Most(sequence.tokens) - 1);
    if (random_.Below(10) == 0) return index_.GiveBack(match);
    sequence.place = match.place;
    sequence.tables = match.tables;
    sequence.kept = match.tables[0].size();
    sequence.computed = match.tokens;
    reused += match.tokens;
    if (match.copied > 0) {
      std::vector<std::optional<BlockId>> copies;
      for (size_t g = 0; g < groups_.size(); ++g) copies.push_back(index_.Allocate(g));
      const bool all = std::all_of(copies.begin(), copies.end(),
                                   [](const auto& copy) { return copy.has_value(); });
      if (!all) sequence.computed -= match.copied;
      for (size_t g = 0; g < groups_.size(); ++g) {
        if (all) {
          for (int p = 0; p < kPageTokens; ++p) {
            At(g, *copies[g], p) = At(g, match.copy_from[g], p);
          }
          sequence.tables[g].push_back(*copies[g]);
        } else if (copies[g]) {
          index_.Release(g, *copies[g]);
        }
        index_.Release(g, match.copy_from[g]);
      }
      if (all) copied += match.copied;
    }
    sequences_.push_back(std::move(sequence));
  }

  void Grow(size_t which) {
    Sequence& sequence = sequences_[which];
    const auto left = static_cast<int32_t>(sequence.tokens.size()) - sequence.computed;
    if (left == 0) return End(which, true);
    const auto count = std::min(left, static_cast<int32_t>(1 + random_.Below(100)));
    const int32_t end = sequence.computed + count;
    for (size_t g = 0; g < groups_.size(); ++g) {
      auto& table = sequence.tables[g];
      for (size_t b = 0; b < table.size(); ++b) {
        if (Needs(g, sequence.computed, static_cast<int32_t>(b))) continue;
        BlockId& block = table[b];
        if (block != kNoBlock) index_.Release(g, std::exchange(block, kNoBlock));
      }
      while (static_cast<int32_t>(table.size()) * kPageTokens < end) {
        const auto block = index_.Allocate(g);
        if (!block) return End(which, true);
        table.push_back(*block);
      }
    }
    CheckSeen(sequence);
    for (; sequence.computed < end; ++sequence.computed) {
      for (size_t g = 0; g < groups_.size(); ++g) {
        const auto b = static_cast<size_t>(sequence.computed / kPageTokens);
        At(g, sequence.tables[g][b], sequence.computed) =
            sequence.hashes[static_cast<size_t>(sequence.computed)];
      }
    }
    KeepFullBlocks(sequence);
    if (random_.Below(4) == 0) KeepTail(sequence);
  }

  /// By the words of KvLayerGroup.
  bool Sees(size_t group, int32_t position, int32_t key) const {
    const core::KvLayerGroup& needs = groups_[group];
    if (needs.window == 0 || key > position - needs.window) return true;
    return key < needs.global && (needs.global_reach == 0 || key > position - needs.global_reach);
  }
  bool Needs(size_t group, int32_t position, int32_t block) const {
    for (int32_t key = block * kPageTokens; key < (block + 1) * kPageTokens; ++key) {
      if (Sees(group, position, key)) return true;
    }
    return false;
  }

  void CheckSeen(const Sequence& sequence) {
    for (size_t g = 0; g < groups_.size(); ++g) {
      for (int32_t p = 0; p < sequence.computed; ++p) {
        if (!Sees(g, sequence.computed, p)) continue;
        const BlockId block = sequence.tables[g][static_cast<size_t>(p / kPageTokens)];
        ASSERT_NE(block, kNoBlock) << "group " << g << " position " << p;
        ASSERT_EQ(At(g, block, p), sequence.hashes[static_cast<size_t>(p)])
            << "group " << g << " position " << p << " of " << sequence.computed;
      }
    }
  }

  void KeepFullBlocks(Sequence& sequence) {
    while (!sequence.stalled &&
           static_cast<int32_t>(sequence.kept + 1) * kPageTokens <= sequence.computed) {
      std::vector<BlockId> blocks;
      for (const auto& table : sequence.tables) blocks.push_back(table[sequence.kept]);
      PrefixNode* next =
          index_.Extend(sequence.place, std::span(sequence.tokens).subspan(sequence.kept * 64, 64),
                        blocks, sequence.adopts);
      if (next == nullptr) {
        sequence.stalled = true;
        return;
      }
      sequence.place = next;
      for (size_t g = 0; g < blocks.size(); ++g) sequence.tables[g][sequence.kept] = blocks[g];
      ++sequence.kept;
    }
  }

  void KeepTail(Sequence& sequence) {
    if (sequence.stalled) return;
    const size_t begin = sequence.kept * 64;
    std::vector<BlockId> blocks;
    for (const auto& table : sequence.tables) {
      if (table.size() > sequence.kept) blocks.push_back(table[sequence.kept]);
    }
    if (blocks.size() < groups_.size()) return;
    index_.AddTail(
        sequence.place,
        std::span(sequence.tokens).subspan(begin, static_cast<size_t>(sequence.computed) - begin),
        blocks);
  }

  void End(size_t which, bool keep) {
    Sequence sequence = std::move(sequences_[which]);
    sequences_.erase(sequences_.begin() + static_cast<int64_t>(which));
    if (keep) KeepTail(sequence);
    for (size_t g = 0; g < groups_.size(); ++g) {
      for (const BlockId block : sequence.tables[g]) {
        if (block != kNoBlock) index_.Release(g, block);
      }
    }
    index_.Leave(sequence.place);
  }

  void CheckCounts() {
    for (size_t g = 0; g < groups_.size(); ++g) {
      std::vector<bool> held(static_cast<size_t>(blocks_[g]), false);
      for (const Sequence& sequence : sequences_) {
        for (const BlockId block : sequence.tables[g]) {
          if (block != kNoBlock) held[static_cast<size_t>(block)] = true;
        }
      }
      ASSERT_EQ(index_.used(g), std::count(held.begin(), held.end(), true)) << "group " << g;
    }
  }

  std::vector<core::KvLayerGroup> groups_;
  PrefixIndex index_;
  std::vector<int64_t> blocks_;
  testing::SplitMix random_;
  std::vector<std::vector<uint64_t>> pages_;  // [layer groups][blocks * 64]
  std::vector<Sequence> sequences_;
  std::vector<std::vector<int32_t>> past_;
};

TEST(PrefixIndexRandom, EverySequenceSeesItsOwnHistory) {
  ModelOfPages model(kWithWindow, {40, 18}, 1);
  model.Run(60'000);
  EXPECT_GT(model.reused, 100'000);
  EXPECT_GT(model.copied, 10'000);
}

TEST(PrefixIndexRandom, WithFullAttentionAlone) {
  ModelOfPages model(kFullOnly, {25}, 2);
  model.Run(30'000);
  EXPECT_GT(model.reused, 100'000);
}

TEST(PrefixIndexRandom, WithSparseAttention) {
  // Some begin with global tokens that stay, some with such that the layer's own window leaves.
  ModelOfPages alone({{.window = 24, .layers = {0}, .global = 70}}, {35}, 4);
  alone.Run(30'000);
  EXPECT_GT(alone.reused, 20'000);
  ModelOfPages model({{.window = 24, .layers = {0}, .global = 5},
                      {.window = 65, .layers = {1}, .global = 200, .global_reach = 300}},
                     {30, 50}, 5);
  model.Run(30'000);
  EXPECT_GT(model.reused, 20'000);
}

TEST(PrefixIndexRandom, WithWindowsAlone) {
  ModelOfPages model({{.window = 24, .layers = {0}}, {.window = 200, .layers = {1}}}, {20, 40}, 3);
  model.Run(30'000);
  EXPECT_GT(model.reused, 50'000);
}

}  // namespace
}  // namespace tandem::kv_store
