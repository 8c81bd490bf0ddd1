#include "frontend/jinja/values/search.h"

namespace tandem::frontend::jinja {
namespace {

constexpr size_t kShort = 16;  // bytes
constexpr size_t kBytesOfAStep = 8;

/// at(i): the i-th byte of `size`, in the direction of the search.
template <typename At>
std::vector<size_t> Borders(size_t size, At at) {
  std::vector<size_t> borders(size + 1, 0);
  size_t length = 0;
  for (size_t i = 1; i < size; ++i) {
    while (length > 0 && at(i) != at(length)) length = borders[length];
    if (at(i) == at(length)) ++length;
    borders[i + 1] = length;
  }
  return borders;
}

/// How many bytes of `size` have gone by when the text has just been there; kNone: it is not.
template <typename At, typename Wanted>
size_t EndOfMatch(size_t size, At at, size_t wanted_size, Wanted wanted,
                  const std::vector<size_t>& borders) {
  size_t length = 0;
  for (size_t i = 0; i < size; ++i) {
    while (length > 0 && at(i) != wanted(length)) length = borders[length];
    if (at(i) == wanted(length)) ++length;
    if (length == wanted_size) return i + 1;
  }
  return TextSearch::kNone;
}

}  // namespace

absl::StatusOr<TextSearch> TextSearch::Make(Sandbox& sandbox, std::string_view wanted,
                                            size_t searched) {
  TANDEM_RETURN_IF_ERROR(
      sandbox.Charge(static_cast<int64_t>((searched + wanted.size()) / kBytesOfAStep)));
  TextSearch search(wanted);
  const size_t size = wanted.size();
  if (size > kShort && size <= searched) {
    search.forward_ = Borders(size, [&](size_t i) { return wanted[i]; });
    search.backward_ = Borders(size, [&](size_t i) { return wanted[size - 1 - i]; });
  }
  return search;
}

size_t TextSearch::First(std::string_view text, size_t from) const {
  if (forward_.empty()) return text.find(wanted_, from);
  if (from > text.size()) return kNone;
  const size_t end = EndOfMatch(
      text.size() - from, [&](size_t i) { return text[from + i]; }, wanted_.size(),
      [&](size_t i) { return wanted_[i]; }, forward_);
  return end == kNone ? kNone : from + end - wanted_.size();
}

size_t TextSearch::Last(std::string_view text, size_t end) const {
  const size_t size = wanted_.size();
  if (end < size) return kNone;
  if (backward_.empty()) return text.rfind(wanted_, end - size);
  const size_t passed = EndOfMatch(
      end, [&](size_t i) { return text[end - 1 - i]; }, size,
      [&](size_t i) { return wanted_[size - 1 - i]; }, backward_);
  return passed == kNone ? kNone : end - passed;
}

}  // namespace tandem::frontend::jinja
