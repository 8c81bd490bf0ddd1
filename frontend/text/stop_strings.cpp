#include "frontend/text/stop_strings.h"

#include <algorithm>
#include <utility>

namespace tandem::frontend {
namespace {

/// Length of the longest end of `text` that is a proper prefix of `stop`.
size_t OpenPrefix(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.substr(text.size() - length) == stop.substr(0, length)) return length;
  }
  return 0;
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> strings) : strings_(std::move(strings)) {
  std::erase_if(strings_, [](const std::string& stop) { return stop.empty(); });
}

std::string StopStrings::Push(std::string_view text, bool may_end) {
  if (matched() || text.empty()) return "";
  const size_t before = held_.size();
  held_ += text;
  // The string that is complete first counts (the longest of several), as if the text had come byte
  // by byte: what is delivered must not depend on where its tokens end.
  constexpr size_t kNone = std::string::npos;
  size_t first_end = kNone;
  size_t first_begin = kNone;
  const std::string* first = nullptr;
  for (const std::string& stop : strings_) {
    if (!may_end) break;
    // One that was complete before this text did not count then.
    const size_t from = before < stop.size() ? 0 : before - stop.size() + 1;
    const size_t begin = held_.find(stop, from);
    if (begin == kNone) continue;
    const size_t end = begin + stop.size();
    if (end < first_end || (end == first_end && begin < first_begin)) {
      first_end = end;
      first_begin = begin;
      first = &stop;
    }
  }
  if (first != nullptr) {
    matched_ = *first;
    held_.resize(first_begin);
    return std::exchange(held_, "");
  }
  size_t open = 0;
  for (const std::string& stop : strings_) open = std::max(open, OpenPrefix(held_, stop));
  std::string ready = held_.substr(0, held_.size() - open);
  held_.erase(0, ready.size());
  return ready;
}

std::string StopStrings::Finish() { return std::exchange(held_, ""); }

}  // namespace tandem::frontend
