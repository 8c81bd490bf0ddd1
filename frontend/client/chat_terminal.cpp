#include "frontend/client/chat_terminal.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <utility>

#include "core/base/counted.h"
#include "core/base/errno_text.h"
#include "core/system/standard_output.h"
#include "frontend/client/repetition_watch.h"
#include "frontend/client/terminal_text.h"
#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::string_view kHelp =
    "  /system TEXT  set the system message (/system alone shows it); begins a new conversation\n"
    "  /reset        begin a new conversation\n"
    "  /fork NAME    copy the server's conversation and go on with the copy\n"
    "  /accept       go on with what is kept of a damaged conversation\n"
    "  /conversations  those that the server keeps\n"
    "  /stats        tokens and speed of the last answer\n"
    "  /quit         end (so does Ctrl-D)\n"
    "  Ctrl-C stops an answer. A line that ends with \\ goes on in the next.\n";

/// Whom Ctrl-C is for. Signal handlers can reach nothing but what is static.
std::atomic<Client*> interrupted_client{nullptr};
std::atomic<int> interrupted_fd{-1};
static_assert(std::atomic<Client*>::is_always_lock_free && std::atomic<int>::is_always_lock_free);

void OnInterrupt(int) {
  const int saved_errno = errno;
  if (Client* client = interrupted_client.load(); client != nullptr) client->Interrupt();
  const uint64_t one = 1;
  if (const int fd = interrupted_fd.load(); fd >= 0) (void)!write(fd, &one, sizeof(one));
  errno = saved_errno;
}

/// Sends SIGINT to the client and to fd() as long as it lives.
class InterruptGuard {
 public:
  explicit InterruptGuard(Client& client) : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
    interrupted_fd.store(fd_);
    interrupted_client.store(&client);
    struct sigaction action {};
    action.sa_handler = &OnInterrupt;
    action.sa_flags = SA_RESTART;  // what is written to a terminal goes on
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, &before_);
    // Whoever composed this may have blocked it for threads of its own.
    sigset_t interrupt;
    sigemptyset(&interrupt);
    sigaddset(&interrupt, SIGINT);
    pthread_sigmask(SIG_UNBLOCK, &interrupt, &mask_before_);
  }
  ~InterruptGuard() {
    pthread_sigmask(SIG_SETMASK, &mask_before_, nullptr);
    sigaction(SIGINT, &before_, nullptr);
    interrupted_client.store(nullptr);
    interrupted_fd.store(-1);
    close(fd_);
  }
  InterruptGuard(const InterruptGuard&) = delete;
  InterruptGuard& operator=(const InterruptGuard&) = delete;

  int fd() const { return fd_; }
  void Clear() const {
    uint64_t count = 0;
    (void)!read(fd_, &count, sizeof(count));
  }

 private:
  const int fd_;
  struct sigaction before_ {};
  sigset_t mask_before_{};
};

double SecondsSince(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

std::string Rate(int64_t tokens, double seconds) {
  return seconds > 0 ? fmt::format("{:.1f} tokens/s", static_cast<double>(tokens) / seconds) : "-";
}

}  // namespace

std::string InFlags(std::string_view message) {
  static constexpr std::string_view kFields[] = {"max_tokens",
                                                 "min_tokens",
                                                 "top_k",
                                                 "top_p",
                                                 "min_p",
                                                 "context_policy",
                                                 "repetition_penalty",
                                                 "presence_penalty",
                                                 "frequency_penalty"};
  std::string text;
  const auto is_name = [](char c) { return c == '_' || (c >= 'a' && c <= 'z'); };
  for (size_t begin = 0; begin < message.size();) {
    size_t end = begin;
    while (end < message.size() && is_name(message[end])) ++end;
    std::string word(message.substr(begin, end - begin));
    if (std::find(std::begin(kFields), std::end(kFields), word) != std::end(kFields)) {
      std::replace(word.begin(), word.end(), '_', '-');
      word.insert(0, "--");
    }
    text += word;
    if (end < message.size()) text += message[end];
    begin = end + 1;
  }
  return text;
}

