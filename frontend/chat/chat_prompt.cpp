#include "frontend/chat/chat_prompt.h"

#include <algorithm>
#include <charconv>
#include <limits>
#include <utility>

namespace tandem::frontend {
namespace {

constexpr int64_t kRoomShare = 4;  // an answer's room is at most this part of the context
/// Tokens that a template puts around a message, rather too many than too few: an estimate below
/// the truth would move the cut every turn.
constexpr int64_t kTemplateTokens = 16;

/// What follows `beginning` in `whole`; nothing if `whole` does not begin with it, or if another
/// part of it came from the template.
std::optional<std::vector<TextSegment>> RestAfter(const std::vector<TextSegment>& whole,
                                                  const std::vector<TextSegment>& beginning) {
  size_t at = 0;
  size_t offset = 0;  // in whole[at]
  for (const TextSegment& segment : beginning) {
    std::string_view wanted = segment.text;
    while (!wanted.empty()) {
      if (at == whole.size()) return std::nullopt;
      const std::string_view found = std::string_view(whole[at].text).substr(offset);
      const size_t length = std::min(found.size(), wanted.size());
      if (found.substr(0, length) != wanted.substr(0, length)) return std::nullopt;
      if (length > 0 && whole[at].from_template != segment.from_template) return std::nullopt;
      wanted.remove_prefix(length);
      offset += length;
      if (offset == whole[at].text.size()) {
        ++at;
        offset = 0;
      }
    }
  }
  std::vector<TextSegment> rest;
  for (; at < whole.size(); ++at, offset = 0) {
    rest.push_back({whole[at].text.substr(offset), whole[at].from_template});
  }
  return rest;
}

/// The messages of `input` that are left, with its history.
absl::StatusOr<ChatHistory> Encode(const TextModel& model, std::span<const ChatMessage> messages,
                                   const ChatInput& input) {
  const ChatHistory* const history = input.history;
  const bool must_fit = input.policy.kind == ContextPolicy::Kind::kStop;
  ChatHistory prompt;
  TANDEM_ASSIGN_OR_RETURN(prompt.segments, model.RenderChat(messages, input.render));
  if (must_fit) {
    std::vector<std::string_view> pieces;
    for (const TextSegment& segment : prompt.segments) pieces.emplace_back(segment.text);
    TANDEM_RETURN_IF_ERROR(CheckTextFits(model, pieces));
  }
  if (history != nullptr && !history->tokens.empty()) {
    if (const auto rest = RestAfter(prompt.segments, history->segments)) {
      TANDEM_ASSIGN_OR_RETURN(const auto more, model.EncodeContinuation(*rest));
      if (more) {
        prompt.tokens.reserve(history->tokens.size() + more->size());
        prompt.tokens = history->tokens;
        prompt.tokens.insert(prompt.tokens.end(), more->begin(), more->end());
        return prompt;
      }
    }
  }
  TANDEM_ASSIGN_OR_RETURN(prompt.tokens, model.EncodeRendered(prompt.segments));
  return prompt;
}

/// A chat with its oldest messages left out.
class ShiftedChat {
 public:
  ShiftedChat(const TextModel& model, const ChatInput& input, int64_t room)
      : model_(model), input_(input), room_(room) {
    while (system_ < input.messages.size() && input.messages[system_].role == "system") ++system_;
    first_ = std::max(system_, input.first);
  }

  /// Encodes what is left, with the history where nothing more was left out.
  absl::StatusOr<ChatHistory> Encode() const {
    std::vector<ChatMessage> kept(input_.messages.begin(),
                                  input_.messages.begin() + static_cast<ptrdiff_t>(system_));
    kept.insert(kept.end(), input_.messages.begin() + static_cast<ptrdiff_t>(first_),
                input_.messages.end());
    return frontend::Encode(model_, kept, input_);
  }

  bool Fits(const ChatHistory& prompt) const {
    return static_cast<int64_t>(prompt.tokens.size()) + room_ <= model_.context();
  }

  /// Leaves out more, until what fits is left, or the last user's message.
  absl::Status Shift(ChatHistory& prompt) {
    TANDEM_RETURN_IF_ERROR(Count());
    if (input_.history == nullptr) {
      for (size_t end = first_ + 1; end < input_.messages.size(); ++end) {
        if (IsUser(end - 1) && !IsUser(end)) ShiftTurn(end);
      }
    }
    ShiftTurn(input_.messages.size());
    int64_t target = model_.context() / 2;
    TANDEM_ASSIGN_OR_RETURN(prompt, Encode());
    // The estimate was below the truth. Halving bounds how often all is encoded.
    while (!Fits(prompt) && CutTo(input_.messages.size(), target)) {
      target /= 2;
      TANDEM_ASSIGN_OR_RETURN(prompt, Encode());
    }
    return absl::OkStatus();
  }

