#include "frontend/client/repetition_watch.h"

#include <vector>

namespace tandem::frontend {
namespace {

constexpr size_t kLongest = 8192;  // bytes of all repetitions together
constexpr size_t kEvery = 32;      // new bytes between two looks

}  // namespace

bool RepetitionWatch::Append(std::string_view text) {
  end_ += text;
  unseen_ += text.size();
  if (unseen_ < kEvery) return false;
  unseen_ = 0;
  if (end_.size() > kLongest) end_.erase(0, end_.size() - kLongest);
  // Borders of what the text begins with, read from its end: the shortest period of the last i
  // bytes is i less the border (Knuth, Morris and Pratt 1977).
  const size_t size = end_.size();
  const auto at = [&](size_t i) { return end_[size - 1 - i]; };
  std::vector<size_t> borders(size + 1, 0);
  size_t border = 0;
  for (size_t i = 1; i < size; ++i) {
    while (border > 0 && at(i) != at(border)) border = borders[border];
    if (at(i) == at(border)) ++border;
    borders[i + 1] = border;
    const size_t length = i + 1;
    if (length >= kBytes && length >= kTimes * (length - border)) return true;
  }
  return false;
}

}  // namespace tandem::frontend
