#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "frontend/chat/text_model.h"

namespace tandem::testing {

/// A model whose tokens are bytes: token b is the byte b, kEnd ends an answer. A chat is
/// "role:content\n" for each message, then "assistant:".
class FakeTextModel : public frontend::TextModel {
 public:
  static constexpr int32_t kEnd = 256;

  explicit FakeTextModel(int context = 4096, std::vector<std::string> chat_stop_strings = {})
      : context_(context), chat_stop_strings_(std::move(chat_stop_strings)) {}

  const std::string& name() const override { return name_; }
  int vocab() const override { return kEnd + 1; }
  int context() const override { return context_; }
  /// Refuses a chat whose first message is from the assistant, as some templates do. Variables come
  /// first, a line each.
  absl::StatusOr<std::vector<frontend::TextSegment>> RenderChat(
      std::span<const frontend::ChatMessage> messages,
      const frontend::RenderOptions& options) const override;
  absl::StatusOr<std::vector<int32_t>> EncodeRendered(
      std::span<const frontend::TextSegment> segments) const override;
  absl::StatusOr<std::optional<std::vector<int32_t>>> EncodeContinuation(
      std::span<const frontend::TextSegment> segments) const override;
  absl::StatusOr<std::vector<int32_t>> EncodeText(std::string_view text) const override;
  int64_t LeastTokens(std::span<const std::string_view> text) const override;
  std::unique_ptr<frontend::TextStream> NewStream() const override;
  std::string TokenBytes(int32_t token) const override {
    return token == kEnd ? "<end>" : std::string(1, static_cast<char>(token));
  }
  /// From now on its template takes white space from the end of messages, as some do.
  void set_trims(bool trims) { trims_ = trims; }
  std::span<const int32_t> end_tokens() const override { return end_tokens_; }
  std::span<const std::string> chat_stop_strings() const override { return chat_stop_strings_; }

 private:
  const int context_;
  const std::string name_ = "bytes";
  const std::vector<int32_t> end_tokens_{kEnd};
  const std::vector<std::string> chat_stop_strings_;
  std::atomic<bool> trims_{false};  // set by a test while its server runs
};

/// The bytes as tokens of FakeTextModel.
std::vector<int32_t> ByteTokens(std::string_view text);

}  // namespace tandem::testing
