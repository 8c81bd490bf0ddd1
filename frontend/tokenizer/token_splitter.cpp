#include "frontend/tokenizer/token_splitter.h"

#include <algorithm>

namespace tandem::frontend {

TokenSplitter::TokenSplitter(const Vocabulary& vocabulary,
                             absl::FunctionRef<std::string(int32_t id)> spelling) {
  for (int32_t id = 0; id < vocabulary.size(); ++id) {
    const bool control = vocabulary.IsControl(id);
    if (!control && vocabulary.type(id) != TokenType::kUserDefined) continue;
    if (vocabulary.text(id).empty()) continue;
    entries_.push_back({spelling(id), id, control});
  }
  std::sort(entries_.begin(), entries_.end(), [](const Entry& a, const Entry& b) {
    return a.spelling != b.spelling ? a.spelling < b.spelling : a.id < b.id;
  });
  const auto same = [](const Entry& a, const Entry& b) { return a.spelling == b.spelling; };
  entries_.erase(std::unique(entries_.begin(), entries_.end(), same), entries_.end());

  first_of_byte_.assign(257, 0);
  for (const Entry& entry : entries_) {
    ++first_of_byte_[static_cast<uint8_t>(entry.spelling[0]) + size_t{1}];
  }
  for (size_t byte = 0; byte < 256; ++byte) first_of_byte_[byte + 1] += first_of_byte_[byte];
}

TokenSplitter::Match TokenSplitter::Longest(std::string_view rest, size_t trusted) const {
  const auto first = static_cast<uint8_t>(rest[0]);
  auto begin = entries_.begin() + static_cast<ptrdiff_t>(first_of_byte_[first]);
  auto end = entries_.begin() + static_cast<ptrdiff_t>(first_of_byte_[first + size_t{1}]);
  Match best;
  // Entries in [begin, end) share their first `length` bytes with the text; the shortest of them
  // stands first.
  for (size_t length = 1; begin != end; ++length) {
    if (begin->spelling.size() == length) {
      if (!begin->control || length <= trusted) best = {begin->id, length};
      ++begin;
    }
    if (length == rest.size()) break;
    const auto next = static_cast<uint8_t>(rest[length]);
    const auto byte_at = [length](const Entry& entry) {
      return static_cast<uint8_t>(entry.spelling[length]);
    };
    begin = std::partition_point(begin, end, [&](const Entry& e) { return byte_at(e) < next; });
    end = std::partition_point(begin, end, [&](const Entry& e) { return byte_at(e) <= next; });
  }
  return best;
}

absl::Status TokenSplitter::Split(const SplitText& text,
                                  absl::FunctionRef<absl::Status(std::string_view)> on_text,
                                  absl::FunctionRef<void(int32_t id)> on_token) const {
  const std::string_view whole = text.text;
  size_t pending = 0;  // start of the text not yet given out
  auto range = text.trusted.begin();
  size_t at = 0;
  while (at < whole.size()) {
    while (range != text.trusted.end() && range->end <= at) ++range;
    const size_t trusted =
        range != text.trusted.end() && range->begin <= at ? range->end - at : size_t{0};
    const Match match = Longest(whole.substr(at), trusted);
    if (match.length == 0) {
      ++at;
      continue;
    }
    if (at > pending) TANDEM_RETURN_IF_ERROR(on_text(whole.substr(pending, at - pending)));
    on_token(match.id);
    at += match.length;
    pending = at;
  }
  if (at > pending) TANDEM_RETURN_IF_ERROR(on_text(whole.substr(pending)));
  return absl::OkStatus();
}

}  // namespace tandem::frontend
