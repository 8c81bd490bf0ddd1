#include "frontend/load_text_model.h"

#include <spdlog/spdlog.h>

#include "frontend/detokenizer.h"

namespace tandem::frontend {
namespace {

class AnswerStream final : public TextStream {
 public:
  /// An answer goes on from its prompt, so that a leading space is part of it.
  explicit AnswerStream(const Tokenizer& tokenizer) : stream_(tokenizer, {.text_start = false}) {}
  std::string Append(int32_t token) override { return stream_.Push(token); }
  std::string Finish() override { return stream_.Flush(); }

 private:
  Detokenizer stream_;
};

class FileTextModel final : public TextModel {
 public:
  FileTextModel(const core::ModelFile& file, std::unique_ptr<Tokenizer> tokenizer,
                ChatTemplate chat)
      : config_(file.config()),
        name_(config_.name.empty() ? file.path() : config_.name),
        tokenizer_(std::move(tokenizer)),
        template_(std::move(chat)) {}

  const std::string& name() const override { return name_; }
  int vocab() const override { return config_.vocab; }
  int context() const override { return config_.context; }

  absl::StatusOr<std::vector<int32_t>> EncodeChat(
      std::span<const ChatMessage> messages) const override {
    nlohmann::ordered_json list = nlohmann::ordered_json::array();
    for (const ChatMessage& message : messages) {
      list.push_back({{"role", message.role}, {"content", message.content}});
    }
    TANDEM_ASSIGN_OR_RETURN(const std::vector<TextSegment> segments, template_.Render(list, true));
    return tokenizer_->EncodeSegments(segments);
  }
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const override {
    return tokenizer_->Encode(text, {.bos = true});
  }
  std::unique_ptr<TextStream> NewStream() const override {
    return std::make_unique<AnswerStream>(*tokenizer_);
  }
  std::span<const int32_t> end_tokens() const override {
    return tokenizer_->vocabulary().end_of_generation();
  }
  std::span<const std::string> chat_stop_strings() const override {
    return template_.stop_strings();
  }

 private:
  const core::ModelConfig& config_;
  const std::string name_;
  const std::unique_ptr<Tokenizer> tokenizer_;
  const ChatTemplate template_;
};

}  // namespace

SpecialTexts SpecialTextsOf(const Vocabulary& vocabulary) {
  const auto text = [&](std::optional<int32_t> id) {
    return id ? std::string(vocabulary.text(*id)) : std::string();
  };
  return {text(vocabulary.bos()), text(vocabulary.eos())};
}

absl::StatusOr<SelectedTemplate> SelectTemplateOf(const core::GgufFile& file,
                                                  const std::optional<std::string>& choice,
                                                  SpecialTexts texts) {
  std::optional<std::string> own;
  if (file.Has("tokenizer.chat_template")) {
    TANDEM_ASSIGN_OR_RETURN(own, file.String("tokenizer.chat_template"));
  }
  return SelectTemplate(choice, own, std::move(texts.bos), std::move(texts.eos));
}

absl::StatusOr<std::unique_ptr<TextModel>> LoadTextModel(
    const core::ModelFile& file, const std::optional<std::string>& chat_template) {
  TANDEM_ASSIGN_OR_RETURN(auto tokenizer, LoadTokenizer(file.gguf()));
  TANDEM_ASSIGN_OR_RETURN(
      SelectedTemplate selected,
      SelectTemplateOf(file.gguf(), chat_template, SpecialTextsOf(tokenizer->vocabulary())));
  if (!selected.note.empty()) spdlog::warn("{}: {}", file.path(), selected.note);
  return std::make_unique<FileTextModel>(file, std::move(tokenizer), std::move(selected.chat));
}

}  // namespace tandem::frontend
