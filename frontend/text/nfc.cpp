#include "frontend/text/nfc.h"

#include <utf8proc.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <vector>

#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

constexpr size_t kLongestDecomposition = 8;  // canonical ones have at most 4 code points

/// True if no character of the text can change: all below U+0300 are their own form.
bool IsPlainlyNormal(std::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return static_cast<uint8_t>(c) < 0xCC; });
}

int CombiningClass(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

}  // namespace

std::string NormalizeNfc(std::string_view text) {
  if (IsPlainlyNormal(text)) return std::string(text);
  std::vector<utf8proc_int32_t> points;
  points.reserve(text.size());
  const auto* bytes = reinterpret_cast<const utf8proc_uint8_t*>(text.data());
  for (size_t at = 0; at < text.size();) {
    utf8proc_int32_t point = 0;
    at += static_cast<size_t>(
        utf8proc_iterate(bytes + at, static_cast<utf8proc_ssize_t>(text.size() - at), &point));
    std::array<utf8proc_int32_t, kLongestDecomposition> parts{};
    const utf8proc_ssize_t count =
        utf8proc_decompose_char(point, parts.data(), parts.size(), UTF8PROC_DECOMPOSE, nullptr);
    points.insert(points.end(), parts.begin(), parts.begin() + count);
  }
  // utf8proc's own ordering of combining marks is quadratic in the length of a run of them.
  for (auto begin = points.begin(); begin != points.end();) {
    begin =
        std::find_if(begin, points.end(), [](auto point) { return CombiningClass(point) != 0; });
    const auto end =
        std::find_if(begin, points.end(), [](auto point) { return CombiningClass(point) == 0; });
    std::stable_sort(begin, end,
                     [](auto a, auto b) { return CombiningClass(a) < CombiningClass(b); });
    begin = end;
  }
  const utf8proc_ssize_t length =
      utf8proc_normalize_utf32(points.data(), static_cast<utf8proc_ssize_t>(points.size()),
                               static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  std::string normal;
  normal.reserve(text.size());
  for (utf8proc_ssize_t i = 0; i < length; ++i) {
    AppendUtf8(static_cast<char32_t>(points[static_cast<size_t>(i)]), normal);
  }
  return normal;
}

}  // namespace tandem::frontend
