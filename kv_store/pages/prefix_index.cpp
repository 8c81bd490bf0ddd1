#include "kv_store/pages/prefix_index.h"

#include <algorithm>
#include <set>
#include <utility>

#include "core/base/check.h"
#include "kv_store/pages/pool_size.h"

namespace tandem::kv_store {
namespace {

constexpr size_t kFull = core::kPageTokens;

using Tokens = std::span<const int32_t>;

int32_t CommonPrefix(Tokens a, Tokens b) {
  const size_t most = std::min(a.size(), b.size());
  return static_cast<int32_t>(std::mismatch(a.begin(), a.begin() + most, b.begin()).first -
                              a.begin());
}

bool BeginsWith(Tokens tokens, Tokens beginning) {
  return beginning.size() <= tokens.size() &&
         std::equal(beginning.begin(), beginning.end(), tokens.begin());
}

Tokens Block(Tokens tokens, size_t index) { return tokens.subspan(index * kFull, kFull); }

struct ByTokens {
  using is_transparent = void;
  static Tokens Of(const std::unique_ptr<PrefixNode>& node);
  static Tokens Of(Tokens tokens) { return tokens; }
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const {
    const Tokens x = Of(a);
    const Tokens y = Of(b);
    return std::lexicographical_compare(x.begin(), x.end(), y.begin(), y.end());
  }
};

}  // namespace

struct PrefixNode {
  BlockHash hash{};              // of a root: the tenant's; of a tail: unused
  PrefixNode* parent = nullptr;  // null: a root
  uint64_t tenant = 0;
  std::vector<int32_t> tokens;
  std::vector<core::BlockId> blocks;  // [layer groups]
  std::vector<uint64_t> last_use;     // [layer groups] key in the order of eviction; 0: not in it
  std::set<std::unique_ptr<PrefixNode>, ByTokens> children;
  int32_t users = 0;   // sequences whose place this is
  bool saved = false;  // a record of it was made, or it came from one
  bool kept = false;   // its blocks outlive Forget

  bool tail() const { return tokens.size() < kFull; }
  bool empty() const {
    return std::all_of(blocks.begin(), blocks.end(),
                       [](core::BlockId block) { return block == core::kNoBlock; });
  }
};

namespace {

Tokens ByTokens::Of(const std::unique_ptr<PrefixNode>& node) { return node->tokens; }

}  // namespace

/// The nodes that a match goes along, and the one of which it takes a part.
struct PrefixIndex::Path {
  PrefixNode* root = nullptr;
  std::vector<PrefixNode*> nodes;
  PrefixNode* partial = nullptr;
  int32_t partial_tokens = 0;
  bool cut = false;                     // shorter than what is known, for want of window blocks
  bool lacks_state = false;             // `cut` for want of states alone
  const PrefixNode* deepest = nullptr;  // of what is known

  int32_t full_tokens() const { return static_cast<int32_t>(nodes.size() * kFull); }
  int32_t tokens() const { return full_tokens() + partial_tokens; }
};

PrefixIndex::PrefixIndex(std::vector<core::KvLayerGroup> groups, const std::vector<int64_t>& blocks)
    : groups_(std::move(groups)), idle_(groups_.size(), 0), evictable_(groups_.size()) {
  for (const int64_t count : blocks) {
    pools_.emplace_back(count);
    holders_.emplace_back(static_cast<size_t>(count), nullptr);
    // A few lives of the pool, at least some conversations.
    most_remembered_ = std::max(most_remembered_, static_cast<size_t>(4 * count + 1024));
  }
}

PrefixIndex::~PrefixIndex() {
  // A node's destructor destroys its children: of a long sequence, deeper than a stack is.
  std::vector<std::unique_ptr<PrefixNode>> nodes;
  for (auto& [tenant, root] : roots_) nodes.push_back(std::move(root));
  while (!nodes.empty()) {
    const std::unique_ptr<PrefixNode> node = std::move(nodes.back());
    nodes.pop_back();
    while (!node->children.empty()) {
      nodes.push_back(std::move(node->children.extract(node->children.begin()).value()));
    }
  }
}

std::optional<core::BlockId> PrefixIndex::Allocate(size_t group) {
  if (pools_[group].free() == 0 && !Evict(group)) return std::nullopt;
  return pools_[group].Allocate();
}

bool PrefixIndex::Idle(size_t group, const PrefixNode& node) const {
  const core::BlockId block = node.blocks[group];
  return block != core::kNoBlock && pools_[group].owners(block) == 1;
}

void PrefixIndex::Reorder(size_t group, PrefixNode* node) {
  uint64_t& key = node->last_use[group];
  const bool evictable = Idle(group, *node) &&
                         (!full_attention(group) || (node->children.empty() && node->users == 0));
  if (evictable == evictable_[group].contains(key)) return;
  if (evictable) {
    evictable_[group].emplace(key, node);
  } else {
    evictable_[group].erase(key);
  }
}

void PrefixIndex::ReorderFullAttention(PrefixNode* node) {
  if (node->parent == nullptr) return;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (full_attention(g)) Reorder(g, node);
  }
}

