#include "parallel/schedule/draft_index.h"

#include <algorithm>

namespace tandem::parallel {

void DraftIndex::Append(int32_t token) {
  const auto position = static_cast<int32_t>(tokens_.size());
  int32_t before = kNowhere;
  if (position > 0) {
    const uint64_t pair =
        uint64_t{static_cast<uint32_t>(tokens_.back())} << 32 | static_cast<uint32_t>(token);
    const auto [place, fresh] = latest_.try_emplace(pair, position);
    if (!fresh) before = std::exchange(place->second, position);
  }
  tokens_.push_back(token);
  previous_.push_back(before);
}

int32_t DraftIndex::MatchLength(int32_t position) const {
  const auto end = static_cast<int32_t>(tokens_.size()) - 1;
  int32_t length = 0;
  while (length < kLongestMatch && length <= position &&
         tokens_[static_cast<size_t>(position - length)] ==
             tokens_[static_cast<size_t>(end - length)]) {
    ++length;
  }
  return length;
}

DraftIndex::Match DraftIndex::Find() const {
  Match best;
  if (tokens_.empty()) return best;
  int32_t place = previous_.back();
  for (int i = 0; i < kMostCandidates && place != kNowhere; ++i) {
    const int32_t length = MatchLength(place);
    if (length > best.length) best = {.next = place + 1, .length = length};
    if (length == kLongestMatch) break;
    place = previous_[static_cast<size_t>(place)];
  }
  return best;
}

std::vector<int32_t> DraftIndex::Continue(const Match& match, int32_t count) const {
  std::vector<int32_t> tokens;
  const auto known = static_cast<int32_t>(tokens_.size());
  for (int32_t at = match.next; at < match.next + count; ++at) {
    tokens.push_back(at < known ? tokens_[static_cast<size_t>(at)]
                                : tokens[static_cast<size_t>(at - known)]);
  }
  return tokens;
}

}  // namespace tandem::parallel
