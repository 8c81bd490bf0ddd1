#include "core/model/attention_form.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

#include "core/base/check.h"
#include "core/base/philox.h"

namespace tandem::core {
namespace {

constexpr std::string_view kDense = "dense";
constexpr std::string_view kSparse = "sparse:";
constexpr uint64_t kMostTokens = std::numeric_limits<int>::max();

/// One key of the text, and the numbers that it takes.
struct Key {
  std::string_view name;
  uint64_t least;
  uint64_t most;
};
constexpr Key kKeys[] = {{"window", 1, kMostTokens},
                         {"global", 0, kMostTokens},
                         {"random", 0, kMostTokens},
                         {"seed", 0, std::numeric_limits<uint64_t>::max()}};
constexpr size_t kKeyCount = std::size(kKeys);

class Parser {
 public:
  explicit Parser(std::string_view text) : text_(text) {}

  absl::StatusOr<AttentionForm> Parse() {
    if (text_ == kDense) return AttentionForm{};
    if (!text_.starts_with(kSparse)) return Error(0, "expected dense or sparse:");
    at_ = kSparse.size();
    for (;;) {
      TANDEM_RETURN_IF_ERROR(ReadKey());
      if (at_ == text_.size()) break;
      if (text_[at_] != ',') return Error(at_, "expected a comma or the end");
      ++at_;
    }
    if (!read_[0]) return Error(at_, "window=W is missing");
    AttentionForm form{.window = static_cast<int>(values_[0]),
                       .global = static_cast<int>(values_[1]),
                       .random = static_cast<int>(values_[2]),
                       .seed = values_[3]};
    if (form.random == 0) form.seed = 0;
    return form;
  }

 private:
  absl::Status ReadKey() {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] != '=' && text_[at_] != ',') ++at_;
    const std::string_view name = text_.substr(begin, at_ - begin);
    const auto* const key = std::ranges::find(kKeys, name, &Key::name);
    if (key == std::end(kKeys)) {
      return Error(begin, "expected window, global, random or seed");
    }
    const auto index = static_cast<size_t>(key - std::begin(kKeys));
    if (read_[index]) return Error(begin, fmt::format("{} is there twice", name));
    if (at_ == text_.size() || text_[at_] != '=') return Error(at_, "expected =");
    ++at_;
    read_[index] = true;
    return ReadNumber(*key, values_[index]);
  }

  absl::Status ReadNumber(const Key& key, uint64_t& value) {
    const size_t begin = at_;
    while (at_ < text_.size() && text_[at_] >= '0' && text_[at_] <= '9') ++at_;
    if (at_ == begin) return Error(begin, fmt::format("expected the number of {}", key.name));
    const auto read = std::from_chars(text_.data() + begin, text_.data() + at_, value);
    if (read.ec != std::errc() || value < key.least || value > key.most) {
      return Error(begin, fmt::format("{} is {} to {}", key.name, key.least, key.most));
    }
    return absl::OkStatus();
  }

  absl::Status Error(size_t place, std::string_view what) const {
    const std::string_view rest = text_.substr(place);
    return InvalidArgument("{} at character {}{}: {}; the form is {}", text_, place + 1,
                           rest.empty() ? " (the end)" : fmt::format(" (\"{}\")", rest), what,
                           kAttentionGrammar);
  }

  const std::string_view text_;
  size_t at_ = 0;
  std::array<bool, kKeyCount> read_{};
  std::array<uint64_t, kKeyCount> values_{};
};

int64_t CeilDivide(int64_t a, int64_t b) { return (a + b - 1) / b; }

/// Bits of [begin, end) in the 64 from `start` on.
uint64_t BitsOf(int64_t begin, int64_t end, int64_t start) {
  const int64_t from = std::clamp<int64_t>(begin - start, 0, kPageTokens);
  const int64_t to = std::clamp<int64_t>(end - start, 0, kPageTokens);
  return from >= to ? 0 : ~uint64_t{0} >> (kPageTokens - (to - from)) << from;
}

uint64_t Score(const AttentionForm& form, int layer, int64_t query_block, int64_t block) {
  const std::array<uint32_t, 4> words =
      Philox4x32({static_cast<uint32_t>(block), static_cast<uint32_t>(query_block),
                  static_cast<uint32_t>(layer), 0},
                 {static_cast<uint32_t>(form.seed), static_cast<uint32_t>(form.seed >> 32)});
  return uint64_t{words[1]} << 32 | words[0];
}

uint64_t KeyOf(int layer, int64_t query_block) {
  return uint64_t{static_cast<uint32_t>(layer)} << 32 | static_cast<uint32_t>(query_block);
}

}  // namespace

