#include "tests/support/fake_text_model.h"

namespace tandem::testing {
namespace {

/// Length of the character that starts with this byte of valid UTF-8.
size_t CharacterBytes(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xE0) return 2;
  return lead < 0xF0 ? 3 : 4;
}

class ByteStream final : public frontend::TextStream {
 public:
  std::string Append(int32_t token) override {
    held_.push_back(static_cast<char>(token));
    if (held_.size() < CharacterBytes(static_cast<unsigned char>(held_[0]))) return "";
    return std::exchange(held_, "");
  }
  std::string Finish() override { return std::exchange(held_, "").empty() ? "" : "\xEF\xBF\xBD"; }

 private:
  std::string held_;
};

}  // namespace

std::vector<int32_t> ByteTokens(std::string_view text) {
  std::vector<int32_t> tokens;
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

absl::StatusOr<std::vector<int32_t>> FakeTextModel::EncodeChat(
    std::span<const frontend::ChatMessage> messages) const {
  if (messages.front().role == "assistant") {
    return InvalidArgument("the template wants the first message to be the user's");
  }
  std::string text;
  for (const auto& message : messages) text += message.role + ":" + message.content + "\n";
  return ByteTokens(text + "assistant:");
}

absl::StatusOr<std::vector<int32_t>> FakeTextModel::EncodeText(std::string_view text) const {
  return ByteTokens(text);
}

std::unique_ptr<frontend::TextStream> FakeTextModel::NewStream() const {
  return std::make_unique<ByteStream>();
}

}  // namespace tandem::testing