void PrefixIndex::Share(size_t group, core::BlockId block) {
  PrefixNode* holder = holders_[group][static_cast<size_t>(block)];
  const bool was_idle = holder != nullptr && Idle(group, *holder);
  pools_[group].Share(block);
  if (!was_idle) return;
  --idle_[group];
  Reorder(group, holder);
}

void PrefixIndex::Release(size_t group, core::BlockId block) {
  PrefixNode* holder = holders_[group][static_cast<size_t>(block)];
  if (pools_[group].Release(block)) {
    TANDEM_CHECK(holder == nullptr, "a block of the prefix tree was released by another owner");
    return;
  }
  if (holder == nullptr || !Idle(group, *holder)) return;
  ++idle_[group];
  holder->last_use[group] = ++clock_;
  Reorder(group, holder);
}

void PrefixIndex::Forget(size_t group, core::BlockId block) {
  PrefixNode* holder = holders_[group][static_cast<size_t>(block)];
  Release(group, block);
  if (holder == nullptr || holder->kept || !Idle(group, *holder)) return;
  Drop(group, holder);
  RemoveIfEmpty(holder);
}

void PrefixIndex::Keep(size_t group, core::BlockId block) {
  PrefixNode* holder = holders_[group][static_cast<size_t>(block)];
  if (holder != nullptr) holder->kept = true;
}

void PrefixIndex::Hold(size_t group, PrefixNode* node, core::BlockId block) {
  if (block == core::kNoBlock) return;
  PrefixNode*& holder = holders_[group][static_cast<size_t>(block)];
  TANDEM_CHECK(holder == nullptr, "a block came into the prefix tree twice");
  pools_[group].Share(block);
  holder = node;
  node->blocks[group] = block;
}

void PrefixIndex::Drop(size_t group, PrefixNode* node) {
  const core::BlockId block = node->blocks[group];
  if (block == core::kNoBlock) return;
  if (Idle(group, *node)) --idle_[group];
  evictable_[group].erase(node->last_use[group]);
  node->blocks[group] = core::kNoBlock;
  holders_[group][static_cast<size_t>(block)] = nullptr;
  pools_[group].Release(block);
}

bool PrefixIndex::Evict(size_t group) {
  if (evictable_[group].empty()) return false;
  PrefixNode* node = evictable_[group].begin()->second;
  ++blocks_evicted_;
  if (full_attention(group) || node->tail()) {
    Remove(node);
  } else {
    Drop(group, node);
    RemoveIfEmpty(node);
  }
  return true;
}

void PrefixIndex::Clear() {
  for (size_t g = 0; g < groups_.size(); ++g) {
    while (Evict(g)) {
    }
  }
}

void PrefixIndex::RememberEvicted(const BlockHash& hash) {
  if (!evicted_.insert(hash).second) return;
  evicted_order_.push_back(hash);
  if (evicted_order_.size() <= most_remembered_) return;
  evicted_.erase(evicted_order_.front());
  evicted_order_.pop_front();
}

PrefixNode* PrefixIndex::Enter(uint64_t tenant) {
  std::unique_ptr<PrefixNode>& root = roots_[tenant];
  if (root == nullptr) {
    root = std::make_unique<PrefixNode>();
    root->hash = TenantHash(tenant);
    root->tenant = tenant;
  }
  ++root->users;
  return root.get();
}

void PrefixIndex::Leave(PrefixNode* place) {
  TANDEM_CHECK(place->users > 0, "a place in the prefix tree was left twice");
  --place->users;
  ReorderFullAttention(place);
  RemoveIfEmpty(place);
}

void PrefixIndex::RemoveIfEmpty(PrefixNode* node) {
  if (node->users > 0 || !node->children.empty()) return;
  if (node->parent == nullptr) {
    roots_.erase(node->tenant);
  } else if (node->empty()) {
    Remove(node);
  }
}

PrefixNode* PrefixIndex::Add(PrefixNode* parent, Tokens tokens,
                             std::span<const core::BlockId> blocks) {
  auto node = std::make_unique<PrefixNode>();
  node->parent = parent;
  node->tokens.assign(tokens.begin(), tokens.end());
  if (!node->tail()) node->hash = ChainHash(parent->hash, tokens);
  node->blocks.assign(groups_.size(), core::kNoBlock);
  node->last_use.assign(groups_.size(), 0);
  for (size_t g = 0; g < groups_.size(); ++g) Hold(g, node.get(), blocks[g]);
  ++nodes_;
  PrefixNode* added = node.get();
  parent->children.insert(std::move(node));
  ReorderFullAttention(parent);
  return added;
}

