#include "frontend/client/line_reader.h"

#include <fcntl.h>
#include <histedit.h>
#include <langinfo.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <clocale>
#include <cstdlib>
#include <cstring>
#include <cwchar>
#include <filesystem>
#include <utility>

#include "core/base/errno_text.h"
#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

constexpr int kHistoryLines = 1000;
constexpr int kPasteMillis = 20;                 // what comes this soon after a line was not typed
constexpr size_t kMostBytes = size_t{16} << 20;  // of one message

class PipeLines final : public LineReader {
 public:
  explicit PipeLines(FILE* input) : input_(input) {}

  Result Read(const std::string&, std::string& line) override {
    std::string bytes;
    int byte = 0;
    // What is longer comes in pieces, the first of which no server takes.
    while (bytes.size() < kMostBytes && (byte = getc_unlocked(input_)) != EOF) {
      bytes += static_cast<char>(byte);
      if (byte == '\n') break;
    }
    if (bytes.empty()) return Result::kEnd;
    line = std::move(bytes);
    while (!line.empty() && (line.back() == '\n' || line.back() == '\r')) line.pop_back();
    return Result::kLine;
  }

 private:
  FILE* const input_;
};

class EditedLines final : public LineReader {
 public:
  EditedLines(FILE* input, FILE* output, std::string history_file, int interrupt_fd)
      : input_fd_(fileno(input)),
        output_(output),
        interrupt_fd_(interrupt_fd),
        history_file_(std::move(history_file)),
        edit_(el_init("tandem", input, output, output)),
        history_(history_init()) {}
  ~EditedLines() override {
    if (history_ != nullptr) history_end(history_);
    if (edit_ != nullptr) el_end(edit_);
  }
  EditedLines(const EditedLines&) = delete;
  EditedLines& operator=(const EditedLines&) = delete;

  absl::Status SetUp() {
    if (edit_ == nullptr || history_ == nullptr) {
      return Internal("the terminal cannot be used for editing: {}", ErrnoText(errno));
    }
    el_set(edit_, EL_CLIENTDATA, this);
    el_set(edit_, EL_PROMPT, &EditedLines::Prompt);
    el_set(edit_, EL_EDITOR, "emacs");
    el_set(edit_, EL_SIGNAL, 0);
    el_set(edit_, EL_GETCFN, &EditedLines::GetCharacter);
    HistEvent event;
    history(history_, &event, H_SETSIZE, kHistoryLines);
    history(history_, &event, H_SETUNIQUE, 1);
    el_set(edit_, EL_HIST, history, history_);
    el_source(edit_, nullptr);  // the person's own ~/.editrc
    LoadHistory();
    return absl::OkStatus();
  }

  Result Read(const std::string& prompt, std::string& line) override {
    prompt_ = prompt;
    line.clear();
    while (true) {
      std::string piece;
      if (const Result result = ReadOne(piece); result != Result::kLine) {
        return line.empty() || result == Result::kInterrupted ? result : Result::kLine;
      }
      const bool continued = piece.ends_with('\\');
      if (continued) piece.pop_back();
      line += piece;
      if (line.size() > kMostBytes) return Result::kLine;
      if (!continued && !MoreIsPasted()) return Result::kLine;
      line += '\n';
      prompt_ = "... ";
    }
  }

 private:
  Result ReadOne(std::string& piece) {
    interrupted_ = false;
    int length = 0;
    const char* text = el_gets(edit_, &length);
    if (interrupted_) {
      el_reset(edit_);
      std::fputc('\n', output_);
      std::fflush(output_);
      return Result::kInterrupted;
    }
    if (text == nullptr || length <= 0) return Result::kEnd;
    piece = ReplaceInvalidUtf8(std::string_view(text, static_cast<size_t>(length)));
    while (piece.ends_with('\n') || piece.ends_with('\r')) piece.pop_back();
    if (piece.find_first_not_of(" \t") != std::string::npos) Remember(piece);
    return Result::kLine;
  }

