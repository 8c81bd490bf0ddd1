#include "frontend/jinja/values/text.h"

#include <algorithm>
#include <cstring>

namespace tandem::frontend::jinja {

bool Text::TrustedAt(size_t offset) const {
  const auto flips = std::upper_bound(edges_.begin(), edges_.end(), offset) - edges_.begin();
  return first_trusted_ != (flips % 2 == 1);
}

void Text::Append(std::string_view bytes, bool trusted) {
  if (bytes.empty()) return;
  if (bytes_.empty()) {
    first_trusted_ = trusted;
  } else if (LastTrusted() != trusted) {
    edges_.push_back(bytes_.size());
  }
  bytes_.append(bytes);
  code_points_.reset();
}

void Text::Append(const Text& other, size_t begin, size_t end) {
  auto edge = std::upper_bound(other.edges_.begin(), other.edges_.end(), begin);
  bool trusted = other.first_trusted_ != ((edge - other.edges_.begin()) % 2 == 1);
  const std::string_view bytes = other.bytes_;
  while (begin < end) {
    const size_t stop = edge == other.edges_.end() ? end : std::min(*edge++, end);
    Append(bytes.substr(begin, stop - begin), trusted);
    trusted = !trusted;
    begin = stop;
  }
}

size_t Text::CodePoints() const {
  if (!code_points_) code_points_ = CountCodePoints(bytes_);
  return *code_points_;
}

size_t Text::OffsetOf(size_t code_point) const {
  if (!HasLongCodePoints()) return code_point;
  size_t offset = 0;
  for (size_t passed = 0; passed < code_point; ++passed) offset += DecodeAt(bytes_, offset).length;
  return offset;
}

Text Text::Slice(size_t begin, size_t end) const {
  Text result;
  result.Append(*this, begin, end);
  return result;
}

std::vector<TextRun> Text::Runs() const {
  std::vector<TextRun> runs;
  bool trusted = first_trusted_;
  size_t begin = 0;
  for (size_t run = 0; run <= edges_.size(); ++run) {
    const size_t end = run < edges_.size() ? edges_[run] : bytes_.size();
    if (end > begin) {
      runs.push_back({bytes_.substr(begin, end - begin), trusted});
    }
    trusted = !trusted;
    begin = end;
  }
  return runs;
}

CodePoint DecodeAt(std::string_view text, size_t offset) {
  const auto byte = [&](size_t index) { return static_cast<unsigned char>(text[offset + index]); };
  const unsigned char lead = byte(0);
  if (lead < 0x80) {
    return {lead, 1};
  }
  const CodePoint invalid{char32_t{0xDC00} + lead, 1};
  const size_t length = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : 2;
  if (lead < 0xC2 || lead > 0xF4 || text.size() - offset < length) return invalid;
  char32_t value = lead & (0xFF >> (length + 1));
  for (size_t index = 1; index < length; ++index) {
    if ((byte(index) & 0xC0) != 0x80) return invalid;
    value = value << 6 | (byte(index) & 0x3F);
  }
  const bool overlong = (length == 3 && value < 0x800) || (length == 4 && value < 0x10000);
  const bool surrogate = value >= 0xD800 && value <= 0xDFFF;
  if (overlong || surrogate || value > 0x10FFFF) return invalid;
  return {value, length};
}

void AppendUtf8(std::string& out, char32_t value) {
  if (value < 0x80) {
    out.push_back(static_cast<char>(value));
  } else if (value < 0x800) {
    out.push_back(static_cast<char>(0xC0 | value >> 6));
    out.push_back(static_cast<char>(0x80 | (value & 0x3F)));
  } else if (value >= 0xDC80 && value <= 0xDCFF) {
    out.push_back(static_cast<char>(value & 0xFF));
  } else if (value < 0x10000) {
    out.push_back(static_cast<char>(0xE0 | value >> 12));
    out.push_back(static_cast<char>(0x80 | (value >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (value & 0x3F)));
  } else {
    out.push_back(static_cast<char>(0xF0 | value >> 18));
    out.push_back(static_cast<char>(0x80 | (value >> 12 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (value >> 6 & 0x3F)));
    out.push_back(static_cast<char>(0x80 | (value & 0x3F)));
  }
}

std::vector<size_t> CodePointOffsets(std::string_view text) {
  std::vector<size_t> offsets;
  offsets.reserve(text.size() + 1);
  for (size_t offset = 0; offset < text.size(); offset += DecodeAt(text, offset).length) {
    offsets.push_back(offset);
  }
  offsets.push_back(text.size());
  return offsets;
}

size_t CountCodePoints(std::string_view text) {
  constexpr size_t kWord = sizeof(uint64_t);
  constexpr uint64_t kHighBits = 0x8080808080808080;
  size_t count = 0;
  for (size_t offset = 0; offset < text.size();) {
    uint64_t word = kHighBits;
    if (offset + kWord <= text.size()) std::memcpy(&word, text.data() + offset, kWord);
    const bool ascii = (word & kHighBits) == 0;
    offset += ascii ? kWord : DecodeAt(text, offset).length;
    count += ascii ? kWord : 1;
  }
  return count;
}

}  // namespace tandem::frontend::jinja
