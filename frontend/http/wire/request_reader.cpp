#include "frontend/http/wire/request_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/asio/buffer.hpp>
#include <boost/beast/http/basic_parser.hpp>
#include <exception>

namespace tandem::frontend {

namespace beast = boost::beast;

/// Beast's parser, with what it finds written into a reader's request.
class RequestReader::Parser final : public beast::http::basic_parser<true> {
 public:
  explicit Parser(RequestReader& reader) : reader_(reader) {
    const auto most = static_cast<uint64_t>(reader.limits_.header_bytes);
    header_limit(static_cast<uint32_t>(std::min<uint64_t>(most, UINT32_MAX)));
    // What is too long is found here, with the length in the message.
    body_limit(UINT64_MAX);
  }

 private:
  using Text = beast::string_view;
  using Error = beast::error_code;

  static Error Refused() { return beast::http::make_error_code(beast::http::error::bad_value); }

  void on_request_impl(beast::http::verb /*method*/, Text method, Text target, int version,
                       Error& /*error*/) override {
    reader_.request_.method.assign(method.data(), method.size());
    reader_.target_.assign(target.data(), target.size());
    reader_.request_.version = version;
  }
  void on_response_impl(int /*code*/, Text /*reason*/, int /*version*/, Error& error) override {
    error = Refused();
  }
  void on_field_impl(beast::http::field /*field*/, Text name, Text value, Error& error) override {
    if (reader_.state_ != State::kHead) return;  // trailers say nothing that counts
    constexpr size_t kMostFields = 100;
    if (reader_.request_.headers.size() >= kMostFields) {
      reader_.Refuse(431, fmt::format("the request has more than {} headers", kMostFields));
      error = Refused();
      return;
    }
    std::string lower(name.data(), name.size());
    std::transform(lower.begin(), lower.end(), lower.begin(), [](char c) {
      return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    });
    reader_.request_.headers.emplace_back(std::move(lower),
                                          std::string(value.data(), value.size()));
  }
  void on_header_impl(Error& error) override {
    reader_.request_.keep_alive = keep_alive();
    reader_.request_.has_body = chunked() || content_length().value_or(0) > 0;
    if (content_length()) {
      reader_.body_length_ = static_cast<int64_t>(std::min<uint64_t>(*content_length(), INT64_MAX));
    }
    reader_.CheckHead();
    if (reader_.state_ == State::kRefused) error = Refused();
  }
  void on_body_init_impl(const boost::optional<uint64_t>& /*length*/, Error& /*error*/) override {}
  size_t on_body_impl(Text body, Error& error) override {
    std::string& out = reader_.request_.body;
    const auto most = static_cast<size_t>(reader_.limits_.body_bytes);
    if (body.size() > most - std::min(most, out.size())) {
      reader_.Refuse(413, fmt::format("the body is longer than {} bytes, which are the most that "
                                      "are taken: send less, or start the server with a larger "
                                      "--max-body",
                                      most));
      error = Refused();
      return 0;
    }
    out.append(body.data(), body.size());
    return body.size();
  }
  void on_chunk_header_impl(uint64_t /*size*/, Text /*extensions*/, Error& /*error*/) override {}
  size_t on_chunk_body_impl(uint64_t /*remain*/, Text body, Error& error) override {
    return on_body_impl(body, error);
  }
  void on_finish_impl(Error& /*error*/) override {}