  size_t first() const { return first_; }
  int64_t dropped_messages() const { return static_cast<int64_t>(first_ - system_); }
  int64_t dropped_tokens() const {
    const size_t before = std::max(system_, input_.first);
    const int64_t more = first_ == before ? 0 : sums_[first_] - sums_[before];
    return input_.dropped_tokens + more;
  }

 private:
  bool IsUser(size_t index) const { return input_.messages[index].role == "user"; }

  /// Tokens of each message's content, summed up.
  absl::Status Count() {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> nothing, model_.EncodeRendered({}));
    sums_.assign(1, 0);
    for (size_t i = 0; i < input_.messages.size(); ++i) {
      size_t tokens = nothing.size();
      if (i < system_ || i >= first_) {
        const TextSegment content{input_.messages[i].content, false};
        TANDEM_ASSIGN_OR_RETURN(const auto ids, model_.EncodeRendered(std::span(&content, 1)));
        tokens = ids.size();
      }
      sums_.push_back(sums_.back() + static_cast<int64_t>(tokens - nothing.size()));
    }
    return absl::OkStatus();
  }

  /// About how many tokens the prompt has whose messages begin with `first` and end before `end`.
  int64_t Estimate(size_t first, size_t end) const {
    return sums_[system_] + sums_[end] - sums_[first] +
           kTemplateTokens * static_cast<int64_t>(system_ + end - first + 1);
  }

  void ShiftTurn(size_t end) {
    if (Estimate(first_, end) + room_ <= model_.context()) return;
    CutTo(end, model_.context() / 2);
  }

  /// Moves the beginning on to a user's message from which `target` tokens are left, or to the
  /// last. False if it is there already.
  bool CutTo(size_t end, int64_t target) {
    size_t cut = first_;
    for (size_t i = first_ + 1; i < end; ++i) {
      if (cut != first_ && Estimate(cut, end) <= target) break;
      if (IsUser(i)) cut = i;
    }
    return std::exchange(first_, cut) != cut;
  }

  const TextModel& model_;
  const ChatInput& input_;
  const int64_t room_;
  size_t system_ = 0;          // messages at the beginning that stay
  size_t first_ = 0;           // of the others that stay
  std::vector<int64_t> sums_;  // [messages + 1]
};

}  // namespace

absl::StatusOr<ContextPolicy> ParseContextPolicy(std::string_view text) {
  constexpr std::string_view kWindow = "window:";
  if (text == "stop") return ContextPolicy{};
  if (text == "shift") return ContextPolicy{.kind = ContextPolicy::Kind::kShift};
  if (text.starts_with(kWindow)) {
    int32_t window = 0;
    const char* end = text.data() + text.size();
    const auto [rest, error] = std::from_chars(text.data() + kWindow.size(), end, window);
    if (error == std::errc() && rest == end && window > 0) {
      return ContextPolicy{.kind = ContextPolicy::Kind::kWindow, .window = window};
    }
  }
  constexpr size_t kShown = 40;
  return InvalidArgument("expected \"stop\", \"shift\" or \"window:N\" with N tokens, found \"{}\"",
                         text.substr(0, kShown));
}

absl::StatusOr<ChatPrompt> MakeChatPrompt(const TextModel& model, const ChatInput& input) {
  const int64_t context = model.context();
  const int64_t most_room = context / kRoomShare;
  const int64_t room = std::min(input.max_tokens.value_or(most_room), most_room);
  ShiftedChat chat(model, input, room);
  ChatPrompt prompt;
  TANDEM_ASSIGN_OR_RETURN(prompt.whole, chat.Encode());
  if (input.policy.kind == ContextPolicy::Kind::kShift && !chat.Fits(prompt.whole)) {
    TANDEM_RETURN_IF_ERROR(chat.Shift(prompt.whole));
  }
  if (input.policy.kind == ContextPolicy::Kind::kWindow) {
    const auto size = static_cast<int64_t>(prompt.whole.tokens.size());
    const int64_t window = std::min<int64_t>(input.policy.window, context - room);
    prompt.window_begin = static_cast<size_t>(std::max<int64_t>(0, size - window));
  }
  prompt.first = chat.first();
  prompt.dropped_tokens = chat.dropped_tokens();
  prompt.dropped = {.messages = chat.dropped_messages(),
                    .tokens = prompt.dropped_tokens + static_cast<int64_t>(prompt.window_begin)};
  return prompt;
}

ChatHistory HistoryAfterAnswer(ChatHistory prompt, std::string_view text,
                               std::span<const int32_t> tokens, size_t token_bytes) {
  prompt.tokens.insert(prompt.tokens.end(), tokens.begin(), tokens.end());
  if (token_bytes > 0) {
    prompt.segments.push_back({std::string(text.substr(0, token_bytes)), false});
  }
  return prompt;
}

}  // namespace tandem::frontend
