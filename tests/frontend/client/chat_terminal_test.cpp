#include "frontend/client/chat_terminal.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <pty.h>
#include <sys/stat.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <csignal>
#include <filesystem>
#include <thread>

#include "tests/support/served_engine.h"

namespace tandem::frontend {
namespace {

using testing::Eventually;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::ServedEngine;

/// Runs the terminal over a pipe; what it printed.
struct PipedChat {
  PipedChat(const ServedEngine& served, std::string input, ChatTerminalOptions options = {}) {
    auto client = Client::Connect({.endpoint = served.endpoint()});
    EXPECT_TRUE(client.ok()) << client.status();
    char* text = nullptr;
    size_t size = 0;
    char* error_text = nullptr;
    size_t error_size = 0;
    input.push_back('\0');
    options.input = fmemopen(input.data(), input.size() - 1, "r");
    options.output = open_memstream(&text, &size);
    options.errors = open_memstream(&error_text, &error_size);
    // A file in memory has no descriptor, so this is never taken for a terminal.
    status = RunChatTerminal(**client, options);
    std::fclose(options.input);
    std::fclose(options.output);
    std::fclose(options.errors);
    output.assign(text, size);
    errors.assign(error_text, error_size);
    std::free(text);
    std::free(error_text);
  }
  absl::Status status;
  std::string output;
  std::string errors;
};

TEST(ChatOnAPipe, AnswersEveryLineAndNothingElse) {
  ServedEngine served;
  const PipedChat chat(served, "hello\n\n   \nnaïve 🚲\r\nlast without newline");
  EXPECT_TRUE(chat.status.ok()) << chat.status;
  EXPECT_EQ(chat.output, "You said: hello\nYou said: naïve 🚲\nYou said: last without newline\n");
  EXPECT_EQ(chat.errors, "");
}

TEST(ChatOnAPipe, RemembersTheConversation) {
  ServedEngine served;
  ChatTerminalOptions options;
  options.system = "Be kind.";
  const PipedChat chat(served, "one\ntwo\n/reset\nthree\n/system Be short.\nfour\n/quit\nfive\n",
                       options);
  EXPECT_TRUE(chat.status.ok()) << chat.status;
  const auto requests = served.engine.requests();
  ASSERT_EQ(requests.size(), 4U);
  const auto prompt = [&](size_t i) {
    return std::string(requests[i].prompt.begin(), requests[i].prompt.end());
  };
  EXPECT_EQ(prompt(0), "system:Be kind.\nuser:one\nassistant:");
  EXPECT_EQ(prompt(1), "system:Be kind.\nuser:one\nassistant:You said: one\nuser:two\nassistant:");
  EXPECT_EQ(prompt(2), "system:Be kind.\nuser:three\nassistant:");
  EXPECT_EQ(prompt(3), "system:Be short.\nuser:four\nassistant:");
}

TEST(ChatOnAPipe, GoesOnWithAConversationOfTheServers) {
  ServedEngine served;
  ChatTerminalOptions options;
  options.system = "Be brief.";
  options.place.conversation = "c1";
  EXPECT_EQ(PipedChat(served, "one\n", options).output, "You said: one\n");
  const PipedChat again(served, "two\n/fork c2\nthree\n/conversations\n/reset\n", options);
  EXPECT_THAT(again.output, HasSubstr("You said: two\nThis is now c2.\nYou said: three\n"));
  EXPECT_THAT(again.output, HasSubstr("  c1: 5 messages"));
  EXPECT_THAT(again.output, HasSubstr("* c2: 7 messages"));
  EXPECT_THAT(again.output, HasSubstr("keeps this conversation"));
  EXPECT_EQ(again.errors, "");
  const auto prompt = served.engine.requests().back().prompt;
  EXPECT_EQ(std::string(prompt.begin(), prompt.end()),
            "system:Be brief.\nuser:one\nassistant:You said: one\nuser:two\n"
            "assistant:You said: two\nuser:three\nassistant:");
  options.system = "Be long.";
  const PipedChat other(served, "four\n", options);
  EXPECT_EQ(other.output, "You said: four\n");
  EXPECT_EQ(other.errors,
            "tandem: --system is not used: conversation \"c1\" is known to the server, and goes on "
            "with the beginning that it has\n");
}

TEST(InFlags, NamesTheFlagsOfFields) {
  EXPECT_EQ(InFlags("max_tokens: expected top_p or context_policy"),
            "--max-tokens: expected --top-p or --context-policy");
  EXPECT_EQ(InFlags("--max-tokens, my_max_tokens, maximum"),
            "--max-tokens, my_max_tokens, maximum");
  EXPECT_EQ(InFlags(""), "");
  absl::Status status = InvalidArgument("min_p: x");
  status.SetPayload("u", absl::Cord("p"));
  EXPECT_EQ(Message(InFlags(status)), "--min-p: x");
  EXPECT_EQ(InFlags(status).GetPayload("u"), absl::Cord("p"));
}

TEST(ChatOnAPipe, GoesOnWithADamagedConversationWhereThatIsAccepted) {
  ServedEngine served({}, std::chrono::microseconds(0), 4096, {}, nullptr, [](Service& made) {
    Conversation kept;
    kept.messages = {{"user", "one"}, {"assistant", "You said: one"}};
    kept.damaged = true;
    made.Restore({"", "c1"}, kept);
  });
  ChatTerminalOptions options;
  options.place.conversation = "c1";
  const PipedChat refused(served, "two\n", options);
  EXPECT_TRUE(absl::IsDataLoss(refused.status)) << refused.status;
  const PipedChat accepted(served, "/accept\ntwo\nthree\n", options);
  EXPECT_THAT(accepted.output, HasSubstr("You said: two\nYou said: three\n"));
  EXPECT_EQ(served.engine.requests().size(), 2U);
}

TEST(ChatOnAPipe, HasCommands) {
  ServedEngine served;
  const PipedChat chat(served, "/stats\nhi\n/stats\n/help\n/nonsense\n /slash is text\n");
  EXPECT_THAT(chat.output, HasSubstr("No answer yet."));
  EXPECT_THAT(chat.output, HasSubstr("12 answer tokens"));
  EXPECT_THAT(chat.output, HasSubstr("/reset"));
  EXPECT_THAT(chat.output, HasSubstr("There is no command /nonsense"));
  EXPECT_THAT(chat.output, HasSubstr("You said:  /slash is text"));
}

TEST(ChatOnAPipe, EndsWithTheFirstError) {
  ServedEngine served({}, std::chrono::microseconds(0), /*context=*/60);
  const PipedChat chat(served, "ok\n" + std::string(100, 'x') + "\nnever\n");
  EXPECT_EQ(chat.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(chat.output, "You said: ok\n");
}

TEST(ChatOnAPipe, MakesEscapeSequencesHarmless) {
  ServedEngine served;
  const PipedChat chat(served, "a\x1B]0;evil\x07\x1B[31mb\xFF\n");
  EXPECT_EQ(chat.output, "You said: ab\uFFFD\n");
}

/// The terminal program in a thread, on a pseudo-terminal.
class TypedChat {
 public:
  TypedChat(const ServedEngine& served, const std::string& history_file) {
    int slave = -1;
    winsize size{.ws_row = 24, .ws_col = 200, .ws_xpixel = 0, .ws_ypixel = 0};
    EXPECT_EQ(openpty(&master_, &slave, nullptr, nullptr, &size), 0);
    auto client = Client::Connect({.endpoint = served.endpoint()});
    EXPECT_TRUE(client.ok()) << client.status();
    client_ = *std::move(client);
    options_.history_file = history_file;
    options_.notice = "A notice.";
    options_.input = fdopen(slave, "r");
    options_.output = fdopen(dup(slave), "w");
    options_.errors = options_.output;
    thread_ = std::thread([this] {
      status_ = RunChatTerminal(*client_, options_);
      ended_ = true;
    });
  }
  ~TypedChat() {
    if (thread_.joinable()) {
      EXPECT_TRUE(Join().ok());
    }
    std::fclose(options_.input);
    std::fclose(options_.output);
    if (master_ >= 0) close(master_);
  }
  void Type(std::string_view text) {
    EXPECT_EQ(write(master_, text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  /// Reads until the text since the last call has this in it.
  bool Shows(const std::string& text) {
    const auto found = [&] {
      const size_t at = seen_.find(text, from_);
      if (at == std::string::npos) return false;
      from_ = at + text.size();
      return true;
    };
    return Eventually([&] {
      pollfd fd{.fd = master_, .events = POLLIN, .revents = 0};
      char buffer[4096];
      if (poll(&fd, 1, 5) == 1 && (fd.revents & POLLIN) != 0) {
        const ssize_t got = read(master_, buffer, sizeof(buffer));
        if (got > 0) seen_.append(buffer, static_cast<size_t>(got));
      }
      return found();
    });
  }
  absl::Status Join() {
    if (!Eventually([&] { return ended_.load(); })) {
      ADD_FAILURE() << "the program does not end; it has shown: " << seen_;
      close(std::exchange(master_, -1));  // hangs up
    }
    thread_.join();
    return status_;
  }
  const std::string& seen() const { return seen_; }

 private:
  int master_ = -1;
  std::unique_ptr<Client> client_;
  ChatTerminalOptions options_;
  absl::Status status_;
  std::atomic<bool> ended_{false};
  std::thread thread_;
  std::string seen_;
  size_t from_ = 0;
};

class ChatOnATerminal : public ::testing::Test {
 protected:
  ChatOnATerminal()
      : folder_(fmt::format("{}tandem-chat-{}", ::testing::TempDir(), getpid())),
        history_(folder_ + "/state/history") {}
  ~ChatOnATerminal() override { std::filesystem::remove_all(folder_); }
  const std::string folder_;
  const std::string history_;
};

TEST_F(ChatOnATerminal, StreamsAnswersAndEndsWithControlD) {
  ServedEngine served;
  TypedChat chat(served, history_);
  EXPECT_TRUE(chat.Shows("bytes on 1 rank, context 4096 tokens. /help")) << chat.seen();
  EXPECT_TRUE(chat.Shows("A notice.")) << chat.seen();
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("naïve\r");
  EXPECT_TRUE(chat.Shows("You said: naïve")) << chat.seen();
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("\x04");
  EXPECT_TRUE(chat.Join().ok());
  struct stat file {};
  ASSERT_EQ(stat(history_.c_str(), &file), 0);
  EXPECT_EQ(file.st_mode & 0777, 0600U);
}

TEST_F(ChatOnATerminal, StopsAnAnswerThatOnlyRepeatsItself) {
  ServedEngine served({}, std::chrono::microseconds(100), /*context=*/8000);
  TypedChat chat(served, history_);
  EXPECT_TRUE(chat.Shows("> "));
  std::string message;
  for (int i = 0; i < 900; ++i) message += "na ";
  chat.Type(message + "\r");
  EXPECT_TRUE(chat.Shows("[stopped: the answer only repeats itself")) << chat.seen();
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("\x04");
  EXPECT_TRUE(chat.Join().ok());
}

TEST_F(ChatOnATerminal, ArrowKeysRecallEarlierLinesOfEarlierRunsToo) {
  ServedEngine served;
  {
    TypedChat chat(served, history_);
    EXPECT_TRUE(chat.Shows("> "));
    chat.Type("first\r");
    EXPECT_TRUE(chat.Shows("You said: first"));
    EXPECT_TRUE(chat.Shows("> "));
    chat.Type("/quit\r");
    EXPECT_TRUE(chat.Join().ok());
  }
  TypedChat chat(served, history_);
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("\x1B[A\x1B[A");  // up, past /quit
  EXPECT_TRUE(chat.Shows("first")) << chat.seen();
  chat.Type("!\r");
  EXPECT_TRUE(chat.Shows("You said: first!")) << chat.seen();
  chat.Type("\x04");
  EXPECT_TRUE(chat.Join().ok());
}

TEST_F(ChatOnATerminal, ControlCStopsTheAnswerAndGivesUpALineButNotTheProgram) {
  // Slow enough that this side keeps up with reading, long enough not to end by itself.
  ServedEngine served({}, std::chrono::milliseconds(5), /*context=*/1 << 20);
  TypedChat chat(served, "");
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("endless\r");
  EXPECT_TRUE(chat.Shows("over and over"));
  std::raise(SIGINT);
  EXPECT_TRUE(chat.Shows("[stopped]")) << chat.seen();
  EXPECT_EQ(served.engine.running(), 0);
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("half a li");
  EXPECT_TRUE(chat.Shows("half a li"));
  std::raise(SIGINT);
  EXPECT_TRUE(chat.Shows("> "));
  std::raise(SIGINT);
  EXPECT_TRUE(chat.Shows("Ctrl-D or /quit")) << chat.seen();
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("still here\r");
  EXPECT_TRUE(chat.Shows("You said: still here")) << chat.seen();
  chat.Type("\x04");
  EXPECT_TRUE(chat.Join().ok());
}

TEST_F(ChatOnATerminal, PastedAndContinuedLinesAreOneMessage) {
  ServedEngine served;
  TypedChat chat(served, "");
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("one\rtwo\rthree\r");
  EXPECT_TRUE(chat.Shows("You said: ")) << chat.seen();
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("four\\\r");
  EXPECT_TRUE(chat.Shows("... "));
  chat.Type("five\r");
  EXPECT_TRUE(chat.Shows("You said: ")) << chat.seen();
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("\x04");
  EXPECT_TRUE(chat.Join().ok());
  const auto requests = served.engine.requests();
  ASSERT_EQ(requests.size(), 2U);
  const std::string first(requests[0].prompt.begin(), requests[0].prompt.end());
  EXPECT_EQ(first, "user:one\ntwo\nthree\nassistant:");
  const std::string second(requests[1].prompt.begin(), requests[1].prompt.end());
  EXPECT_THAT(second, HasSubstr("user:four\nfive\nassistant:"));
}

TEST_F(ChatOnATerminal, GoesOnAfterARefusedMessageAndEndsWithTheServer) {
  ServedEngine served({}, std::chrono::microseconds(0), /*context=*/60);
  TypedChat chat(served, "");
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type(std::string(90, 'x') + "\r");
  EXPECT_TRUE(chat.Shows("holds 60")) << chat.seen();
  EXPECT_TRUE(chat.Shows("> "));
  chat.Type("short\r");
  EXPECT_TRUE(chat.Shows("You said: short")) << chat.seen();
  EXPECT_TRUE(chat.Shows("> "));
  served.engine.Die(Unavailable("rank 1 on host b died"));
  chat.Type("x\r");
  const absl::Status status = chat.Join();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable) << status;
}

}  // namespace
}  // namespace tandem::frontend