absl::StatusOr<AttentionForm> ParseAttentionForm(std::string_view text) {
  return Parser(text).Parse();
}

std::string AttentionText(const AttentionForm& form) {
  if (!form.sparse()) return std::string(kDense);
  std::string text = fmt::format("{}window={}", kSparse, form.window);
  if (form.global > 0) text += fmt::format(",global={}", form.global);
  if (form.random > 0) text += fmt::format(",random={}", form.random);
  if (form.random > 0 && form.seed > 0) text += fmt::format(",seed={}", form.seed);
  return text;
}

std::vector<int32_t> ChosenBlocks(const AttentionForm& form, int layer, int64_t query_block) {
  std::vector<int32_t> chosen;
  if (form.random == 0) return chosen;
  const int64_t begin = CeilDivide(form.global, kPageTokens);
  const int64_t reach = kPageTokens * query_block - form.window + 1;
  const int64_t end = reach < 0 ? 0 : reach / kPageTokens;
  if (end - begin <= form.random) {
    for (int64_t block = begin; block < end; ++block) chosen.push_back(static_cast<int32_t>(block));
    return chosen;
  }
  std::vector<std::pair<uint64_t, int32_t>> scored;
  for (int64_t block = begin; block < end; ++block) {
    scored.emplace_back(Score(form, layer, query_block, block), static_cast<int32_t>(block));
  }
  std::nth_element(scored.begin(), scored.begin() + form.random, scored.end());
  for (int i = 0; i < form.random; ++i) chosen.push_back(scored[static_cast<size_t>(i)].second);
  std::sort(chosen.begin(), chosen.end());
  return chosen;
}

void BlockChoices::Begin() {
  constexpr size_t kMostKept = size_t{4} << 20;
  if (kept_ + chosen_.size() <= kMostKept) return;
  chosen_.clear();
  kept_ = 0;
}

void BlockChoices::Prepare(int layer, int64_t first, int64_t last) {
  if (form_.random == 0) return;
  for (int64_t block = first / kPageTokens; block <= last / kPageTokens; ++block) {
    const auto [place, added] = chosen_.try_emplace(KeyOf(layer, block));
    if (!added) continue;
    place->second = ChosenBlocks(form_, layer, block);
    kept_ += place->second.size();
  }
}

std::span<const int32_t> BlockChoices::Of(int layer, int64_t query_block) const {
  if (form_.random == 0) return {};
  const auto found = chosen_.find(KeyOf(layer, query_block));
  TANDEM_CHECK(found != chosen_.end(), "no blocks were chosen for a query");
  return found->second;
}

SparseSight SparseSight::Of(const AttentionForm& form, int layer_window, int64_t position,
                            std::span<const int32_t> chosen) {
  return {.position = position,
          .first = layer_window == 0 ? 0 : std::max<int64_t>(0, position - layer_window + 1),
          .global = form.global,
          .diagonal = std::max<int64_t>(0, position - form.window + 1),
          .chosen = chosen};
}

uint64_t SparseSight::OfBlock(int64_t block) const {
  const int64_t start = block * kPageTokens;
  const uint64_t allowed = BitsOf(first, position + 1, start);
  if (allowed == 0) return 0;
  if (std::binary_search(chosen.begin(), chosen.end(), static_cast<int32_t>(block))) return allowed;
  return allowed & (BitsOf(0, global, start) | BitsOf(diagonal, position + 1, start));
}

bool SparseSight::SeesChunk(int64_t chunk) const {
  constexpr int64_t kPages = kChunkTokens / kPageTokens;
  for (int64_t page = chunk * kPages; page < (chunk + 1) * kPages; ++page) {
    if (OfBlock(page) != 0) return true;
  }
  return false;
}

void SparseSight::AppendChunks(std::vector<int32_t>& chunks) const {
  const auto chunk_of = [](int64_t key) { return static_cast<int32_t>(key / kChunkTokens); };
  int32_t next = chunk_of(first);  // the lowest chunk that may still come
  const auto append = [&](int32_t begin, int32_t last) {
    for (int32_t chunk = std::max(begin, next); chunk <= last; ++chunk) chunks.push_back(chunk);
    next = std::max(next, last + 1);
  };
  const int64_t global_last = std::min(global, position + 1) - 1;
  if (global_last >= first) append(chunk_of(first), chunk_of(global_last));
  for (const int32_t block : chosen) {
    const int64_t start = int64_t{block} * kPageTokens;
    if (start + kPageTokens > first) append(chunk_of(start), chunk_of(start));
  }
  append(chunk_of(std::max(first, diagonal)), chunk_of(position));
}

}  // namespace tandem::core
