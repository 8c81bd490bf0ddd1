#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Strings of the template language: bytes that remember who wrote them.
namespace tandem::frontend::jinja {

/// A run of bytes of one origin.
struct TextRun {
  std::string bytes;
  bool trusted = false;
};

/// A UTF-8 string whose bytes each come either from the template (trusted) or from a client's data.
///
/// Origins are kept as runs beside the bytes and survive concatenation, slicing, stripping,
/// replacing and case mapping. A value type; distinct objects may be used from distinct threads,
/// one from one thread only.
class Text {
 public:
  Text() = default;
  Text(std::string bytes, bool trusted) : bytes_(std::move(bytes)), first_trusted_(trusted) {}

  const std::string& bytes() const { return bytes_; }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  /// Number of code points, as Python's len() counts. Counted once.
  size_t CodePoints() const;
  /// The byte at which a code point begins, at most CodePoints(); size() for that. Where each takes
  /// a byte, as in ASCII, nothing is walked over.
  size_t OffsetOf(size_t code_point) const;
  /// Whether OffsetOf walks.
  bool HasLongCodePoints() const { return CodePoints() != size(); }
  /// Bytes of memory that the contents take.
  size_t MemoryBytes() const { return bytes_.size() + edges_.size() * sizeof(size_t); }

  /// Whether the byte at `offset` (below size()) was written by the template.
  bool TrustedAt(size_t offset) const;

  /// Whether no byte comes from a client. True for an empty text.
  bool AllTrusted() const { return empty() || (first_trusted_ && edges_.empty()); }

  void Append(std::string_view bytes, bool trusted);
  void Append(const Text& other) { Append(other, 0, other.size()); }
  /// Appends the bytes [begin, end) of `other` (which is another object) with their origins.
  void Append(const Text& other, size_t begin, size_t end);

  /// The bytes [begin, end) with their origins.
  Text Slice(size_t begin, size_t end) const;

  /// The text as maximal runs of one origin; no run is empty.
  std::vector<TextRun> Runs() const;

 private:
  bool LastTrusted() const { return first_trusted_ != (edges_.size() % 2 == 1); }

  std::string bytes_;
  bool first_trusted_ = false;
  std::vector<size_t> edges_;  // ascending offsets at which the origin flips
  mutable std::optional<size_t> code_points_;
};

/// One code point of a UTF-8 string. A byte that is not part of valid UTF-8 counts as one code
/// point of its own, 0xDC00 plus the byte (a lone surrogate, which valid text never holds).
struct CodePoint {
  char32_t value = 0;
  size_t length = 0;  // bytes
};

/// Decodes the code point that starts at `offset`, which is below text.size().
CodePoint DecodeAt(std::string_view text, size_t offset);

/// Whether it is such a byte.
inline bool IsInvalidByte(const CodePoint& point) {
  return point.value >= 0xDC80 && point.value <= 0xDCFF;
}

/// Appends the UTF-8 form of `value`; what DecodeAt made of an invalid byte becomes that byte
/// again.
void AppendUtf8(std::string& out, char32_t value);

/// Byte offsets of all code points, and text.size() as the last element.
std::vector<size_t> CodePointOffsets(std::string_view text);

/// Number of code points, as Python's len() counts.
size_t CountCodePoints(std::string_view text);

}  // namespace tandem::frontend::jinja