absl::Status InFlags(const absl::Status& status) {
  absl::Status in_flags(status.code(), InFlags(Message(status)));
  status.ForEachPayload(
      [&](absl::string_view url, const absl::Cord& payload) { in_flags.SetPayload(url, payload); });
  return in_flags;
}

ChatConversation::ChatConversation(Client& client, const ChatTerminalOptions& options,
                                   bool interactive)
    : client_(client),
      options_(options),
      interactive_(interactive),
      system_(options.system),
      place_(options.place) {
  Reset();
}

nlohmann::json ChatConversation::ServerMessages() {
  const auto found = client_.ConversationCommand(
      "get", {{"conversation", place_.conversation}, {"tenant", place_.tenant}});
  const auto none = nlohmann::json::array();
  return found.ok() ? found->value("messages", none) : none;
}

void ChatConversation::TellUnusedSystem(const nlohmann::json& messages) {
  const nlohmann::json& first = messages.front();
  if (system_.empty() || !first.is_object()) return;
  if (first.value("role", "") == "system" && first.value("content", "") == system_) return;
  std::fprintf(
      options_.errors,
      "tandem: --system is not used: conversation \"%s\" is known to the server, and goes on "
      "with the beginning that it has\n",
      TerminalText().Clean(place_.conversation).c_str());
}

void ChatConversation::Fork(const std::string& name) {
  if (!kept_by_server() || name.empty()) {
    Print("/fork NAME copies a conversation that the server keeps (--conversation).\n");
    return;
  }
  const auto forked = client_.ConversationCommand(
      "fork", {{"conversation", place_.conversation}, {"tenant", place_.tenant}, {"to", name}});
  if (!forked.ok()) {
    Print(TerminalText().Clean(Message(forked.status())) + "\n");
    return;
  }
  place_.conversation = name;
  Print(fmt::format("This is now {}.\n", TerminalText().Clean(name)));
}

void ChatConversation::ListConversations() {
  std::string after;
  for (bool more = true; more;) {
    const auto page =
        client_.ConversationCommand("list", {{"tenant", place_.tenant}, {"after", after}});
    if (!page.ok()) {
      Print(TerminalText().Clean(Message(page.status())) + "\n");
      return;
    }
    const nlohmann::json list = page->value("conversations", nlohmann::json::array());
    if (after.empty() && list.empty()) Print("The server keeps no conversations.\n");
    for (const nlohmann::json& entry : list) {
      after = entry.value("conversation", "");
      Print(fmt::format("{}{}: {}, {}\n", after == place_.conversation ? "* " : "  ",
                        TerminalText().Clean(after),
                        Counted(entry.value("message_count", 0), "message"),
                        Counted(entry.value("tokens", 0), "token")));
    }
    more = page->value("more", false) && !list.empty();
  }
}

void ChatConversation::Reset() {
  messages_.clear();
  if (kept_by_server()) {
    const nlohmann::json known = ServerMessages();
    if (known.is_array() && !known.empty()) return TellUnusedSystem(known);
  }
  if (!system_.empty()) messages_.push_back({"system", system_});
}

void ChatConversation::Print(std::string_view text) {
  if (!output_.ok()) return;
  errno = 0;
  const bool written = std::fwrite(text.data(), 1, text.size(), options_.output) == text.size() &&
                       std::fflush(options_.output) == 0;
  if (!written) output_ = OutputError(errno);
}

absl::Status ChatConversation::Take(const std::string& line) {
  const size_t begin = line.find_first_not_of(" \t\r\n");
  if (begin == std::string::npos) return absl::OkStatus();
  if (line[0] == '/') {
    Command(line);
    return output_;
  }
  return Say(line);
}

