#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "launcher/options/option_row.h"

/// Config files, in the part of TOML and INI that options need: sections, keys, texts, numbers and
/// lists.
namespace tandem::launcher {

/// More is no config file.
inline constexpr size_t kMostConfigBytes = size_t{1} << 20;

/// One key with its values, or the beginning of a section.
struct ConfigEntry {
  std::string section;             // "serve", "kv.gc"; empty: before the first
  std::string key;                 // empty: the section begins
  std::vector<std::string> words;  // one, or those of a list
  int line = 0;

  /// "serve.threads", or "[serve]".
  std::string name() const;
};

/// kInvalidArgument, naming the line, for what is no config file, and for what is there twice.
absl::StatusOr<std::vector<ConfigEntry>> ParseConfig(std::string_view text);

/// The rows of each command: "serve", "kv.gc"; "" for those of the program itself.
using CommandRows = std::map<std::string, std::vector<OptionRow>>;

/// The row of a key; null: there is none.
const OptionRow* RowOfKey(const std::vector<OptionRow>& rows, const std::string& key);

/// Checks names and values of all commands; makes of the values what CheckWord makes of them.
/// kInvalidArgument, naming the line and the key.
absl::Status CheckConfig(const CommandRows& commands, std::vector<ConfigEntry>& entries);

}  // namespace tandem::launcher
