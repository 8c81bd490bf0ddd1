#include "launcher/options/command_words.h"

#include <algorithm>
#include <cstdlib>
#include <regex>

#include "fmt/format.h"
#include "launcher/options/option_words.h"

namespace tandem::launcher {

bool IsSet(const std::string& variable) {
  const char* value = variable.empty() ? nullptr : std::getenv(variable.c_str());
  return value != nullptr && *value != '\0';
}

std::vector<std::string> WithEmptyValues(const std::vector<std::string>& words) {
  std::vector<std::string> split;
  for (const std::string& word : words) {
    const bool empty_value = word.starts_with("--") && word.find('=') == word.size() - 1;
    split.push_back(empty_value ? word.substr(0, word.size() - 1) : word);
    if (empty_value) split.emplace_back();
  }
  return split;
}

bool IsGiven(const OptionRow& row, const std::vector<std::string>& words) {
  const size_t comma = row.name.find(',');
  const std::string short_name = comma == std::string::npos ? "" : row.name.substr(0, comma);
  return std::any_of(words.begin(), words.end(), [&](const std::string& word) {
    return word.substr(0, word.find('=')) == row.flag() ||
           (!short_name.empty() && word.starts_with(short_name));
  });
}

std::string EmptyValue(const std::vector<OptionRow>& rows, const std::vector<std::string>& words) {
  const std::vector<std::string> split = WithEmptyValues(words);
  for (const OptionRow& row : rows) {
    std::string empty;
    const std::string wrong = CheckWord(row.value, empty);
    if (wrong.empty()) continue;
    const std::string variable = row.environment();
    const bool there = !variable.empty() && std::getenv(variable.c_str()) != nullptr;
    if (there && !IsSet(variable) && !IsGiven(row, words)) {
      return fmt::format("{}: {}", variable, wrong);
    }
    if (row.value.unit != Unit::kSeconds) continue;
    const auto flag = std::find(split.begin(), split.end(), row.flag());
    if (flag < split.end() - 1 && (flag + 1)->empty()) {
      return fmt::format("{}: {}", row.flag(), wrong);
    }
  }
  return "";
}

std::string InOurWords(const std::string& message) {
  std::smatch match;
  static const std::regex kTwice("^(\\S+): At Most 1 required but received (\\d+)$");
  if (std::regex_match(message, match, kTwice)) {
    return fmt::format("{} is given {} times; give it once", match[1].str(), match[2].str());
  }
  static const std::regex kNoValue("^(\\S+): 1 required (.*) missing$");
  if (std::regex_match(message, match, kNoValue)) {
    return fmt::format("{} has no value; expected {}", match[1].str(), match[2].str());
  }
  static const std::regex kTooMany("^The following arguments? (?:was|were) not expected: ");
  if (std::regex_search(message, match, kTooMany)) {
    return fmt::format("'{}' is one argument too many", match.suffix().str());
  }
  if (message == "A subcommand is required") return "a command is missing";
  return message;
}

}  // namespace tandem::launcher
