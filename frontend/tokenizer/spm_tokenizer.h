#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/container/flat_hash_set.h"
#include "frontend/tokenizer/tokenizer.h"

namespace tandem::frontend {

/// SentencePiece's byte-pair encoding (tokenizer.ggml.model "llama"): spaces become U+2581,
/// neighbours are merged into tokens by descending score, and a character without a token becomes
/// byte tokens, or the unknown token where there are none.
///
/// U+2581 in a text is thus a space. With `add_space_prefix` a space goes before every run of text
/// that begins the input or follows a control or user-defined token.
/// Source: Kudo & Richardson 2018; bpe_model.cc of SentencePiece.
class SpmTokenizer final : public Tokenizer {
 public:
  static absl::StatusOr<std::unique_ptr<Tokenizer>> Create(Vocabulary vocabulary,
                                                           bool add_space_prefix);

  std::string TokenBytes(int32_t id) const override;
  bool adds_leading_space() const override { return add_space_prefix_; }

 protected:
  std::string PrepareText(std::string_view text) const override;
  absl::Status EncodeText(std::string_view text, std::vector<int32_t>& ids) const override;

 private:
  SpmTokenizer(Vocabulary vocabulary, TokenSplitter splitter, bool add_space_prefix)
      : Tokenizer(std::move(vocabulary), std::move(splitter)),
        add_space_prefix_(add_space_prefix) {}

  absl::Status FindByteTokens();
  void FindJoints();
  /// The token of a piece that merging may use, or MergeSymbol::kNone.
  int32_t FindPiece(std::string_view piece) const;
  /// Where a piece that is an unused token was put together: length of its left part.
  using Halves = absl::flat_hash_map<std::string_view, size_t>;
  /// The end of the stretch that begins at `begin`: no token reaches over it.
  size_t EndOfStretch(std::string_view text, size_t begin) const;
  /// The token of a merged piece; of an unused one, the tokens that it was made of.
  void AppendPiece(std::string_view piece, const Halves& halves, std::vector<int32_t>& ids) const;

  bool add_space_prefix_;
  size_t longest_piece_ = 0;  // bytes
  // Pairs of characters that stand beside each other in some piece, the bytes of the first in the
  // upper half. Tokens reach over no other pair, so a text is merged in stretches, each of which
  // fits the cache: usually words.
  absl::flat_hash_set<uint64_t> joints_;
  bool merges_unused_ = false;              // some piece is an unused token: a text is one stretch
  std::array<int32_t, 256> byte_tokens_{};  // all the unknown token where there are none
};

}  // namespace tandem::frontend
