#include "launcher/options/config_file.h"

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <sstream>
#include <utility>

#include "core/formats/gguf.h"
#include "launcher/options/nearest_name.h"
#include "launcher/options/option_words.h"

namespace tandem::launcher {
namespace {

constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::string_view kBlanks = " \t\r";

std::string_view Trimmed(std::string_view text) {
  const size_t begin = std::min(text.find_first_not_of(kBlanks), text.size());
  text.remove_prefix(begin);
  return text.substr(0, text.find_last_not_of(kBlanks) + 1);
}

/// Reads the values of one key: what is left of the line, and for a list lines after it.
class ValueReader {
 public:
  /// next_line: the one after, none at the end.
  ValueReader(std::string_view text, std::function<std::optional<std::string>()> next_line)
      : text_(text), next_line_(std::move(next_line)) {}

  absl::StatusOr<std::vector<std::string>> Read() {
    SkipBlanks();
    std::vector<std::string> words;
    if (Peek() == '[') {
      ++at_;
      TANDEM_ASSIGN_OR_RETURN(words, ReadList());
    } else {
      TANDEM_ASSIGN_OR_RETURN(std::string word, ReadWord("#"));
      words.push_back(std::move(word));
    }
    SkipBlanks();
    if (Peek() == '\0' || Peek() == '#') return words;
    return InvalidArgument("'{}' stands behind the value",
                           core::PrintableText(Trimmed(std::string_view(text_).substr(at_))));
  }

 private:
  char Peek() const { return at_ < text_.size() ? text_[at_] : '\0'; }
  void SkipBlanks() { at_ = std::min(text_.find_first_not_of(kBlanks, at_), text_.size()); }

  /// Whether a list goes on; its comments and line ends are skipped.
  bool SkipToEntry() {
    while (true) {
      SkipBlanks();
      if (Peek() != '\0' && Peek() != '#') return true;
      std::optional<std::string> line = next_line_();
      if (!line) return false;
      text_ = *std::move(line);
      at_ = 0;
    }
  }

  absl::StatusOr<std::vector<std::string>> ReadList() {
    std::vector<std::string> words;
    while (SkipToEntry()) {
      if (Peek() == ']') {
        ++at_;
        return words;
      }
      TANDEM_ASSIGN_OR_RETURN(std::string word, ReadWord(",]#"));
      words.push_back(std::move(word));
      if (!SkipToEntry()) break;
      if (Peek() == ',') {
        ++at_;
      } else if (Peek() != ']') {
        return InvalidArgument("a list has no comma between two values");
      }
    }
    return InvalidArgument("a list has no ] at its end");
  }

  /// A quoted text, or all until one of `ends`.
  absl::StatusOr<std::string> ReadWord(std::string_view ends) {
    const char quote = Peek();
    if (quote == '"' || quote == '\'') {
      ++at_;
      return ReadQuoted(quote);
    }
    const size_t end = std::min(text_.find_first_of(ends, at_), text_.size());
    const std::string word(Trimmed(std::string_view(text_).substr(at_, end - at_)));
    at_ = end;
    if (word.empty()) return InvalidArgument("it has no value");
    return word;
  }

  absl::StatusOr<std::string> ReadQuoted(char quote) {
    std::string word;
    for (; at_ < text_.size(); ++at_) {
      char c = text_[at_];
      if (c == quote) {
        ++at_;
        return word;
      }
      if (c == '\\' && quote == '"') {
        constexpr std::string_view kEscapes = "\"\\nt";
        constexpr std::string_view kMeanings = "\"\\\n\t";
        ++at_;
        const size_t escape = Peek() == '\0' ? kEscapes.npos : kEscapes.find(Peek());
        if (escape == kEscapes.npos) {
          return InvalidArgument("in a text, \\ stands before \", \\, n or t only");
        }
        c = kMeanings[escape];
      }
      word += c;
    }
    return InvalidArgument("a text has no {} at its end", quote);
  }

