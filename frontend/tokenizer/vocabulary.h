#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "core/base/status.h"
#include "core/formats/gguf.h"

namespace tandem::frontend {

/// Kinds of tokens; numbers are those of GGUF's tokenizer.ggml.token_type.
enum class TokenType : int32_t {
  kNormal = 1,
  kUnknown = 2,      // stands for what the vocabulary cannot say
  kControl = 3,      // recognized in text only where a template wrote it, or on request
  kUserDefined = 4,  // recognized in any text, before everything else
  kUnused = 5,       // never the result of encoding
  kByte = 6,         // "<0xNN>", one byte
};

/// What a vocabulary is made of, as it stands in a model file. Views must outlive only the call
/// that takes this.
struct VocabularyParts {
  std::string origin;                    // file, for messages
  std::vector<std::string_view> tokens;  // index = id
  std::vector<TokenType> types;          // empty = all normal
  std::vector<float> scores;             // empty = all 0
  std::optional<int32_t> bos;
  std::optional<int32_t> eos;
  std::optional<int32_t> eot;
  std::optional<int32_t> eom;
  std::optional<int32_t> unknown;
  bool add_bos = false;
};

/// The tokens of a model: text, type and score of each, and those with a role.
///
/// Thread safety: immutable.
class Vocabulary {
 public:
  /// Checks sizes and ids. Tokens known by name to end a turn everywhere ("<|im_end|>" and the
  /// like) are control tokens even where the file has them as normal or user-defined, so that user
  /// text cannot hold them.
  static absl::StatusOr<Vocabulary> Create(const VocabularyParts& parts);

  int32_t size() const { return static_cast<int32_t>(types_.size()); }
  bool Contains(int32_t id) const { return id >= 0 && id < size(); }

  // Of one token; `id` must be in the vocabulary.
  std::string_view text(int32_t id) const;  // as the file spells it, e.g. "Ġhello", "▁hello"
  TokenType type(int32_t id) const { return types_[static_cast<size_t>(id)]; }
  float score(int32_t id) const {
    return scores_.empty() ? 0.0F : scores_[static_cast<size_t>(id)];
  }
  /// True for control and unknown tokens, which no user text becomes.
  bool IsControl(int32_t id) const {
    return type(id) == TokenType::kControl || type(id) == TokenType::kUnknown;
  }

  /// The (first) token spelled so in the file.
  std::optional<int32_t> Find(std::string_view text) const;

  std::optional<int32_t> bos() const { return bos_; }
  std::optional<int32_t> eos() const { return eos_; }
  /// End of a turn, where it differs from the end of the text: from the file, else by name.
  std::optional<int32_t> eot() const { return eot_; }
  std::optional<int32_t> unknown() const { return unknown_; }
  /// True if the model wants its start token before raw text.
  bool add_bos() const { return add_bos_; }

  /// Tokens after which nothing is to be generated, ascending: eos, eot, eom, and control tokens
  /// with a name that says so.
  std::span<const int32_t> end_of_generation() const { return end_of_generation_; }
  bool EndsGeneration(int32_t id) const;

  const std::string& origin() const { return origin_; }

 private:
  Vocabulary() = default;
  void FindEndOfGeneration(const VocabularyParts& parts);

  std::string origin_;
  // Texts one after the other; on the heap at a fixed place, since index_ holds views of it.
  std::unique_ptr<std::string> texts_;
  std::vector<size_t> text_ends_;
  std::vector<TokenType> types_;
  std::vector<float> scores_;
  absl::flat_hash_map<std::string_view, int32_t> index_;
  std::optional<int32_t> bos_;
  std::optional<int32_t> eos_;
  std::optional<int32_t> eot_;
  std::optional<int32_t> unknown_;
  bool add_bos_ = false;
  std::vector<int32_t> end_of_generation_;
};

/// Reads tokenizer.ggml.* of a model file; `add_bos` where the file does not say it is
/// `add_bos_by_default`. Views are into the file. Source: docs/gguf.md of ggml.
absl::StatusOr<VocabularyParts> ReadVocabulary(const core::GgufFile& file, bool add_bos_by_default);

}  // namespace tandem::frontend
