#pragma once

#include <string>
#include <vector>

#include "launcher/options/option_row.h"

/// What one word may be as the value of an option, wherever it came from: the command line, the
/// environment or a config file.
namespace tandem::launcher {

/// What is wrong with a word, empty if nothing is. A good one is replaced by what it says, in plain
/// decimal numbers, or "true" and "false". A list with commas is checked entry by entry.
std::string CheckWord(const OptionValue& value, std::string& word);

/// "1,,2" has three, the second one empty.
std::vector<std::string> SplitAtCommas(const std::string& word);

/// "in [1 - 512]", "{back,through}"; empty: any.
std::string AllowedText(const OptionValue& value);

/// "a whole number from 1 to 512", "one of back, through"; empty for a text.
std::string ExpectedText(const OptionValue& value);

/// Whether the option takes several values.
bool TakesList(const OptionValue& value);
/// Whether they stand in one word with commas between them.
bool TakesCommas(const OptionValue& value);

}  // namespace tandem::launcher