  std::string text_;
  size_t at_ = 0;
  const std::function<std::optional<std::string>()> next_line_;
};

class ConfigReader {
 public:
  explicit ConfigReader(std::string_view text) : in_(std::string(text)) {}

  absl::StatusOr<std::vector<ConfigEntry>> Read() {
    while (const std::optional<std::string> line = NextLine()) {
      const int number = line_;
      if (const absl::Status status = ReadLine(Trimmed(*line)); !status.ok()) {
        return InvalidArgument("line {}: {}", number, Message(status));
      }
    }
    return std::move(entries_);
  }

 private:
  std::optional<std::string> NextLine() {
    std::string line;
    if (!std::getline(in_, line)) return std::nullopt;
    ++line_;
    return line;
  }

  absl::Status ReadLine(std::string_view line) {
    if (line.empty() || line.front() == '#' || line.front() == ';') return absl::OkStatus();
    if (line.front() == '[') return ReadSection(Trimmed(line.substr(0, line.find('#'))));
    const size_t equals = line.find('=');
    const std::string_view before = Trimmed(line.substr(0, std::min(equals, line.find('#'))));
    if (before.empty()) return InvalidArgument("expected [COMMAND], or key = value");
    ConfigEntry entry{.section = section_, .key = std::string(before), .words = {}, .line = line_};
    if (entry.key.size() > 1 && entry.key.front() == '"' && entry.key.back() == '"') {
      entry.key = entry.key.substr(1, entry.key.size() - 2);
    } else if (const size_t dot = entry.key.rfind('.'); dot != std::string::npos) {
      entry.section += (section_.empty() ? "" : ".") + entry.key.substr(0, dot);
      entry.key.erase(0, dot + 1);
    }
    if (equals == std::string_view::npos) {
      if (before.find_first_of(" \t:") != std::string_view::npos) {
        return InvalidArgument("'{}' has no =; expected [COMMAND], or key = value",
                               core::PrintableText(before));
      }
      entry.words = {"true"};
    } else {
      ValueReader value(line.substr(equals + 1), [this] { return NextLine(); });
      auto words = value.Read();
      if (!words.ok()) {
        return InvalidArgument("{}: {}", core::PrintableText(entry.key), Message(words.status()));
      }
      entry.words = *std::move(words);
    }
    return Add(std::move(entry), "give it once, several values as a list");
  }

  absl::Status ReadSection(std::string_view line) {
    if (line.back() != ']') {
      return InvalidArgument("{} has no ] at its end", core::PrintableText(line));
    }
    section_ = Trimmed(line.substr(1, line.size() - 2));
    if (section_ == "default") section_.clear();
    return Add({.section = section_, .key = "", .words = {}, .line = line_},
               "put its keys together");
  }

  absl::Status Add(ConfigEntry entry, const char* remedy) {
    const auto [known, added] = lines_.try_emplace({entry.section, entry.key}, entry.line);
    if (!added) {
      return InvalidArgument("{} stands in line {} already; {}", entry.name(), known->second,
                             remedy);
    }
    entries_.push_back(std::move(entry));
    return absl::OkStatus();
  }