void PrefixIndex::Remove(PrefixNode* node) {
  // And those before it of which nothing is left: of a long sequence many.
  for (PrefixNode* parent = nullptr;; node = parent) {
    TANDEM_CHECK(node->users == 0 && node->children.empty(), "a node in use was removed");
    if (!node->tail()) RememberEvicted(node->hash);
    for (size_t g = 0; g < groups_.size(); ++g) Drop(g, node);
    parent = node->parent;
    parent->children.erase(parent->children.find(Tokens(node->tokens)));
    --nodes_;
    ReorderFullAttention(parent);
    if (parent->users > 0 || !parent->children.empty()) return;
    if (parent->parent == nullptr) {
      roots_.erase(parent->tenant);
      return;
    }
    if (!parent->empty()) return;
  }
}

void PrefixIndex::RemoveTailThatBegins(PrefixNode* parent, Tokens tokens) {
  // In lexicographic order nothing stands between them: it would begin with the tail as well.
  const auto after = parent->children.lower_bound(tokens);
  if (after == parent->children.begin()) return;
  PrefixNode* before = std::prev(after)->get();
  if (!BeginsWith(tokens, before->tokens)) return;
  Remove(before);
}

PrefixNode* PrefixIndex::Extend(PrefixNode* place, Tokens tokens, std::span<core::BlockId> blocks,
                                bool adopt) {
  TANDEM_CHECK(tokens.size() == kFull, "a block in the midst of a sequence is not full");
  const auto known = place->children.find(tokens);
  PrefixNode* node = known == place->children.end() ? nullptr : known->get();
  if (node != nullptr && !adopt) return nullptr;
  if (node == nullptr) {
    RemoveTailThatBegins(place, tokens);
    node = Add(place, tokens, blocks);
  }
  for (size_t g = 0; g < groups_.size(); ++g) {
    const core::BlockId theirs = node->blocks[g];
    if (blocks[g] == core::kNoBlock || blocks[g] == theirs) continue;
    if (theirs == core::kNoBlock) {
      Hold(g, node, blocks[g]);
    } else {
      Share(g, theirs);
      Release(g, blocks[g]);
      blocks[g] = theirs;
    }
  }
  ++node->users;
  ReorderFullAttention(node);
  Leave(place);
  return node;
}

void PrefixIndex::AddTail(PrefixNode* place, Tokens tokens, std::span<const core::BlockId> blocks) {
  TANDEM_CHECK(tokens.size() < kFull, "a tail is no full block");
  if (tokens.empty()) return;
  for (size_t g = 0; g < groups_.size(); ++g) {
    if (!groups_[g].states && blocks[g] == core::kNoBlock) return;
  }
  const auto after = place->children.lower_bound(tokens);
  if (after != place->children.end() && BeginsWith((*after)->tokens, tokens)) return;
  RemoveTailThatBegins(place, tokens);
  Add(place, tokens, blocks);
}

void PrefixIndex::FindPartial(const PrefixNode& parent, Tokens tokens, Path& path) const {
  // Of strings in lexicographic order, one of a string's two neighbours shares most with it.
  const auto after = parent.children.lower_bound(tokens);
  const auto consider = [&](PrefixNode* node) {
    const int32_t common = CommonPrefix(node->tokens, tokens);
    if (common <= path.partial_tokens) return;
    path.partial = node;
    path.partial_tokens = common;
  };
  if (after != parent.children.end()) consider(after->get());
  if (after != parent.children.begin()) consider(std::prev(after)->get());
}

PrefixIndex::Path PrefixIndex::FindPath(PrefixNode* root, Tokens tokens, int32_t most) const {
  Path path;
  path.root = root;
  path.deepest = root;
  while (path.full_tokens() + core::kPageTokens <= most) {
    const auto child = path.deepest->children.find(Block(tokens, path.nodes.size()));
    if (child == path.deepest->children.end()) break;
    path.nodes.push_back(child->get());
    path.deepest = child->get();
  }
  const auto rest = static_cast<size_t>(std::min(most - path.full_tokens(), core::kPageTokens));
  FindPartial(*path.deepest, tokens.subspan(path.nodes.size() * kFull, rest), path);
  CutToWindows(path);
  return path;
}

