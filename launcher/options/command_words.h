#pragma once

#include <string>
#include <vector>

#include "launcher/options/option_row.h"

/// Words of the command line and of the environment, before and after CLI11 has looked at them.
namespace tandem::launcher {

/// Whether a variable is there, and not empty.
bool IsSet(const std::string& variable);

/// CLI11 takes the next word for the value of `--flag=`, which is empty.
std::vector<std::string> WithEmptyValues(const std::vector<std::string>& words);

/// The flag of a row as the command line has it, "--ranks" or "-n"; empty: it has none of them.
std::string TypedName(const OptionRow& row, const std::vector<std::string>& words);

/// What is wrong with an option that is empty where that says nothing, empty if none is: CLI11
/// takes no notice of such a variable, nor of an empty word behind a flag that may stand alone.
std::string EmptyValue(const std::vector<OptionRow>& rows, const std::vector<std::string>& words);

/// What is wrong with a flag that a command with these rows, and `flags`, does not have.
std::string UnknownFlagText(const std::string& flag, const std::vector<OptionRow>& rows,
                            const std::vector<std::string>& flags);

/// What is wrong with a word that stands where a command with these rows takes none.
std::string OneTooMany(const std::string& word, const std::vector<OptionRow>& rows);

/// A message of CLI11 about an option of these rows in the words of this program.
std::string InOurWords(const std::string& message, const std::vector<OptionRow>& rows);

}  // namespace tandem::launcher