void ChatConversation::Command(const std::string& line) {
  const size_t space = line.find_first_of(" \t\n");
  const std::string name = line.substr(0, space);
  const size_t begin = space == std::string::npos ? space : line.find_first_not_of(" \t\n", space);
  const std::string argument = begin == std::string::npos ? "" : line.substr(begin);
  if (name == "/quit" || name == "/exit") {
    ended_ = true;
  } else if (name == "/fork") {
    Fork(argument);
  } else if (name == "/accept") {
    place_.accept_damage = true;
    Print("The next message goes on from what is kept.\n");
  } else if (name == "/conversations") {
    ListConversations();
  } else if (kept_by_server() && (name == "/reset" || name == "/system")) {
    Print("The server keeps this conversation: end with /quit and begin another one.\n");
  } else if (name == "/reset") {
    Reset();
    Print("A new conversation.\n");
  } else if (name == "/system") {
    if (argument.empty()) {
      Print(system_.empty() ? "No system message of your own is set.\n"
                            : TerminalText().Clean(system_) + "\n");
    } else {
      system_ = argument;
      Reset();
      Print("A new conversation, with this system message.\n");
    }
  } else if (name == "/stats") {
    ShowStats();
  } else if (name == "/help") {
    Print(kHelp);
  } else {
    Print(
        fmt::format("There is no command {}; /help shows them. To send a line that begins with a "
                    "slash, put a space before it.\n",
                    TerminalText().Clean(name)));
  }
}

absl::Status ChatConversation::Say(const std::string& content) {
  const std::vector<ChatMessage> before = messages_;
  messages_.push_back({"user", content});
  TerminalText cleaner;
  RepetitionWatch watch;
  bool repeats = false;
  const Clock::time_point start = Clock::now();
  std::optional<double> first_text;
  char last_character = '\n';
  const auto on_text = [&](std::string_view text) {
    if (!first_text) first_text = SecondsSince(start);
    const std::string clean = cleaner.Clean(text);
    if (!clean.empty()) last_character = clean.back();
    Print(clean);
    if (interactive_ && !repeats && watch.Append(text)) {
      repeats = true;
      client_.Interrupt();
    }
    if (!output_.ok()) client_.Interrupt();
  };
  absl::StatusOr<Answer> answer = client_.Chat(messages_, options_.params, on_text, place_);
  if (last_character != '\n' || (answer.ok() && answer->text.empty())) Print("\n");
  if (!answer.ok()) {
    messages_ = before;
    if (!interactive_ || answer.status().code() == absl::StatusCode::kUnavailable) {
      return answer.status();
    }
    std::fprintf(options_.errors, "%s\n", InFlags(Message(answer.status())).c_str());
    if (!messages_.empty()) std::fprintf(options_.errors, "(/reset begins a new conversation)\n");
    return output_;
  }
  TANDEM_RETURN_IF_ERROR(output_);
  place_.accept_damage = false;
  if (answer->reason == parallel::FinishReason::kLength) {
    std::fprintf(options_.errors, "[the answer ends here: it has reached %s]\n",
                 options_.params.max_tokens ? "the most tokens it may have" : "the context's end");
  } else if (answer->reason == parallel::FinishReason::kCancelled) {
    std::fprintf(options_.errors, "%s\n",
                 repeats ? "[stopped: the answer only repeats itself; ask again, or in other words]"
                         : "[stopped]");
  }
  if (!interactive_ && answer->seed && !options_.params.seed) {
    std::fprintf(options_.errors, "tandem: drew --seed %s\n",
                 fmt::to_string(*answer->seed).c_str());
  }
  if (kept_by_server()) {
    messages_.clear();
  } else {
    messages_.push_back({"assistant", answer->text});
  }
  ++answers_;
  tokens_ += answer->usage.completion_tokens;
  last_seconds_ = SecondsSince(start);
  last_first_text_seconds_ = first_text.value_or(last_seconds_);
  last_ = *std::move(answer);
  return absl::OkStatus();
}

