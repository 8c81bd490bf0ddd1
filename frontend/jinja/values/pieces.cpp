#include "frontend/jinja/values/pieces.h"

#include <algorithm>

#include "frontend/jinja/values/search.h"
#include "frontend/jinja/values/text.h"
#include "frontend/jinja/values/unicode.h"

namespace tandem::frontend::jinja {

std::vector<Piece> SplitAtSpace(std::string_view bytes, int64_t most, bool from_right) {
  std::vector<Piece> pieces;
  if (from_right) {
    size_t end = SkipSpaceBack(bytes, 0, bytes.size());
    while (end > 0) {
      size_t begin = 0;
      if (most-- != 0) {
        begin = end;
        // Walks back over a word, one code point at a time.
        while (begin > 0 && SkipSpaceBack(bytes, 0, begin) == begin) {
          --begin;
          while (begin > 0 && (static_cast<unsigned char>(bytes[begin]) & 0xC0) == 0x80) {
            --begin;
          }
        }
      }
      pieces.push_back({begin, end});
      end = SkipSpaceBack(bytes, 0, begin);
    }
    std::reverse(pieces.begin(), pieces.end());
    return pieces;
  }
  size_t begin = SkipSpace(bytes, 0, bytes.size());
  while (begin < bytes.size()) {
    size_t end = begin;
    if (most-- == 0) end = bytes.size();
    while (end < bytes.size() && !IsSpace(DecodeAt(bytes, end).value)) {
      end += DecodeAt(bytes, end).length;
    }
    pieces.push_back({begin, end});
    begin = SkipSpace(bytes, end, bytes.size());
  }
  return pieces;
}

absl::StatusOr<std::vector<Piece>> SplitAtText(Sandbox& sandbox, std::string_view bytes,
                                               std::string_view separator, int64_t most,
                                               bool from_right) {
  TANDEM_ASSIGN_OR_RETURN(const TextSearch search,
                          TextSearch::Make(sandbox, separator, bytes.size()));
  std::vector<Piece> pieces;
  if (from_right) {
    size_t end = bytes.size();
    while (most-- != 0) {
      const size_t found = search.Last(bytes, end);
      if (found == TextSearch::kNone) break;
      pieces.push_back({found + separator.size(), end});
      end = found;
    }
    pieces.push_back({0, end});
    std::reverse(pieces.begin(), pieces.end());
    return pieces;
  }
  size_t begin = 0;
  while (most-- != 0) {
    const size_t found = search.First(bytes, begin);
    if (found == TextSearch::kNone) break;
    pieces.push_back({begin, found});
    begin = found + separator.size();
  }
  pieces.push_back({begin, bytes.size()});
  return pieces;
}

std::vector<Piece> SplitLines(std::string_view bytes, bool keep_ends) {
  std::vector<Piece> lines;
  size_t begin = 0;
  size_t offset = 0;
  while (offset < bytes.size()) {
    const CodePoint point = DecodeAt(bytes, offset);
    size_t end = offset + point.length;
    if (IsLineBreak(point.value)) {
      end += point.value == '\r' && end < bytes.size() && bytes[end] == '\n';
      lines.push_back({begin, keep_ends ? end : offset});
      begin = end;
    }
    offset = end;
  }
  if (begin < bytes.size()) {
    lines.push_back({begin, bytes.size()});
  }
  return lines;
}

}  // namespace tandem::frontend::jinja