void PrefixIndex::CutToWindows(Path& path) const {
  // [layer groups][full blocks]: from which block on all are there, up to that many.
  const size_t known = path.nodes.size();
  std::vector<std::vector<int64_t>> run_begin(groups_.size(), std::vector<int64_t>(known + 1, 0));
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (size_t i = 0; i < known; ++i) {
      const bool gone =
          path.nodes[i]->blocks[g] == core::kNoBlock && groups_[g].Holds(static_cast<int64_t>(i));
      run_begin[g][i + 1] = gone ? static_cast<int64_t>(i) + 1 : run_begin[g][i];
    }
  }
  const auto usable = [&](size_t full, int32_t tokens, const PrefixNode* partial,
                          bool with_states = true) {
    for (size_t g = 0; g < groups_.size(); ++g) {
      if (groups_[g].states && !with_states) continue;
      const int64_t first = FirstSeenBlock(groups_[g], tokens);
      if (first < static_cast<int64_t>(full) && run_begin[g][full] > first) return false;
      const SeenGlobalBlocks global = GlobalBlocks(groups_[g], tokens);
      const auto end = std::min(full, static_cast<size_t>(global.end));
      if (global.begin < static_cast<int64_t>(end) && run_begin[g][end] > global.begin)
        return false;
      if (partial != nullptr && !groups_[g].states && partial->blocks[g] == core::kNoBlock) {
        return false;
      }
    }
    return true;
  };
  if (path.partial != nullptr && usable(known, path.tokens(), path.partial)) return;
  path.lacks_state = usable(known, path.tokens(), path.partial, /*with_states=*/false);
  path.cut = path.partial != nullptr;
  path.partial = nullptr;
  path.partial_tokens = 0;
  while (!usable(path.nodes.size(), path.full_tokens(), nullptr)) {
    path.nodes.pop_back();
    path.cut = true;
  }
}

MatchEnd PrefixIndex::EndOf(const Path& path, Tokens tokens, int32_t most) const {
  if (path.tokens() >= most) return MatchEnd::kAll;
  if (path.cut) return path.lacks_state ? MatchEnd::kNoState : MatchEnd::kEvicted;
  const auto next = static_cast<size_t>(path.full_tokens());
  if (next + kFull <= tokens.size() &&
      evicted_.contains(ChainHash(path.deepest->hash, tokens.subspan(next, kFull)))) {
    return MatchEnd::kEvicted;
  }
  return path.tokens() == 0 ? MatchEnd::kNothing : MatchEnd::kDiffers;
}

PrefixKnown PrefixIndex::Known(uint64_t tenant, Tokens tokens, int32_t most) const {
  const auto root = roots_.find(tenant);
  if (root == roots_.end()) return {.hash = TenantHash(tenant)};
  const Path path = FindPath(root->second.get(), tokens, most);
  return {.tokens = path.tokens(),
          .full_blocks = static_cast<int32_t>(path.nodes.size()),
          .hash = path.nodes.empty() ? path.root->hash : path.nodes.back()->hash};
}

const BlockHash& PrefixIndex::HashAt(const PrefixNode* place) { return place->hash; }

bool PrefixIndex::MarkSaved(PrefixNode* place) { return !std::exchange(place->saved, true); }

PrefixMatch PrefixIndex::Take(uint64_t tenant, Tokens tokens, int32_t most) {
  const Path path = FindPath(Enter(tenant), tokens, most);
  PrefixMatch match{.tokens = path.tokens(),
                    .end = EndOf(path, tokens, most),
                    .place = path.root,
                    .tables = {},
                    .copied = path.partial_tokens,
                    .copy_from = {}};
  for (size_t g = 0; g < groups_.size(); ++g) {
    std::vector<core::BlockId>& table =
        match.tables.emplace_back(path.nodes.size(), core::kNoBlock);
    for (size_t i = 0; i < table.size(); ++i) {
      if (!NeedsBlock(groups_[g], match.tokens, static_cast<int64_t>(i))) continue;
      table[i] = path.nodes[i]->blocks[g];
      Share(g, table[i]);
      ++blocks_taken_;
    }
    if (path.partial == nullptr) continue;
    // A state is there behind a whole block.
    match.copy_from.push_back(groups_[g].states ? core::kNoBlock : path.partial->blocks[g]);
    if (match.copy_from.back() != core::kNoBlock) {
      Share(g, match.copy_from.back());
      ++blocks_taken_;
    }
  }
  if (!path.nodes.empty()) {
    match.place = path.nodes.back();
    ++match.place->users;
    ReorderFullAttention(match.place);
    Leave(path.root);
  }
  return match;
}

void PrefixIndex::GiveBack(const PrefixMatch& match) {
  for (size_t g = 0; g < groups_.size(); ++g) {
    for (const core::BlockId block : match.tables[g]) {
      if (block == core::kNoBlock) continue;
      Release(g, block);
      --blocks_taken_;
    }
    if (match.copied == 0 || match.copy_from[g] == core::kNoBlock) continue;
    Release(g, match.copy_from[g]);
    --blocks_taken_;
  }
  Leave(match.place);
}

}  // namespace tandem::kv_store
