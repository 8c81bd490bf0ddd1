#include "launcher/options/reported.h"

#include <cstdio>

#include "absl/strings/cord.h"
#include "frontend/text/utf8.h"

namespace tandem::launcher {
namespace {

constexpr size_t kMostLineBytes = 4096;
constexpr char kReportedElsewhere[] = "tandem/reported-elsewhere";

/// One character as it is, where a terminal shows it; else its bytes.
std::string Shown(std::string_view character, bool valid) {
  const auto first = static_cast<unsigned char>(character.front());
  const bool c1 = character.size() == 2 && first == 0xC2 &&
                  static_cast<unsigned char>(character[1]) < 0xA0;  // U+0080 to U+009F
  if (valid && first >= 0x20 && first != 0x7F && !c1) return std::string(character);
  if (character == "\n") return "\\n";
  std::string shown;
  for (const char c : character) {
    shown += fmt::format("\\x{:02x}", static_cast<unsigned char>(c));
  }
  return shown;
}

}  // namespace

std::string OneLine(std::string_view message) {
  std::string line;
  for (std::string_view rest = message; !rest.empty();) {
    if (message.size() > kMostLineBytes && line.size() >= kMostLineBytes / 2 &&
        rest.size() > kMostLineBytes / 2) {
      line += "[...]";
      rest.remove_prefix(rest.size() - kMostLineBytes / 2);
      while ((static_cast<unsigned char>(rest.front()) & 0xC0) == 0x80 && rest.size() > 1) {
        rest.remove_prefix(1);
      }
    }
    const frontend::Utf8Prefix prefix = frontend::ReadUtf8(rest);
    line +=
        Shown(rest.substr(0, prefix.length), prefix.kind == frontend::Utf8Prefix::Kind::kCharacter);
    rest.remove_prefix(prefix.length);
  }
  return line;
}

void Report(std::string_view message) {
  fmt::print(stderr, "{}{}\n", kReportPrefix, OneLine(message));
}

void Report(const absl::Status& status) { Report(Message(status)); }

absl::Status ReportedElsewhere(absl::Status status) {
  status.SetPayload(kReportedElsewhere, absl::Cord());
  return status;
}

bool IsReportedElsewhere(const absl::Status& status) {
  return status.GetPayload(kReportedElsewhere).has_value();
}

}  // namespace tandem::launcher