  std::istringstream in_;
  int line_ = 0;
  std::string section_;
  std::vector<ConfigEntry> entries_;
  std::map<std::pair<std::string, std::string>, int> lines_;  // by section and key
};

/// The names that keys of a section may have.
std::vector<std::string> KeysOf(const std::vector<OptionRow>& rows) {
  std::vector<std::string> keys;
  for (const OptionRow& row : rows) {
    const std::string flag = row.flag();
    keys.push_back(flag.starts_with("--") ? flag.substr(2) : flag);
  }
  return keys;
}

absl::Status Unknown(const CommandRows& commands, const ConfigEntry& entry) {
  const auto section = commands.find(entry.section);
  if (section == commands.end()) {
    std::vector<std::string> names;
    for (const auto& [name, rows] : commands) {
      if (!name.empty()) names.push_back(name);
    }
    return InvalidArgument("[{}] is unknown; did you mean {}?", core::PrintableText(entry.section),
                           Nearest(entry.section, names));
  }
  if (entry.section.empty()) {
    for (const auto& [name, rows] : commands) {
      if (name.empty() || RowOfKey(rows, entry.key) == nullptr) continue;
      return InvalidArgument(
          "{} is a key of a command, and stands in no section; put it below the line of its "
          "command, as [{}]",
          entry.key, name);
    }
  }
  const std::string nearest = Nearest(entry.key, KeysOf(section->second));
  std::string elsewhere;
  for (const auto& [name, rows] : commands) {
    if (IsNear(entry.key, nearest) || RowOfKey(rows, entry.key) == nullptr) continue;
    if (name.empty()) {
      return InvalidArgument("{} is unknown; {} is for all commands: put it above the first [...]",
                             entry.name(), entry.key);
    }
    elsewhere += fmt::format("{}[{}]", elsewhere.empty() ? "" : ", ", name);
  }
  if (!elsewhere.empty()) elsewhere = " It is a key of " + elsewhere;
  return InvalidArgument("{} is unknown; did you mean {}?{}", entry.name(), nearest, elsewhere);
}

absl::Status CheckValues(const OptionRow& row, ConfigEntry& entry) {
  if (!TakesList(row.value) && entry.words.size() != 1) {
    return InvalidArgument("{}: expected one value, found {}", entry.name(), entry.words.size());
  }
  std::vector<std::string> words;
  for (const std::string& word : entry.words) {
    if (!TakesCommas(row.value)) {
      words.push_back(word);
      continue;
    }
    for (const std::string& part : SplitAtCommas(word)) words.emplace_back(Trimmed(part));
  }
  for (std::string& word : words) {
    const std::string wrong = CheckWord(row.value, word);
    if (!wrong.empty()) {
      return InvalidArgument("{}: {}", entry.name(), core::PrintableText(wrong, 400));
    }
  }
  entry.words = std::move(words);
  return absl::OkStatus();
}

absl::Status CheckEntry(const CommandRows& commands, ConfigEntry& entry) {
  const auto section = commands.find(entry.section);
  if (section == commands.end()) return Unknown(commands, entry);
  if (entry.key.empty()) return absl::OkStatus();
  const OptionRow* row = RowOfKey(section->second, entry.key);
  return row == nullptr ? Unknown(commands, entry) : CheckValues(*row, entry);
}

}  // namespace

std::string ConfigEntry::name() const {
  if (key.empty()) return "[" + core::PrintableText(section) + "]";
  return core::PrintableText(section.empty() ? key : section + "." + key);
}

absl::StatusOr<std::vector<ConfigEntry>> ParseConfig(std::string_view text) {
  if (text.size() > kMostConfigBytes) {
    return InvalidArgument("it is no config file: it has more than {} bytes", kMostConfigBytes);
  }
  if (text.starts_with(kByteOrderMark)) text.remove_prefix(kByteOrderMark.size());
  const auto odd = std::find_if(text.begin(), text.end(), [](unsigned char c) {
    return (c < 0x20 && c != '\t' && c != '\r' && c != '\n') || c == 0x7F;
  });
  if (odd != text.end()) {
    return InvalidArgument("it is no config file: byte 0x{:02x} in line {} is no text",
                           static_cast<unsigned char>(*odd),
                           1 + std::count(text.begin(), odd, '\n'));
  }
  return ConfigReader(text).Read();
}

const OptionRow* RowOfKey(const std::vector<OptionRow>& rows, const std::string& key) {
  for (const OptionRow& row : rows) {
    const std::string flag = row.flag();
    const bool short_name = row.name.starts_with("-" + key + ",");
    if (!key.empty() && (flag == "--" + key || (flag == key && key.front() != '-') || short_name))
      return &row;
  }
  return nullptr;
}

absl::Status CheckConfig(const CommandRows& commands, std::vector<ConfigEntry>& entries) {
  for (ConfigEntry& entry : entries) {
    if (const absl::Status status = CheckEntry(commands, entry); !status.ok()) {
      return InvalidArgument("line {}: {}", entry.line, Message(status));
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
