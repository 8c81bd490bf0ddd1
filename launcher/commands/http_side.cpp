#include "launcher/commands/http_side.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <chrono>
#include <sstream>
#include <utility>
#include <vector>

#include "core/base/errno_text.h"
#include "kv_store/base/files.h"
#include "launcher/options/option_words.h"
#include "launcher/options/version.h"

namespace tandem::launcher {
namespace {

constexpr std::chrono::milliseconds kLastWords{1000};  // for what the service said last

/// Lines at the end of a file. Thread safety: one thread.
class LineFile {
 public:
  static absl::StatusOr<std::shared_ptr<LineFile>> Open(const std::string& path) {
    const int file = open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (file < 0) {
      return InvalidArgument("--access-log {}: it cannot be written: {}", path, ErrnoText(errno));
    }
    return std::make_shared<LineFile>(path, file);
  }
  LineFile(std::string path, int file) : path_(std::move(path)), file_(file) {}
  ~LineFile() { close(file_); }
  LineFile(const LineFile&) = delete;
  LineFile& operator=(const LineFile&) = delete;

  void Add(const std::string& line) {
    const std::string whole = line + "\n";
    const ssize_t written = write(file_, whole.data(), whole.size());
    const bool fails = written != static_cast<ssize_t>(whole.size());
    if (fails && !failed_) {
      spdlog::warn("--access-log {}: lines are lost: {}", path_,
                   written < 0 ? ErrnoText(errno) : "the disk is full");
    }
    failed_ = fails;
  }

 private:
  const std::string path_;
  const int file_;
  bool failed_ = false;  // it was told
};

absl::StatusOr<std::vector<std::string>> ReadKeys(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, kv_store::ReadSmallFile(path, /*secret=*/true));
  std::vector<std::string> keys;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (line.empty()) continue;
    for (const char c : line) {
      if (c > ' ' && c <= '~') continue;
      return InvalidArgument(
          "{}: key {} has a blank, or a character that is not printable ASCII; write one key a "
          "line",
          path, keys.size() + 1);
    }
    keys.push_back(std::move(line));
  }
  if (keys.empty()) {
    return InvalidArgument("{}: there is no key in it; write one key a line", path);
  }
  return keys;
}

std::vector<std::string> Words(const std::string& list) {
  std::vector<std::string> words;
  for (std::string& word : SplitAtCommas(list)) {
    if (!word.empty()) words.push_back(std::move(word));
  }
  return words;
}

}  // namespace

absl::StatusOr<HttpPreparation> PrepareHttp(const HttpOptions& options,
                                            const OptionSources& sources) {
  HttpPreparation preparation;
  if (options.address == "off") return preparation;
  auto listener = frontend::HttpListener::Listen(options.address);
  if (!listener.ok()) {
    const bool chosen = options.address != HttpOptions().address || sources.Given("--http");
    if (chosen) return sources.Name(listener.status());
    spdlog::warn("{}: there is no HTTP gateway", Message(listener.status()));
    return preparation;
  }
  preparation.listener = *std::move(listener);
  frontend::GatewayOptions& gateway = preparation.options;
  gateway.http.clients = options.max_clients;
  gateway.http.request.body_bytes = options.max_body;
  gateway.guard.hosts = Words(options.hosts);
  gateway.guard.origins = Words(options.origins);
  gateway.version = kVersion;
  if (!options.key_file.empty()) {
    auto keys = ReadKeys(options.key_file);
    if (!keys.ok()) return sources.Blame("--api-key-file", keys.status());
    gateway.guard.keys = *std::move(keys);
  }
  std::vector<std::string> names = Words(options.names);
  if (!names.empty()) {
    gateway.model = names.front();
    gateway.aliases.assign(names.begin() + 1, names.end());
  }
  if (!options.access_log.empty()) {
    auto file = LineFile::Open(options.access_log);
    if (!file.ok()) return sources.Name(file.status());
    gateway.access_log = [file = *file](const std::string& line) { file->Add(line); };
  }
  if (!preparation.listener->loopback() && gateway.guard.keys.empty()) {
    spdlog::warn(
        "--http {}: whoever reaches this host may use it, since there is no --api-key-file",
        preparation.listener->address());
  }
  return preparation;
}

absl::StatusOr<std::unique_ptr<HttpSide>> HttpSide::Start(HttpPreparation preparation,
                                                          frontend::Service& service) {
  std::unique_ptr<HttpSide> side(new HttpSide(service));
  TANDEM_ASSIGN_OR_RETURN(
      side->gateway_, frontend::Gateway::Create(std::move(preparation.options),
                                                *std::move(preparation.listener), side->backend_));
  side->thread_ = std::thread([gateway = side->gateway_.get()] { gateway->Run(); });
  return side;
}

HttpSide::~HttpSide() {
  if (!thread_.joinable()) return;
  gateway_->Finish(kLastWords);
  thread_.join();
}

}  // namespace tandem::launcher
