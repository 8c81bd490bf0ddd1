#include "frontend/text/utf8.h"

#include <cstdint>

namespace tandem::frontend {
namespace {

struct LeadByte {
  size_t length = 0;            // of the whole character; 0 = no character starts so
  uint8_t second_least = 0x80;  // bounds of the second byte; later ones are 80..BF
  uint8_t second_most = 0xBF;
};

LeadByte Classify(uint8_t lead) {
  if (lead < 0x80) return {1};
  if (lead < 0xC2) return {0};
  if (lead < 0xE0) return {2};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0};
}

}  // namespace

Utf8Prefix ReadUtf8(std::string_view bytes) {
  const LeadByte lead = Classify(static_cast<uint8_t>(bytes[0]));
  if (lead.length == 0) return {Utf8Prefix::Kind::kInvalid, 1};
  for (size_t i = 1; i < lead.length; ++i) {
    if (i == bytes.size()) return {Utf8Prefix::Kind::kIncomplete, i};
    const auto byte = static_cast<uint8_t>(bytes[i]);
    const uint8_t least = i == 1 ? lead.second_least : 0x80;
    const uint8_t most = i == 1 ? lead.second_most : 0xBF;
    if (byte < least || byte > most) return {Utf8Prefix::Kind::kInvalid, i};
  }
  return {Utf8Prefix::Kind::kCharacter, lead.length};
}

size_t ValidUtf8Prefix(std::string_view bytes) {
  size_t at = 0;
  while (at < bytes.size()) {
    const Utf8Prefix prefix = ReadUtf8(bytes.substr(at));
    if (prefix.kind != Utf8Prefix::Kind::kCharacter) break;
    at += prefix.length;
  }
  return at;
}

std::string ReplaceInvalidUtf8(std::string_view bytes) {
  Utf8Stream stream;
  std::string text = stream.Append(bytes);
  text += stream.Finish();
  return text;
}

std::string Utf8Stream::Append(std::string_view bytes) {
  held_ += bytes;
  std::string_view rest = held_;
  std::string text;
  while (!rest.empty()) {
    const size_t valid = ValidUtf8Prefix(rest);
    text += rest.substr(0, valid);
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    const Utf8Prefix prefix = ReadUtf8(rest);
    if (prefix.kind == Utf8Prefix::Kind::kIncomplete) break;
    text += kReplacementCharacter;
    rest.remove_prefix(prefix.length);
  }
  held_.erase(0, held_.size() - rest.size());
  return text;
}

std::string Utf8Stream::Finish() {
  std::string text;
  if (!held_.empty()) text = kReplacementCharacter;
  held_.clear();
  return text;
}

void AppendUtf8(char32_t code_point, std::string& out) {
  const auto byte = [&](uint32_t value) { out += static_cast<char>(value); };
  const auto tail = [&](int shift) { byte(0x80U | ((code_point >> shift) & 0x3FU)); };
  if (code_point < 0x80) {
    byte(code_point);
  } else if (code_point < 0x800) {
    byte(0xC0U | (code_point >> 6U));
    tail(0);
  } else if (code_point < 0x10000) {
    byte(0xE0U | (code_point >> 12U));
    tail(6);
    tail(0);
  } else {
    byte(0xF0U | (code_point >> 18U));
    tail(12);
    tail(6);
    tail(0);
  }
}

}  // namespace tandem::frontend