  bool MoreIsPasted() const {
    pollfd input{.fd = input_fd_, .events = POLLIN, .revents = 0};
    return poll(&input, 1, kPasteMillis) == 1 && (input.revents & POLLIN) != 0;
  }

  static char* Prompt(EditLine* edit) { return Self(edit)->prompt_.data(); }

  static EditedLines* Self(EditLine* edit) {
    void* self = nullptr;
    el_get(edit, EL_CLIENTDATA, &self);
    return static_cast<EditedLines*>(self);
  }

  /// libedit's own reader swallows the first interruption; this one ends the line on it.
  static int GetCharacter(EditLine* edit, wchar_t* out) {
    EditedLines* self = Self(edit);
    std::mbstate_t state{};
    while (true) {
      std::array<pollfd, 2> fds{{{self->input_fd_, POLLIN, 0}, {self->interrupt_fd_, POLLIN, 0}}};
      if (poll(fds.data(), fds.size(), -1) < 0 && errno != EINTR) return -1;
      uint64_t count = 0;
      if (read(self->interrupt_fd_, &count, sizeof(count)) > 0) {
        self->interrupted_ = true;
        return -1;
      }
      if (fds[0].revents == 0) continue;
      char byte = 0;
      const ssize_t got = read(self->input_fd_, &byte, 1);
      if (got < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (got <= 0) return static_cast<int>(got);
      // A Ctrl-D that was typed before libedit had the terminal to itself arrives as a zero byte.
      constexpr char kEndOfTransmission = 4;
      if (byte == '\0') byte = kEndOfTransmission;
      // NOLINTNEXTLINE(concurrency-mt-unsafe): with a state of its own it is safe.
      const size_t used = std::mbrtowc(out, &byte, 1, &state);
      if (used == static_cast<size_t>(-2)) continue;  // a character of several bytes
      if (used == static_cast<size_t>(-1)) {
        state = {};
        continue;
      }
      return 1;
    }
  }

  void LoadHistory() {
    if (history_file_.empty()) return;
    const std::filesystem::path path(history_file_);
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    // Made here, so that it is nobody else's from its first byte on.
    const int fd = open(history_file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) {
      spdlog::warn("the chat's lines are not kept: cannot open {}: {}", history_file_,
                   ErrnoText(errno));
      history_file_.clear();
      return;
    }
    (void)fchmod(fd, S_IRUSR | S_IWUSR);
    close(fd);
    HistEvent event;
    history(history_, &event, H_LOAD, history_file_.c_str());
  }

  void Remember(const std::string& line) {
    HistEvent event;
    history(history_, &event, H_ENTER, line.c_str());
    if (!history_file_.empty()) history(history_, &event, H_SAVE, history_file_.c_str());
  }

  const int input_fd_;
  FILE* const output_;
  const int interrupt_fd_;
  std::string history_file_;
  EditLine* const edit_;
  History* const history_;
  std::string prompt_;
  bool interrupted_ = false;
};

}  // namespace

std::unique_ptr<LineReader> ReadLinesFrom(FILE* input) {
  return std::make_unique<PipeLines>(input);
}

absl::StatusOr<std::unique_ptr<LineReader>> EditLinesOn(FILE* input, FILE* output,
                                                        const std::string& history_file,
                                                        int interrupt_fd) {
  // NOLINTBEGIN(concurrency-mt-unsafe): once, before the first line is read.
  std::setlocale(LC_CTYPE, "");
  if (std::strcmp(nl_langinfo(CODESET), "UTF-8") != 0) std::setlocale(LC_CTYPE, "C.UTF-8");
  // NOLINTEND(concurrency-mt-unsafe)
  auto reader = std::make_unique<EditedLines>(input, output, history_file, interrupt_fd);
  TANDEM_RETURN_IF_ERROR(reader->SetUp());
  return reader;
}

std::string DefaultHistoryFile() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && *state != '\0') {
    return std::string(state) + "/tandem/chat_history";
  }
  const char* home = std::getenv("HOME");
  if (home == nullptr || *home == '\0') return "";
  return std::string(home) + "/.local/state/tandem/chat_history";
}

}  // namespace tandem::frontend