  RequestReader& reader_;
};

namespace {

/// Whether a line of a request's head goes on the one before (RFC 9112, 5.2), which the parser
/// takes.
bool HasFoldedLine(std::string_view head) {
  return head.find("\r\n ") != std::string_view::npos ||
         head.find("\r\n\t") != std::string_view::npos;
}

/// What a client is told of an error of the parser.
std::pair<int, std::string> ToldOf(const beast::error_code& error, const RequestLimits& limits) {
  using Error = beast::http::error;
  if (error == Error::header_limit) {
    return {431, fmt::format("the request line and headers are longer than {} bytes",
                             limits.header_bytes)};
  }
  if (error == Error::bad_version) {
    return {505, "the request is not of HTTP/1.1 or HTTP/1.0"};
  }
  if (error == Error::bad_content_length) {
    return {400, "Content-Length: expected one number, and no Transfer-Encoding beside it"};
  }
  if (error == Error::bad_transfer_encoding) {
    return {400, "Transfer-Encoding: expected \"chunked\" alone, and no Content-Length beside it"};
  }
  if (error == Error::bad_chunk || error == Error::bad_chunk_extension) {
    return {400, "the chunked body is malformed"};
  }
  return {400, fmt::format("the request is not HTTP/1.1: {}", error.message())};
}

}  // namespace

RequestReader::RequestReader(const RequestLimits& limits)
    : limits_(limits), parser_(std::make_unique<Parser>(*this)) {}

RequestReader::~RequestReader() = default;

void RequestReader::Refuse(int status, std::string message) {
  state_ = State::kRefused;
  status_ = status;
  message_ = std::move(message);
}

void RequestReader::ReadTarget() {
  std::string_view target = target_;
  // An absolute form, as for a proxy, names the host; what the header says does not count then (RFC
  // 9112, 3.2.2).
  for (const std::string_view scheme : {"http://", "https://"}) {
    if (target.size() > scheme.size() &&
        EqualIgnoringCase(target.substr(0, scheme.size()), scheme)) {
      const size_t slash = std::min(target.find('/', scheme.size()), target.size());
      const std::string host(target.substr(scheme.size(), slash - scheme.size()));
      for (auto& [name, value] : request_.headers) {
        if (name == "host") value = host;
      }
      if (request_.version == 10 && !request_.HasHeader("host")) {
        request_.headers.emplace_back("host", host);
      }
      target = slash == target.size() ? "/" : target.substr(slash);
      break;
    }
  }
  if (target == "*") target = "/*";  // of OPTIONS
  if (target.empty() || target.front() != '/') {
    return Refuse(400, "the target of the request is not a path, like /v1/models");
  }
  const size_t question = std::min(target.find('?'), target.size());
  request_.query = target.substr(std::min(question + 1, target.size()));
  if (!DecodePercent(target.substr(0, question), request_.path)) {
    return Refuse(400, "the path of the request has a percent sign without two digits behind it");
  }
}

void RequestReader::CheckHead() {
  HttpRequest& request = request_;
  const auto count = [&](std::string_view name) {
    return std::count_if(request.headers.begin(), request.headers.end(),
                         [&](const auto& header) { return header.first == name; });
  };
  for (const auto& [name, value] : request.headers) {
    // Bytes beyond ASCII are allowed in values; control characters end lines in somebody's eyes.
    const bool fine = std::all_of(value.begin(), value.end(), [](char c) {
      return c == '\t' || (static_cast<unsigned char>(c) >= 0x20 && c != 0x7f);
    });
    if (!fine) return Refuse(400, fmt::format("header {}: it holds a control character", name));
  }
  if (request.version != 10 && request.version != 11) {
    return Refuse(505, "the request is not of HTTP/1.1 or HTTP/1.0");
  }
  ReadTarget();
  if (state_ == State::kRefused) return;
  // Of two, some readers take the first and some the last.
  for (const std::string_view name :
       {"content-length", "content-type", "content-encoding", "expect", "origin", "authorization",
        "x-api-key", "x-request-id", "access-control-request-method"}) {
    if (count(name) > 1) {
      return Refuse(400, fmt::format("header {}: it is given twice; send it once", name));
    }
  }
  const std::string_view length = request.Header("content-length");
  if (length.find_first_not_of("0123456789") != std::string_view::npos) {
    return Refuse(400, "Content-Length: expected one number");
  }
  if (count("host") > 1 || (request.version == 11 && count("host") == 0)) {
    return Refuse(400, "Host: expected one header of this name");
  }
  if (count("transfer-encoding") > 0) {
    if (count("transfer-encoding") > 1 || count("content-length") > 0 || request.version == 10 ||
        !EqualIgnoringCase(request.Header("transfer-encoding"), "chunked")) {
      return Refuse(400,
                    "Transfer-Encoding: expected \"chunked\" alone, in HTTP/1.1, and no "
                    "Content-Length beside it");
    }
  }
  const std::string_view coding = request.Header("content-encoding");
  if (!coding.empty() && !EqualIgnoringCase(coding, "identity")) {
    return Refuse(415, "Content-Encoding: bodies are taken as they are; send it without");
  }
  if (body_length_ > limits_.body_bytes) {
    return Refuse(413, fmt::format("the body has {} bytes, at most {} are taken: send less, or "
                                   "start the server with a larger --max-body",
                                   body_length_, limits_.body_bytes));
  }
  const std::string_view expect = request.Header("expect");
  if (!expect.empty() && !EqualIgnoringCase(expect, "100-continue")) {
    return Refuse(417, "Expect: nothing but 100-continue is known");
  }
  request.expects_continue = !expect.empty() && request.version == 11 && request.has_body;
}

size_t RequestReader::Take(std::string_view bytes) {
  size_t taken = 0;
  if (state_ == State::kHead) {
    // An empty line before a request is left from the one before (RFC 9112, 2.2).
    while (request_.method.empty() && bytes.substr(taken).starts_with("\r\n")) taken += 2;
    if (bytes.substr(taken) == "\r") return taken;
  }
  while (state_ == State::kHead || state_ == State::kBody) {
    beast::error_code error;
    const std::string_view rest = bytes.substr(taken);
    if (rest.empty()) break;
    size_t put = 0;
    try {
      put = parser_->put(boost::asio::const_buffer(rest.data(), rest.size()), error);
      taken += put;
    } catch (const std::exception& exception) {
      Refuse(400, fmt::format("the request is not HTTP/1.1: {}", exception.what()));
    }
    if (state_ == State::kHead && HasFoldedLine(rest.substr(0, put))) {
      Refuse(400, "a header goes on in a second line: send it in one");
    }
    if (state_ == State::kRefused) break;
    if (error == beast::http::error::need_more) {
      const int64_t left = static_cast<int64_t>(bytes.size() - taken);
      if (left > limits_.header_bytes) {
        Refuse(state_ == State::kHead ? 431 : 400,
               fmt::format("a line of the request is longer than {} bytes", limits_.header_bytes));
      }
      break;
    }
    if (error) {
      auto [status, message] = ToldOf(error, limits_);
      Refuse(status, std::move(message));
      break;
    }
    if (parser_->is_done()) {
      state_ = State::kDone;
    } else if (state_ == State::kHead && parser_->is_header_done()) {
      state_ = State::kBody;
      break;
    }
  }
  return taken;
}

}  // namespace tandem::frontend
