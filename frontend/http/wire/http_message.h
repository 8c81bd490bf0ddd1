#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// Requests and responses of HTTP/1.1 (RFC 9110, RFC 9112), without their way over a socket.
namespace tandem::frontend {

using HttpHeaders = std::vector<std::pair<std::string, std::string>>;

struct HttpRequest {
  std::string method = {};  // "GET"
  std::string path = {};    // "/v1/models", percent signs decoded
  std::string query = {};   // what stands behind the "?"
  int version = 11;         // 10 or 11
  bool keep_alive = true;
  bool expects_continue = false;
  bool has_body = false;
  HttpHeaders headers = {};  // names in lower case
  std::string body = {};

  /// The value of the first header of this name, in lower case; empty where there is none.
  std::string_view Header(std::string_view name) const;
  bool HasHeader(std::string_view name) const;
  /// A value of the query, decoded; empty where there is none.
  std::string Query(std::string_view name) const;
};

struct HttpResponse {
  int status = 200;
  HttpHeaders headers = {};  // besides those of the connection: Content-Length, Connection, Date
  std::string content_type = {};  // empty: there is no content
  std::string body = {};
  bool close = false;  // the connection ends with it
};

std::string_view HttpReason(int status);

/// The bytes up to the empty line. `chunked`: the body has no Content-Length and comes in chunks.
struct HttpFraming {
  int version = 11;
  bool keep_alive = true;
  bool streams = false;  // the length of the body is not known
};
std::string HttpHead(const HttpResponse& response, const HttpFraming& framing);

/// One chunk of a chunked body. `bytes` must not be empty.
std::string HttpChunk(std::string_view bytes);
inline constexpr std::string_view kLastHttpChunk = "0\r\n\r\n";

/// "%41b" is "Ab". False for a percent sign without two hexadecimal digits, and for a zero byte.
bool DecodePercent(std::string_view text, std::string& out);

/// Whether two texts are equal but for the case of ASCII letters.
bool EqualIgnoringCase(std::string_view a, std::string_view b);

}  // namespace tandem::frontend
