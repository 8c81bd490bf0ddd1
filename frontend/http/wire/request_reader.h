#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "frontend/http/wire/http_message.h"

namespace tandem::frontend {

struct RequestLimits {
  int64_t header_bytes = int64_t{16} << 10;  // request line and headers; also trailers of a body
  int64_t body_bytes = int64_t{8} << 20;
};

/// Reads one HTTP request from bytes as they come, in any pieces. Refused are, besides what is no
/// HTTP: folded headers, a header of length or host that is there twice, content codings,
/// transfer codings other than chunked, and whatever is beyond the limits.
///
/// Memory: the headers, and what has come of the body. Thread safety: one thread.
class RequestReader {
 public:
  enum class State : uint8_t {
    kHead,  // the headers are not complete
    kBody,  // they are: request() is whole but for the body
    kDone,
    kRefused,  // status() and message() say why; no more bytes may be given
  };

  explicit RequestReader(const RequestLimits& limits);
  ~RequestReader();
  RequestReader(const RequestReader&) = delete;
  RequestReader& operator=(const RequestReader&) = delete;

  /// Takes bytes from the beginning of `bytes` and says how many it took. What it left must come
  /// again, with more behind it. It stops where the state changes. Bytes that it takes none of do
  /// not exceed header_bytes by more than what comes at once.
  size_t Take(std::string_view bytes);

  State state() const { return state_; }
  int status() const { return status_; }  // of HTTP, of kRefused
  const std::string& message() const { return message_; }
  const HttpRequest& request() const { return request_; }
  /// The request, of kDone; of kRefused what is known of it.
  HttpRequest TakeRequest() { return std::move(request_); }

 private:
  class Parser;

  void Refuse(int status, std::string message);
  void CheckHead();
  void ReadTarget();

  const RequestLimits limits_;
  State state_ = State::kHead;
  int status_ = 0;
  std::string message_;
  HttpRequest request_;
  std::string target_;
  int64_t body_length_ = -1;
  std::unique_ptr<Parser> parser_;
};

}  // namespace tandem::frontend
