#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "frontend/tokenizer/pre_tokenizer.h"
#include "frontend/tokenizer/tokenizer.h"

namespace tandem::frontend {

/// Byte-level byte-pair encoding (tokenizer.ggml.model "gpt2"): text is split into words by the
/// pre-tokenizer, and the bytes of each word are merged in the order of the merge list.
///
/// A byte that the vocabulary has no token for is left out, as the `tokenizers` library does
/// (SmolLM2 lacks some control characters). Source: Radford et al. 2019; Sennrich et al. 2016.
class BpeTokenizer final : public Tokenizer {
 public:
  /// merges: "left right", most wanted first. Both and what they make must be tokens; merges that
  /// would make a control token are left out.
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(Vocabulary vocabulary,
                                                           std::span<const std::string_view> merges,
                                                           PreTokenizer pre_tokenizer);

  std::string TokenBytes(int32_t id) const override;
  size_t LeastBytes(std::string_view text) const override;

 protected:
  absl::Status EncodeText(std::string_view text, std::vector<int32_t>& ids) const override;

 private:
  struct Merge {
    int32_t rank = 0;
    int32_t token = 0;
  };

  BpeTokenizer(Vocabulary vocabulary, TokenSplitter splitter, PreTokenizer pre_tokenizer)
      : Tokenizer(std::move(vocabulary), std::move(splitter)),
        pre_tokenizer_(std::move(pre_tokenizer)) {}

  absl::Status ReadMerges(std::span<const std::string_view> merges);
  void IndexWords();

  PreTokenizer pre_tokenizer_;
  std::array<int32_t, 256> byte_tokens_{};       // MergeSymbol::kNone where there is none
  absl::flat_hash_map<uint64_t, Merge> merges_;  // by the two tokens
  // Tokens by their bytes; only where whole words are taken. Keys are views of word_bytes_.
  absl::flat_hash_map<std::string_view, int32_t> words_;
  std::string word_bytes_;
};

}  // namespace tandem::frontend
