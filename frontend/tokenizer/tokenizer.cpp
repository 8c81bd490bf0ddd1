#include "frontend/tokenizer/tokenizer.h"

#include <utility>

#include "frontend/text/utf8.h"

namespace tandem::frontend {

std::string Tokenizer::PrepareText(std::string_view text) const { return ReplaceInvalidUtf8(text); }

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       const EncodeOptions& options) const {
  SplitText split;
  split.text = PrepareText(text);
  if (options.special) split.trusted.push_back({0, split.text.size()});
  std::vector<int32_t> ids;
  if (options.bos && vocabulary_.add_bos()) ids.push_back(*vocabulary_.bos());
  TANDEM_RETURN_IF_ERROR(EncodeSplit(split, ids));
  return ids;
}

SplitText Tokenizer::Prepare(std::span<const TextSegment> segments) const {
  SplitText split;
  for (const TextSegment& segment : segments) {
    const size_t begin = split.text.size();
    // Segment by segment, so that bytes of two origins never make one character.
    split.text += PrepareText(segment.text);
    const size_t end = split.text.size();
    if (!segment.from_template || begin == end) continue;
    if (!split.trusted.empty() && split.trusted.back().end == begin) {
      split.trusted.back().end = end;
    } else {
      split.trusted.push_back({begin, end});
    }
  }
  return split;
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::EncodeSegments(
    std::span<const TextSegment> segments) const {
  std::vector<int32_t> ids;
  TANDEM_RETURN_IF_ERROR(EncodeSplit(Prepare(segments), ids));
  if (vocabulary_.add_bos() && (ids.empty() || ids.front() != *vocabulary_.bos())) {
    ids.insert(ids.begin(), *vocabulary_.bos());
  }
  return ids;
}

absl::StatusOr<std::optional<std::vector<int32_t>>> Tokenizer::EncodeContinuation(
    std::span<const TextSegment> segments) const {
  const SplitText split = Prepare(segments);
  std::vector<int32_t> ids;
  bool begins_with_text = false;
  TANDEM_RETURN_IF_ERROR(splitter_.Split(
      split,
      [&](std::string_view part) {
        begins_with_text = begins_with_text || ids.empty();
        return EncodeText(part, ids);
      },
      [&](int32_t id) { ids.push_back(id); }));
  if (begins_with_text && adds_leading_space()) return std::nullopt;
  return ids;
}

absl::Status Tokenizer::EncodeSplit(const SplitText& text, std::vector<int32_t>& ids) const {
  return splitter_.Split(
      text, [&](std::string_view part) { return EncodeText(part, ids); },
      [&](int32_t id) { ids.push_back(id); });
}

}  // namespace tandem::frontend
