#include "launcher/options/command_words.h"

#include <algorithm>
#include <cstdlib>
#include <regex>

#include "fmt/format.h"
#include "launcher/options/nearest_name.h"
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

namespace {

/// "-n"; empty: it has none.
std::string ShortName(const OptionRow& row) {
  const size_t comma = row.name.find(',');
  return comma == std::string::npos ? "" : row.name.substr(0, comma);
}

}  // namespace

std::string TypedName(const OptionRow& row, const std::vector<std::string>& words) {
  std::string short_name = ShortName(row);
  for (const std::string& word : words) {
    if (word.substr(0, word.find('=')) == row.flag()) return row.flag();
    if (!short_name.empty() && word.starts_with(short_name)) return short_name;
  }
  return "";
}

std::string EmptyValue(const std::vector<OptionRow>& rows, const std::vector<std::string>& words) {
  const std::vector<std::string> split = WithEmptyValues(words);
  for (const OptionRow& row : rows) {
    std::string empty;
    const std::string wrong = CheckWord(row.value, empty);
    if (wrong.empty()) continue;
    const std::string variable = row.environment();
    const bool there = !variable.empty() && std::getenv(variable.c_str()) != nullptr;
    if (there && !IsSet(variable) && TypedName(row, words).empty()) {
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

namespace {

/// The flag or argument of this program for what others of its kind call `flag`; empty: none is
/// known.
std::string NameHere(std::string_view flag) {
  static constexpr std::pair<std::string_view, std::string_view> kNames[] = {
      {"-m", "MODEL"},
      {"--model", "MODEL"},
      {"-t", "--threads"},
      {"--predict", "--max-tokens"},
      {"--n-predict", "--max-tokens"},
      {"--max-new-tokens", "--max-tokens"},
      {"--temp", "--temperature"},
      {"--repeat-penalty", "--repetition-penalty"},
      {"-s", "--seed"},
      {"-r", "--stop"},
      {"--reverse-prompt", "--stop"},
      {"-sys", "--system"},
      {"--system-prompt", "--system"},
      {"--host", "--listen"},
      {"--port", "--listen"},
      {"--url", "--connect"},
      {"-tp", "-n"},
      {"--tensor-parallel-size", "-n"},
      {"--n-gpu-layers", "--device"},
      {"--cache-type-k", "--kv-dtype"},
      {"--kv-cache-dtype", "--kv-dtype"},
  };
  for (const auto& [there, here] : kNames) {
    if (there == flag) return std::string(here);
  }
  return "";
}

}  // namespace

std::string UnknownFlagText(const std::string& flag, const std::vector<OptionRow>& rows,
                            const std::vector<std::string>& flags) {
  const std::string here = NameHere(flag);
  const bool taken = std::any_of(rows.begin(), rows.end(), [&](const OptionRow& row) {
    return row.flag() == here || ShortName(row) == here;
  });
  if (here.empty() || !taken) {
    return fmt::format("{} is unknown{}", flag, DidYouMean(flag, flags));
  }
  return fmt::format("{} is unknown; here that is {}{}", flag, here,
                     here.starts_with('-') ? "" : ", which has no flag");
}

std::string OneTooMany(const std::string& word, const std::vector<OptionRow>& rows) {
  const bool prompt = std::any_of(rows.begin(), rows.end(),
                                  [](const auto& row) { return row.flag() == "--prompt"; });
  return fmt::format("'{}' is one argument too many{}", word,
                     prompt ? "; a prompt stands behind -p, in quotes" : "");
}

std::string InOurWords(const std::string& message, const std::vector<OptionRow>& rows) {
  for (const OptionRow& row : rows) {
    if (message != row.flag() + " is required") continue;
    const std::string short_name = ShortName(row);
    return fmt::format("{} is required: {}", short_name.empty() ? row.flag() : short_name,
                       row.help);
  }
  std::smatch match;
  static const std::regex kTwice("^(\\S+): At Most 1 required but received (\\d+)$");
  if (std::regex_match(message, match, kTwice)) {
    return fmt::format("{} is given {} times; give it once", match[1].str(), match[2].str());
  }
  static const std::regex kNoValue("^(\\S+): 1 required (.*) missing$");
  if (std::regex_match(message, match, kNoValue)) {
    const auto row = std::find_if(rows.begin(), rows.end(),
                                  [&](const auto& one) { return one.flag() == match[1].str(); });
    if (row == rows.end()) {
      return fmt::format("{} has no value; expected {}", match[1].str(), match[2].str());
    }
    const std::string expected = ExpectedText(row->value);
    return fmt::format("{} has no value{}{}", row->flag(), expected.empty() ? ": " : "; expected ",
                       expected.empty() ? row->help : expected);
  }
  if (message == "A subcommand is required") return "a command is missing";
  return message;
}

}  // namespace tandem::launcher
