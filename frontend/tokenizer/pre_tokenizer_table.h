#pragma once

#include <span>
#include <string_view>

namespace tandem::frontend {

/// One way of splitting text, and the names that model files have for it.
///
/// Patterns are Perl regular expressions over UTF-8, with Unicode properties; `\s` means
/// White_Space. They are those of the models' own tokenizer.json files.
struct PreTokenizerEntry {
  std::span<const std::string_view> names;
  std::span<const std::string_view> patterns;
  bool normalizes = false;         // to NFC, before all else
  bool takes_whole_words = false;  // a word that is a token is not put together from merges
  bool adds_bos = false;           // where the file does not say
};

/// All that are known; a name occurs once.
std::span<const PreTokenizerEntry> PreTokenizerTable();

}  // namespace tandem::frontend
