#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/tokenizer/pre_tokenizer_table.h"

namespace tandem::frontend {

/// What a byte-level vocabulary does to text before byte pairs are merged: its tokens never cross
/// the borders of the words found here.
///
/// A pre-tokenizer is a list of regular expressions; each splits every piece left by the one before
/// into its matches and what lies between them. Thread safety: immutable.
class PreTokenizer {
 public:
  /// By the name in tokenizer.ggml.pre. An unknown name is an error that lists those known.
  static absl::StatusOr<PreTokenizer> Create(std::string_view name);
  /// All names that Create knows, sorted.
  static std::vector<std::string_view> Names();

  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  /// The words of valid UTF-8 text, in order; joined, they are the text. kResourceExhausted if a
  /// pattern needs more steps or memory than the limit.
  absl::StatusOr<std::vector<std::string_view>> Split(std::string_view text) const;

  const PreTokenizerEntry& entry() const { return *entry_; }

 private:
  class Pattern;

  PreTokenizer() = default;

  std::vector<Pattern> patterns_;
  const PreTokenizerEntry* entry_ = nullptr;  // in the table
};

}  // namespace tandem::frontend
