#pragma once

#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <string_view>

namespace tandem::testing {

/// What a server answered. Header names are in lower case.
struct HttpAnswer {
  int status = 0;  // 0: none came
  std::string head;
  std::map<std::string, std::string> headers;
  std::string body;
};

/// One TCP connection to an HTTP server, byte by byte. Waits at most ten seconds for anything.
class RawHttpClient {
 public:
  /// `address`: "127.0.0.1:PORT".
  explicit RawHttpClient(const std::string& address);
  ~RawHttpClient();
  RawHttpClient(RawHttpClient&& other) noexcept;
  RawHttpClient& operator=(RawHttpClient&&) = delete;

  bool connected() const { return fd_ >= 0; }
  /// False where the other end has closed.
  bool Send(std::string_view bytes);
  /// The next answer; of a HEAD request without a body.
  HttpAnswer Read(bool head_only = false);
  /// Bytes until `end` is among them, or the connection ends.
  std::string ReadUntil(std::string_view end);
  /// Whether the server closes within ten seconds; what it sends before is thrown away.
  bool IsClosed();
  /// The end of what this client sends.
  void FinishSending();
  void Close();
  /// Closes with a reset.
  void Reset();
  void SetReceiveBuffer(int bytes);

 private:
  bool Fill();

  int fd_ = -1;
  std::string input_;
};

/// "POST /path HTTP/1.1" with a JSON body, and other headers, each ended by CRLF.
std::string PostRequest(std::string_view path, std::string_view json,
                        std::string_view headers = "");
std::string GetRequest(std::string_view path, std::string_view headers = "");

/// One request on a connection of its own.
HttpAnswer Fetch(const std::string& address, const std::string& request);

}  // namespace tandem::testing
