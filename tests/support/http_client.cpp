#include "tests/support/http_client.h"

#include <arpa/inet.h>
#include <fmt/format.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <utility>

namespace tandem::testing {
namespace {

constexpr int kPatienceMs = 10'000;

std::string LowerName(std::string_view text) {
  std::string lower(text);
  std::transform(lower.begin(), lower.end(), lower.begin(),
                 [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return lower;
}

}  // namespace

RawHttpClient::RawHttpClient(const std::string& address) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
  inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
  fd_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (connect(fd_, reinterpret_cast<const sockaddr*>(&to), sizeof to) != 0) Close();
}

RawHttpClient::~RawHttpClient() { Close(); }

RawHttpClient::RawHttpClient(RawHttpClient&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), input_(std::move(other.input_)) {}

void RawHttpClient::Close() {
  if (fd_ >= 0) close(std::exchange(fd_, -1));
}

void RawHttpClient::Reset() {
  const linger hard{.l_onoff = 1, .l_linger = 0};
  setsockopt(fd_, SOL_SOCKET, SO_LINGER, &hard, sizeof hard);
  Close();
}

void RawHttpClient::SetReceiveBuffer(int bytes) {
  setsockopt(fd_, SOL_SOCKET, SO_RCVBUF, &bytes, sizeof bytes);
}

void RawHttpClient::FinishSending() { shutdown(fd_, SHUT_WR); }

bool RawHttpClient::Send(std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t sent = send(fd_, bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (sent <= 0) return false;
    bytes.remove_prefix(static_cast<size_t>(sent));
  }
  return true;
}

bool RawHttpClient::Fill() {
  pollfd readable{.fd = fd_, .events = POLLIN, .revents = 0};
  if (fd_ < 0 || poll(&readable, 1, kPatienceMs) <= 0) return false;
  char buffer[65536];
  const ssize_t got = recv(fd_, buffer, sizeof buffer, 0);
  if (got <= 0) return false;
  input_.append(buffer, static_cast<size_t>(got));
  return true;
}

std::string RawHttpClient::ReadUntil(std::string_view end) {
  size_t at = input_.find(end);
  while (at == std::string::npos) {
    if (!Fill()) return std::exchange(input_, "");
    at = input_.find(end);
  }
  std::string text = input_.substr(0, at + end.size());
  input_.erase(0, at + end.size());
  return text;
}

bool RawHttpClient::IsClosed() {
  const auto until = std::chrono::steady_clock::now() + std::chrono::milliseconds(kPatienceMs);
  while (Fill()) {
    if (std::chrono::steady_clock::now() > until) return false;
  }
  return std::chrono::steady_clock::now() < until;
}

HttpAnswer RawHttpClient::Read(bool head_only) {
  HttpAnswer answer;
  answer.head = ReadUntil("\r\n\r\n");
  constexpr std::string_view kVersion = "HTTP/1.1 ";
  if (!answer.head.starts_with(kVersion)) return answer;
  answer.status = std::stoi(answer.head.substr(kVersion.size(), 3));
  size_t at = answer.head.find("\r\n") + 2;
  while (at + 2 < answer.head.size()) {
    const size_t end = answer.head.find("\r\n", at);
    const std::string line = answer.head.substr(at, end - at);
    at = end + 2;
    const size_t colon = line.find(": ");
    if (colon == std::string::npos) continue;
    answer.headers[LowerName(line.substr(0, colon))] = line.substr(colon + 2);
  }
  if (head_only || answer.status == 204 || answer.status == 100) return answer;
  if (answer.headers.contains("content-length")) {
    const auto size = static_cast<size_t>(std::stoll(answer.headers["content-length"]));
    while (input_.size() < size && Fill()) {
    }
    answer.body = input_.substr(0, size);
    input_.erase(0, answer.body.size());
  } else if (answer.headers.contains("transfer-encoding")) {
    while (true) {
      const std::string line = ReadUntil("\r\n");
      size_t size = 0;
      std::from_chars(line.data(), line.data() + line.size(), size, 16);
      while (input_.size() < size + 2 && Fill()) {
      }
      answer.body += input_.substr(0, size);
      input_.erase(0, std::min(size + 2, input_.size()));
      if (size == 0) break;
    }
  } else {
    while (Fill()) {
    }
    answer.body = std::exchange(input_, "");
  }
  return answer;
}

std::string PostRequest(std::string_view path, std::string_view json, std::string_view headers) {
  return fmt::format(
      "POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
      "Content-Length: {}\r\n{}\r\n{}",
      path, json.size(), headers, json);
}

std::string GetRequest(std::string_view path, std::string_view headers) {
  return fmt::format("GET {} HTTP/1.1\r\nHost: localhost\r\n{}\r\n", path, headers);
}

HttpAnswer Fetch(const std::string& address, const std::string& request) {
  RawHttpClient client(address);
  client.Send(request);
  return client.Read();
}

}  // namespace tandem::testing
