#include "frontend/jinja/values/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <iterator>
#include <string>

namespace tandem::frontend::jinja {
namespace {

struct CaseExpansion {
  char32_t from;
  const char* to;
};

// Code points whose upper case is longer than one code point (SpecialCasing.txt), ascending,
// except those of UpperWithIota.
constexpr CaseExpansion kUpperExpansions[] = {
    {0x00DF, "SS"},
    {0x0149, "\u02BCN"},
    {0x01F0, "J\u030C"},
    {0x0390, "\u0399\u0308\u0301"},
    {0x03B0, "\u03A5\u0308\u0301"},
    {0x0587, "\u0535\u0552"},
    {0x1E96, "H\u0331"},
    {0x1E97, "T\u0308"},
    {0x1E98, "W\u030A"},
    {0x1E99, "Y\u030A"},
    {0x1E9A, "A\u02BE"},
    {0x1F50, "\u03A5\u0313"},
    {0x1F52, "\u03A5\u0313\u0300"},
    {0x1F54, "\u03A5\u0313\u0301"},
    {0x1F56, "\u03A5\u0313\u0342"},
    {0x1FB2, "\u1FBA\u0399"},
    {0x1FB3, "\u0391\u0399"},
    {0x1FB4, "\u0386\u0399"},
    {0x1FB6, "\u0391\u0342"},
    {0x1FB7, "\u0391\u0342\u0399"},
    {0x1FBC, "\u0391\u0399"},
    {0x1FC2, "\u1FCA\u0399"},
    {0x1FC3, "\u0397\u0399"},
    {0x1FC4, "\u0389\u0399"},
    {0x1FC6, "\u0397\u0342"},
    {0x1FC7, "\u0397\u0342\u0399"},
    {0x1FCC, "\u0397\u0399"},
    {0x1FD2, "\u0399\u0308\u0300"},
    {0x1FD3, "\u0399\u0308\u0301"},
    {0x1FD6, "\u0399\u0342"},
    {0x1FD7, "\u0399\u0308\u0342"},
    {0x1FE2, "\u03A5\u0308\u0300"},
    {0x1FE3, "\u03A5\u0308\u0301"},
    {0x1FE4, "\u03A1\u0313"},
    {0x1FE6, "\u03A5\u0342"},
    {0x1FE7, "\u03A5\u0308\u0342"},
    {0x1FF2, "\u1FFA\u0399"},
    {0x1FF3, "\u03A9\u0399"},
    {0x1FF4, "\u038F\u0399"},
    {0x1FF6, "\u03A9\u0342"},
    {0x1FF7, "\u03A9\u0342\u0399"},
    {0x1FFC, "\u03A9\u0399"},
    {0xFB00, "FF"},
    {0xFB01, "FI"},
    {0xFB02, "FL"},
    {0xFB03, "FFI"},
    {0xFB04, "FFL"},
    {0xFB05, "ST"},
    {0xFB06, "ST"},
    {0xFB13, "\u0544\u0546"},
    {0xFB14, "\u0544\u0535"},
    {0xFB15, "\u0544\u053B"},
    {0xFB16, "\u054E\u0546"},
    {0xFB17, "\u0544\u053D"},
};

// Those of them whose title case differs, and is longer than one code point too.
constexpr CaseExpansion kTitleExpansions[] = {
    {0x00DF, "Ss"},
    {0x0587, "\u0535\u0582"},
    {0x1FB2, "\u1FBA\u0345"},
    {0x1FB4, "\u0386\u0345"},
    {0x1FB7, "\u0391\u0342\u0345"},
    {0x1FC2, "\u1FCA\u0345"},
    {0x1FC4, "\u0389\u0345"},
    {0x1FC7, "\u0397\u0342\u0345"},
    {0x1FF2, "\u1FFA\u0345"},
    {0x1FF4, "\u038F\u0345"},
    {0x1FF7, "\u03A9\u0342\u0345"},
    {0xFB00, "Ff"},
    {0xFB01, "Fi"},
    {0xFB02, "Fl"},
    {0xFB03, "Ffi"},
    {0xFB04, "Ffl"},
    {0xFB05, "St"},
    {0xFB06, "St"},
    {0xFB13, "\u0544\u0576"},
    {0xFB14, "\u0544\u0565"},
    {0xFB15, "\u0544\u056B"},
    {0xFB16, "\u054E\u0576"},
    {0xFB17, "\u0544\u056D"},
};

template <size_t N>
const char* FindExpansion(const CaseExpansion (&table)[N], char32_t value) {
  const auto found = std::lower_bound(
      std::begin(table), std::end(table), value,
      [](const CaseExpansion& entry, char32_t wanted) { return entry.from < wanted; });
  return found != std::end(table) && found->from == value ? found->to : nullptr;
}

utf8proc_category_t Category(char32_t value) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(value));
}

