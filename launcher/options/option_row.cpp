#include "launcher/options/option_row.h"

#include <cctype>
#include <filesystem>

#include "fmt/format.h"

namespace tandem::launcher {
namespace {

std::string Written(bool flag) { return flag ? "true" : ""; }
std::string Written(const std::string& text) { return text; }
template <typename T>
std::string Written(const T& number) {
  return fmt::to_string(number);
}
template <typename T>
std::string Written(const std::optional<T>& target) {
  return target ? Written(*target) : "";
}
template <typename T>
std::string Written(const std::vector<T>& list) {
  std::string text;
  for (const T& each : list) {
    if (!text.empty()) text += ',';
    text += Written(each);
  }
  return text;
}

}  // namespace

std::string OptionRow::environment() const {
  if (!name.starts_with('-')) return "";
  std::string variable = "TANDEM_" + flag().substr(2);
  for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
  return variable;
}

std::string OptionRow::written() const {
  const std::string text = std::visit([](auto* target) { return Written(*target); }, value.target);
  const bool path = value.unit == Unit::kPath && !text.empty();
  return path ? std::filesystem::absolute(text).string() : text;
}

std::vector<std::string> ArgumentsOf(const std::vector<OptionRow>& rows) {
  std::vector<std::string> arguments;
  for (const OptionRow& row : rows) {
    std::string text = row.written();
    if (text.empty()) continue;
    if (row.name.starts_with('-')) arguments.push_back(row.flag());
    if (!std::holds_alternative<bool*>(row.value.target)) arguments.push_back(std::move(text));
  }
  return arguments;
}

std::vector<parallel::WorldFact> SameOnAllRanks(const std::vector<OptionRow>& rows) {
  std::vector<parallel::WorldFact> facts;
  for (const OptionRow& row : rows) {
    if (!row.same) continue;
    const std::string written = row.written();
    facts.push_back({row.flag(), written.empty() ? "default" : written});
  }
  return facts;
}

}  // namespace tandem::launcher