void ChatConversation::ShowStats() {
  if (!last_) {
    Print("No answer yet.\n");
    return;
  }
  const parallel::Usage& usage = last_->usage;
  Print(fmt::format("last answer: {} ({} reused, {}), {} ({})\n",
                    Counted(usage.prompt_tokens, "prompt token"), usage.reused_tokens,
                    Rate(usage.prompt_tokens - usage.reused_tokens, usage.prefill_seconds),
                    Counted(usage.completion_tokens, "answer token"),
                    Rate(usage.completion_tokens, usage.decode_seconds)));
  Print(fmt::format("             first text after {:.2f} s, all after {:.2f} s\n",
                    last_first_text_seconds_, last_seconds_));
  if (last_->seed) Print(fmt::format("             seed {}\n", *last_->seed));
  Print(fmt::format("this chat:   {}, {}\n", Counted(answers_, "answer"),
                    Counted(tokens_, "answer token")));
}

namespace {

absl::Status RunOnPipe(Client& client, const ChatTerminalOptions& options) {
  const std::unique_ptr<LineReader> lines = ReadLinesFrom(options.input);
  ChatConversation conversation(client, options, /*interactive=*/false);
  std::string line;
  bool told = false;
  while (!conversation.ended() && lines->Read("", line) == LineReader::Result::kLine) {
    if (ValidUtf8Prefix(line) < line.size()) {
      line = ReplaceInvalidUtf8(line);
      if (!std::exchange(told, true)) {
        std::fprintf(options.errors,
                     "tandem: standard input is not all UTF-8: what is none is read as U+FFFD\n");
      }
    }
    TANDEM_RETURN_IF_ERROR(conversation.Take(line));
  }
  if (std::ferror(options.input) == 0) return absl::OkStatus();
  return InvalidArgument("standard input: cannot be read: {}", ErrnoText(errno));
}

void Greet(Client& client, const ChatTerminalOptions& options) {
  const auto status = client.ServerStatus();
  if (!status.ok() || !status->contains("model")) return;
  const nlohmann::json& model = (*status)["model"];
  if (!model.is_object() || !model.contains("name") || !model["name"].is_string()) return;
  const size_t ranks = status->contains("ranks") ? (*status)["ranks"].size() : 0;
  const std::string name = TerminalText().Clean(model["name"].get_ref<const std::string&>());
  const std::string greeting =
      fmt::format("{} on {}, context {}. /help shows the commands, Ctrl-C stops an answer.\n", name,
                  Counted(static_cast<int64_t>(ranks), "rank"),
                  Counted(model.value("context", int64_t{0}), "token"));
  std::fputs(greeting.c_str(), options.output);
  if (!options.notice.empty()) std::fprintf(options.output, "%s\n", options.notice.c_str());
}

absl::Status RunOnTerminal(Client& client, const ChatTerminalOptions& options) {
  const InterruptGuard interrupts(client);
  TANDEM_ASSIGN_OR_RETURN(
      const std::unique_ptr<LineReader> lines,
      EditLinesOn(options.input, options.output, options.history_file, interrupts.fd()));
  Greet(client, options);
  ChatConversation conversation(client, options, /*interactive=*/true);
  bool interrupted_before = false;
  std::string line;
  while (!conversation.ended()) {
    interrupts.Clear();
    const LineReader::Result result = lines->Read("> ", line);
    if (result == LineReader::Result::kEnd) {
      std::fputc('\n', options.output);
      break;
    }
    if (result == LineReader::Result::kInterrupted) {
      if (interrupted_before) std::fputs("(Ctrl-D or /quit ends the program)\n", options.output);
      interrupted_before = true;
      continue;
    }
    interrupted_before = false;
    TANDEM_RETURN_IF_ERROR(conversation.Take(line));
  }
  return absl::OkStatus();
}

}  // namespace

bool IsTerminal(const ChatTerminalOptions& options) {
  return isatty(fileno(options.input)) != 0 && isatty(fileno(options.output)) != 0;
}

absl::Status RunChatTerminal(Client& client, const ChatTerminalOptions& options) {
  return IsTerminal(options) ? RunOnTerminal(client, options) : RunOnPipe(client, options);
}

}  // namespace tandem::frontend