std::string Encoded(char32_t value) {
  std::string bytes;
  AppendUtf8(bytes, value);
  return bytes;
}

// Greek letters with an iota subscript, 0x1F80 to 0x1FAF: eight small ones, then their capitals, of
// alpha, of eta and of omega. The upper case writes the iota as a letter.
bool HasIotaSubscript(char32_t value) { return value >= 0x1F80 && value <= 0x1FAF; }
std::string UpperWithIota(char32_t value) {
  constexpr char32_t kCapitals[] = {0x1F08, 0x1F28, 0x1F68};
  return Encoded(kCapitals[(value - 0x1F80) / 16] + value % 8) + "\u0399";
}

std::string Upper(char32_t value) {
  if (HasIotaSubscript(value)) return UpperWithIota(value);
  if (const char* expansion = FindExpansion(kUpperExpansions, value)) return expansion;
  return Encoded(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(value))));
}

std::string Title(char32_t value) {
  if (const char* expansion = FindExpansion(kTitleExpansions, value)) return expansion;
  const auto letter = static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(value)));
  const bool one_letter = letter != value || Category(value) == UTF8PROC_CATEGORY_LT;
  const char* expansion = FindExpansion(kUpperExpansions, value);
  return expansion == nullptr || one_letter ? Encoded(letter) : expansion;
}

bool IsCaseIgnorable(char32_t value) {
  switch (Category(value)) {
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_ME:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_LM:
    case UTF8PROC_CATEGORY_SK:
      return true;
    default:
      return value == '\'' || value == '.' || value == ':' || value == 0xB7 || value == 0x2019;
  }
}

// Greek capital sigma is a final sigma when a cased letter stands before it and none after it,
// case-ignorable characters aside (Unicode 3.13, Final_Sigma).
bool IsFinalSigma(std::string_view text, size_t offset, bool after_cased) {
  if (!after_cased) return false;
  size_t next = offset + DecodeAt(text, offset).length;
  while (next < text.size()) {
    const CodePoint point = DecodeAt(text, next);
    if (!IsCaseIgnorable(point.value)) return !IsCased(point.value);
    next += point.length;
  }
  return true;
}

constexpr char32_t kCapitalSigma = 0x3A3;
constexpr char32_t kCapitalIWithDot = 0x130;

// Maps characters one by one. `map` gets the code point and the lower-case form it would have here.
template <typename Map>
Text MapCharacters(const Text& text, Map map) {
  Text result;
  const std::string_view bytes = text.bytes();
  bool after_cased = false;  // of the last character that is not ignorable
  for (size_t offset = 0; offset < bytes.size();) {
    const CodePoint point = DecodeAt(bytes, offset);
    std::string lower;
    if (point.value == kCapitalSigma) {
      lower = Encoded(IsFinalSigma(bytes, offset, after_cased) ? 0x3C2 : 0x3C3);
    } else if (point.value == kCapitalIWithDot) {
      lower = "i\u0307";
    } else {
      lower = Encoded(
          static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(point.value))));
    }
    result.Append(map(point.value, std::move(lower)), text.TrustedAt(offset));
    if (!IsCaseIgnorable(point.value)) after_cased = IsCased(point.value);
    offset += point.length;
  }
  return result;
}

}  // namespace

