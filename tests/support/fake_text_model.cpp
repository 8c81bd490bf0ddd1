#include "tests/support/fake_text_model.h"

namespace tandem::testing {
namespace {

/// Length of the character that starts with this byte of valid UTF-8.
size_t CharacterBytes(unsigned char lead) {
  if (lead < 0x80) return 1;
  if (lead < 0xE0) return 2;
  return lead < 0xF0 ? 3 : 4;
}

std::string Trimmed(std::string_view text) {
  const size_t end = text.find_last_not_of(" \n");
  return std::string(text.substr(0, end == std::string_view::npos ? 0 : end + 1));
}

class ByteStream final : public frontend::TextStream {
 public:
  std::string Append(int32_t token) override {
    held_.push_back(static_cast<char>(token));
    if (held_.size() < CharacterBytes(static_cast<unsigned char>(held_[0]))) return "";
    return std::exchange(held_, "");
  }
  std::string Finish() override { return std::exchange(held_, "").empty() ? "" : "\xEF\xBF\xBD"; }
  bool whole() const override { return held_.empty(); }

 private:
  std::string held_;
};

}  // namespace

std::vector<int32_t> ByteTokens(std::string_view text) {
  std::vector<int32_t> tokens;
  for (const char c : text) tokens.push_back(static_cast<unsigned char>(c));
  return tokens;
}

absl::StatusOr<std::vector<frontend::TextSegment>> FakeTextModel::RenderChat(
    std::span<const frontend::ChatMessage> messages, const frontend::RenderOptions& options) const {
  if (messages.front().role == "assistant") {
    return InvalidArgument("the template wants the first message to be the user's");
  }
  std::vector<frontend::TextSegment> segments;
  for (const auto& [name, value] : options.variables.items()) {
    segments.push_back({name + "=" + value.dump() + "\n", false});
  }
  for (const auto& message : messages) {
    segments.push_back({message.role + ":", true});
    segments.push_back({trims_ ? Trimmed(message.content) : message.content, false});
    segments.push_back({"\n", true});
  }
  if (options.continue_final_message) {
    segments.pop_back();
  } else if (options.add_generation_prompt) {
    segments.push_back({"assistant:", true});
  }
  return segments;
}

absl::StatusOr<std::vector<int32_t>> FakeTextModel::EncodeRendered(
    std::span<const frontend::TextSegment> segments) const {
  std::string text;
  for (const auto& segment : segments) text += segment.text;
  return ByteTokens(text);
}

absl::StatusOr<std::optional<std::vector<int32_t>>> FakeTextModel::EncodeContinuation(
    std::span<const frontend::TextSegment> segments) const {
  return EncodeRendered(segments);
}

absl::StatusOr<std::vector<int32_t>> FakeTextModel::EncodeText(std::string_view text) const {
  return ByteTokens(text);
}

int64_t FakeTextModel::LeastTokens(std::span<const std::string_view> text) const {
  size_t bytes = 0;
  for (const std::string_view piece : text) bytes += piece.size();
  return static_cast<int64_t>(bytes);
}

std::unique_ptr<frontend::TextStream> FakeTextModel::NewStream() const {
  return std::make_unique<ByteStream>();
}

}  // namespace tandem::testing
