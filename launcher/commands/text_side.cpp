#include "launcher/commands/text_side.h"

#include <limits>

#include "frontend/client/chat_terminal.h"
#include "frontend/protocol/request.h"
#include "frontend/text/utf8.h"

namespace tandem::launcher {
namespace {

/// A model whose file has no tokenizer.
class TokensOnly final : public frontend::TextModel {
 public:
  explicit TokensOnly(const core::ModelConfig& config) : config_(config) {}

  const std::string& name() const override { return config_.name; }
  int vocab() const override { return config_.vocab; }
  int context() const override { return config_.context; }
  absl::StatusOr<std::vector<frontend::TextSegment>> RenderChat(
      std::span<const frontend::ChatMessage>, const frontend::RenderOptions&) const override {
    return NoTokenizer();
  }
  absl::StatusOr<std::vector<int32_t>> EncodeRendered(
      std::span<const frontend::TextSegment>) const override {
    return NoTokenizer();
  }
  absl::StatusOr<std::optional<std::vector<int32_t>>> EncodeContinuation(
      std::span<const frontend::TextSegment>) const override {
    return NoTokenizer();
  }
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view) const override {
    return NoTokenizer();
  }
  std::unique_ptr<frontend::TextStream> NewStream() const override {
    return std::make_unique<NoText>();
  }
  std::string TokenBytes(int32_t) const override { return ""; }
  std::span<const int32_t> end_tokens() const override { return {}; }
  std::span<const std::string> chat_stop_strings() const override { return {}; }

 private:
  class NoText final : public frontend::TextStream {
   public:
    std::string Append(int32_t) override { return ""; }
    std::string Finish() override { return ""; }
    bool whole() const override { return true; }
  };

  static absl::Status NoTokenizer() {
    return FailedPrecondition("the model file has no tokenizer; give --tokens");
  }

  const core::ModelConfig& config_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<frontend::TextModel>> LoadTextSide(const core::ModelFile& file,
                                                                  const std::string& chat_template,
                                                                  bool tokens_suffice) {
  if (tokens_suffice && !file.gguf().Has("tokenizer.ggml.model")) {
    return std::make_unique<TokensOnly>(file.config());
  }
  frontend::TextModelOptions options;
  if (!chat_template.empty()) options.chat_template = chat_template;
  return frontend::LoadTextModel(file, options);
}

absl::Status CheckGeneration(const frontend::GenerationParams& params,
                             std::optional<int64_t> context) {
  const auto most = static_cast<size_t>(frontend::ProtocolLimits().stop_strings);
  if (params.stop.size() > most) {
    return InvalidArgument("--stop: expected at most {} texts, found {}", most, params.stop.size());
  }
  constexpr int64_t kAny = std::numeric_limits<int64_t>::max();
  return frontend::InFlags(frontend::CheckMinTokens(params, context.value_or(kAny), /*prompt=*/0));
}

absl::Status CheckInputText(const std::string& text, std::string_view where) {
  const size_t valid = frontend::ValidUtf8Prefix(text);
  if (valid == text.size()) return absl::OkStatus();
  return InvalidArgument("{}: byte {}, 0x{:02X}, is no UTF-8; convert the text to it", where, valid,
                         static_cast<unsigned char>(text[valid]));
}

}  // namespace tandem::launcher