bool IsSpace(char32_t value) {
  return (value >= 0x09 && value <= 0x0D) || (value >= 0x1C && value <= 0x20) || value == 0x85 ||
         value == 0xA0 || value == 0x1680 || (value >= 0x2000 && value <= 0x200A) ||
         value == 0x2028 || value == 0x2029 || value == 0x202F || value == 0x205F ||
         value == 0x3000;
}

bool IsLineBreak(char32_t value) {
  return (value >= 0x0A && value <= 0x0D) || (value >= 0x1C && value <= 0x1E) || value == 0x85 ||
         value == 0x2028 || value == 0x2029;
}

bool IsPrintable(char32_t value) {
  if (value == ' ') return true;
  switch (Category(value)) {
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_ZS:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
      return false;
    default:
      return true;
  }
}

bool IsLower(char32_t value) { return Category(value) == UTF8PROC_CATEGORY_LL; }
bool IsUpper(char32_t value) { return Category(value) == UTF8PROC_CATEGORY_LU; }
bool IsCased(char32_t value) {
  return IsLower(value) || IsUpper(value) || Category(value) == UTF8PROC_CATEGORY_LT;
}
bool IsAlpha(char32_t value) {
  const utf8proc_category_t category = Category(value);
  return IsCased(value) || category == UTF8PROC_CATEGORY_LM || category == UTF8PROC_CATEGORY_LO;
}
bool IsDecimal(char32_t value) { return Category(value) == UTF8PROC_CATEGORY_ND; }

bool IsIdentifier(char32_t value, bool first) {
  if (value == '_' || IsAlpha(value) || Category(value) == UTF8PROC_CATEGORY_NL) return true;
  if (first) return false;
  switch (Category(value)) {
    case UTF8PROC_CATEGORY_ND:
    case UTF8PROC_CATEGORY_MN:
    case UTF8PROC_CATEGORY_MC:
    case UTF8PROC_CATEGORY_PC:
      return true;
    default:
      return false;
  }
}

Text ToUpper(const Text& text) {
  return MapCharacters(text, [](char32_t value, const std::string&) { return Upper(value); });
}

Text ToLower(const Text& text) {
  return MapCharacters(text, [](char32_t, std::string lower) { return lower; });
}

Text ToTitle(const Text& text) {
  return MapCharacters(text, [inside = false](char32_t value, std::string lower) mutable {
    std::string mapped = inside ? std::move(lower) : Title(value);
    inside = IsCased(value);
    return mapped;
  });
}

Text ToCapitalized(const Text& text) {
  return MapCharacters(text, [first = true](char32_t value, std::string lower) mutable {
    std::string mapped = first ? Title(value) : std::move(lower);
    first = false;
    return mapped;
  });
}

Text SwapCase(const Text& text) {
  return MapCharacters(text, [](char32_t value, std::string lower) {
    return IsUpper(value) ? std::move(lower) : IsLower(value) ? Upper(value) : Encoded(value);
  });
}

size_t SkipSpace(std::string_view text, size_t begin, size_t end) {
  while (begin < end) {
    const CodePoint point = DecodeAt(text, begin);
    if (!IsSpace(point.value)) break;
    begin += point.length;
  }
  return std::min(begin, end);
}

size_t SkipSpaceBack(std::string_view text, size_t begin, size_t end) {
  while (end > begin) {
    size_t start = end - 1;
    while (start > begin && end - start < 4 &&
           (static_cast<unsigned char>(text[start]) & 0xC0) == 0x80) {
      --start;
    }
    const CodePoint point = DecodeAt(text, start);
    if (point.length != end - start || !IsSpace(point.value)) break;
    end = start;
  }
  return end;
}

}  // namespace tandem::frontend::jinja
