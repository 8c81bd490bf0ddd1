#pragma once

#include <cstdio>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "frontend/chat/generation.h"
#include "frontend/client/client.h"
#include "frontend/client/line_reader.h"

namespace tandem::frontend {

struct ChatTerminalOptions {
  std::string system;       // message that begins every conversation; empty: the template's own
  GenerationParams params;  // of every answer
  ChatPlace place;          // with a conversation: the server keeps it
  std::string history_file = DefaultHistoryFile();  // of typed lines; empty: none is kept
  std::string notice;                               // a line below the greeting; empty: none
  FILE* input = stdin;
  FILE* output = stdout;
  FILE* errors = stderr;
};

/// Whether somebody sits at both ends.
bool IsTerminal(const ChatTerminalOptions& options);

/// A message of the server's in the words of the command line: `max_tokens` becomes --max-tokens.
std::string InFlags(std::string_view message);
absl::Status InFlags(const absl::Status& status);

/// A conversation, line by line: each line is a message, or a command that begins with a slash.
/// Messages are kept here and sent whole, unless the server keeps the conversation: then a new one
/// is sent alone. Thread safety: one thread.
class ChatConversation {
 public:
  /// `interactive`: somebody watches; hints are shown and failed messages may be tried again.
  ChatConversation(Client& client, const ChatTerminalOptions& options, bool interactive);

  /// Answers one line. Errors: the answer failed (not interactive), or the server is gone.
  absl::Status Take(const std::string& line);
  /// True after /quit.
  bool ended() const { return ended_; }
  const std::vector<ChatMessage>& messages() const { return messages_; }

 private:
  absl::Status Say(const std::string& content);
  void Command(const std::string& line);
  void Reset();
  /// Says that the server's conversation has a beginning of its own.
  void TellUnusedSystem(const nlohmann::json& messages);
  bool kept_by_server() const { return !place_.conversation.empty(); }
  /// The messages of this conversation that the server knows already, as far as one page goes.
  nlohmann::json ServerMessages();
  void Fork(const std::string& name);
  void ListConversations();
  void ShowStats();
  void Print(std::string_view text);

  Client& client_;
  const ChatTerminalOptions& options_;
  const bool interactive_;
  std::string system_;
  ChatPlace place_;
  std::vector<ChatMessage> messages_;
  std::optional<Answer> last_;
  double last_seconds_ = 0;
  double last_first_text_seconds_ = 0;
  int64_t answers_ = 0;
  int64_t tokens_ = 0;
  bool ended_ = false;
  absl::Status output_;  // the first error of what was printed
};

/// `tandem chat`: on a terminal, with editing, Ctrl-C that stops an answer (and gives up a line)
/// but not the program, Ctrl-D that ends it; from a pipe, answers to all its lines and nothing
/// else. OK at the end of the input; otherwise what failed. While it runs on a terminal it owns
/// SIGINT, and only one may run in a process.
absl::Status RunChatTerminal(Client& client, const ChatTerminalOptions& options);

}  // namespace tandem::frontend
