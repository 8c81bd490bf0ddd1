#include "frontend/chat/text_model.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/counted.h"
#include "frontend/chat/chat_template.h"
#include "frontend/tokenizer/detokenizer.h"
#include "frontend/tokenizer/tokenizer.h"

namespace tandem::frontend {
namespace {

constexpr std::string_view kTemplateKey = "tokenizer.chat_template";

class AnswerStream final : public TextStream {
 public:
  // An answer continues a text, so a space before its first word is part of it.
  explicit AnswerStream(const Tokenizer& tokenizer)
      : detokenizer_(tokenizer, {.special = false, .text_start = false}) {}
  std::string Append(int32_t token) override { return detokenizer_.Push(token); }
  std::string Finish() override { return detokenizer_.Flush(); }
  bool whole() const override { return detokenizer_.whole(); }

 private:
  Detokenizer detokenizer_;
};

/// Of a text, that one token may stand for.
size_t MostTokenBytes(const Tokenizer& tokenizer) {
  constexpr size_t kCharacterBytes = 4;  // an unknown token stands for one character
  size_t most = kCharacterBytes;
  for (int32_t id = 0; id < tokenizer.vocabulary().size(); ++id) {
    most = std::max(most, tokenizer.TokenBytes(id).size());
  }
  return most;
}

/// A text that is beyond a limit stays so: it is no use to try again.
template <typename T>
absl::StatusOr<T> ForGood(absl::StatusOr<T> result) {
  if (!absl::IsResourceExhausted(result.status())) return result;
  return InvalidArgument("{}", Message(result.status()));
}

class FileTextModel final : public TextModel {
 public:
  FileTextModel(const core::ModelConfig& config, int context, std::unique_ptr<Tokenizer> tokenizer,
                ChatTemplate chat)
      : name_(config.name),
        vocab_(config.vocab),
        context_(context),
        tokenizer_(std::move(tokenizer)),
        chat_(std::move(chat)),
        most_token_bytes_(MostTokenBytes(*tokenizer_)) {}

  const std::string& name() const override { return name_; }
  int vocab() const override { return vocab_; }
  int context() const override { return context_; }

  absl::StatusOr<std::vector<TextSegment>> RenderChat(std::span<const ChatMessage> messages,
                                                      const RenderOptions& options) const override {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const ChatMessage& message : messages) {
      list.push_back({{"role", message.role}, {"content", message.content}});
    }
    return ForGood(chat_.Render(list, options));
  }

  absl::StatusOr<std::vector<int32_t>> EncodeRendered(
      std::span<const TextSegment> segments) const override {
    return ForGood(tokenizer_->EncodeSegments(segments));
  }

  absl::StatusOr<std::optional<std::vector<int32_t>>> EncodeContinuation(
      std::span<const TextSegment> segments) const override {
    return ForGood(tokenizer_->EncodeContinuation(segments));
  }

  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const override {
    return ForGood(tokenizer_->Encode(text, {.special = false, .bos = true}));
  }

  int64_t LeastTokens(std::span<const std::string_view> text) const override {
    size_t bytes = 0;
    for (const std::string_view piece : text) bytes += tokenizer_->LeastBytes(piece);
    return static_cast<int64_t>((bytes + most_token_bytes_ - 1) / most_token_bytes_);
  }

  std::unique_ptr<TextStream> NewStream() const override {
    return std::make_unique<AnswerStream>(*tokenizer_);
  }

  std::string TokenBytes(int32_t token) const override { return tokenizer_->TokenBytes(token); }

  std::span<const int32_t> end_tokens() const override {
    return tokenizer_->vocabulary().end_of_generation();
  }
  std::span<const std::string> chat_stop_strings() const override { return chat_.stop_strings(); }

 private:
  const std::string name_;
  const int vocab_;
  const int context_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const ChatTemplate chat_;
  const size_t most_token_bytes_;
};

/// How the file spells a token; nothing if there is none.
std::string Spelling(const Vocabulary& vocabulary, std::optional<int32_t> token) {
  return token ? std::string(vocabulary.text(*token)) : "";
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> TextModel::EncodeChat(
    std::span<const ChatMessage> messages) const {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<TextSegment> segments, RenderChat(messages, {}));
  return EncodeRendered(segments);
}

absl::Status CheckTextFits(const TextModel& model, std::span<const std::string_view> text) {
  const int64_t least = model.LeastTokens(text);
  if (least <= model.context()) return absl::OkStatus();
  size_t bytes = 0;
  for (const std::string_view piece : text) bytes += piece.size();
  return OutOfRange(
      "the prompt has {} bytes, which are at least {}, but the context of {} holds {}: shorten it, "
      "begin anew, or let a chat be shortened with context_policy",
      bytes, Counted(least, "token"), model.name(), model.context());
}

absl::StatusOr<std::unique_ptr<TextModel>> LoadTextModel(const core::ModelFile& file,
                                                         const TextModelOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<Tokenizer> tokenizer, LoadTokenizer(file.gguf()));
  const Vocabulary& vocabulary = tokenizer->vocabulary();
  std::optional<std::string> own_template;
  if (file.gguf().Has(kTemplateKey)) {
    TANDEM_ASSIGN_OR_RETURN(const std::string_view text, file.gguf().String(kTemplateKey));
    own_template = std::string(text);
  }
  TANDEM_ASSIGN_OR_RETURN(
      SelectedTemplate selected,
      SelectTemplate(options.chat_template, own_template, Spelling(vocabulary, vocabulary.bos()),
                     Spelling(vocabulary, vocabulary.eos())));
  if (!selected.note.empty()) spdlog::warn("{}: {}", file.path(), selected.note);
  const core::ModelConfig& config = file.config();
  const int context =
      options.context > 0 ? std::min(options.context, config.context) : config.context;
  return std::make_unique<FileTextModel>(config, context, std::move(tokenizer),
                                         std::move(selected.chat));
}

}  // namespace tandem::frontend
