#include "frontend/http/wire/request_reader.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <string_view>

namespace tandem::frontend {
namespace {

using ::testing::HasSubstr;
using ReaderState = RequestReader::State;

/// Gives a reader all of it, at most `step` bytes more each time; returns what it did not take.
std::string Feed(RequestReader& reader, std::string_view bytes, size_t step) {
  std::string waiting;
  while (!bytes.empty() || !waiting.empty()) {
    waiting += bytes.substr(0, step);
    const bool last = bytes.size() <= step;
    bytes.remove_prefix(std::min(step, bytes.size()));
    size_t taken = 0;
    do {
      taken = reader.Take(waiting);
      waiting.erase(0, taken);
    } while (taken > 0 && reader.state() != ReaderState::kDone &&
             reader.state() != ReaderState::kRefused);
    if (last || reader.state() == ReaderState::kDone || reader.state() == ReaderState::kRefused) {
      break;
    }
  }
  return waiting + std::string(bytes);
}

struct ReadCase {
  const char* name;
  std::string bytes;
  std::string path;
  std::string body;
};

TEST(RequestReader, ReadsRequestsInAnyPieces) {
  const ReadCase cases[] = {
      {"get", "GET /v1/models?a=b HTTP/1.1\r\nHost: x\r\n\r\n", "/v1/models", ""},
      {"length", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello", "/a", "hello"},
      {"chunked",
       "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
       "3\r\nhel\r\n2;x=y\r\nlo\r\n0\r\n\r\n",
       "/a", "hello"},
      {"trailer",
       "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: Chunked\r\n\r\n"
       "5\r\nhello\r\n0\r\nX-T: 1\r\n\r\n",
       "/a", "hello"},
      {"empty", "POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", "/a", ""},
      {"percent", "GET /v1/models/a%2Fb%20c HTTP/1.1\r\nHost: x\r\n\r\n", "/v1/models/a/b c", ""},
      {"absolute", "GET http://x/v1 HTTP/1.1\r\nHost: x\r\n\r\n", "/v1", ""},
      {"star", "OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", "/*", ""},
      {"1.0", "GET / HTTP/1.0\r\n\r\n", "/", ""},
      {"line before", "\r\n\r\nGET / HTTP/1.1\r\nHost: x\r\n\r\n", "/", ""},
  };
  for (const ReadCase& one : cases) {
    for (const size_t step : {size_t{1}, size_t{3}, size_t{1000}}) {
      RequestReader reader({});
      const std::string rest = Feed(reader, one.bytes + "GET /next", step);
      ASSERT_EQ(reader.state(), ReaderState::kDone)
          << one.name << " " << step << " " << reader.message();
      EXPECT_EQ(rest.substr(0, 9).substr(0, rest.size()),
                std::string("GET /next").substr(0, rest.size()))
          << one.name;
      EXPECT_EQ(reader.request().path, one.path) << one.name;
      EXPECT_EQ(reader.request().body, one.body) << one.name << " " << step;
    }
  }
}

TEST(RequestReader, TellsWhatTheHeadersSay) {
  RequestReader reader({});
  Feed(reader,
       "POST /a?user=J%C3%B6rg+B&x=1 HTTP/1.1\r\nHost: x\r\nX-API-Key:  k \r\n"
       "Expect: 100-continue\r\nConnection: close\r\nContent-Length: 1\r\n\r\n",
       1000);
  EXPECT_EQ(reader.state(), ReaderState::kBody);
  const HttpRequest& request = reader.request();
  EXPECT_EQ(request.method, "POST");
  EXPECT_EQ(request.Header("x-api-key"), "k");
  EXPECT_EQ(request.Query("user"), "Jörg B");
  EXPECT_EQ(request.Query("x"), "1");
  EXPECT_EQ(request.Query("y"), "");
  EXPECT_TRUE(request.expects_continue);
  EXPECT_FALSE(request.keep_alive);
}

struct RefusedRequest {
  std::string bytes;
  int status;
  std::string message;
};

TEST(RequestReader, RefusesWhatIsNoRequest) {
  const std::string post = "POST /a HTTP/1.1\r\nHost: x\r\n";
  using std::string_literals::operator""s;
  const RefusedRequest cases[] = {
      {"\x16\x03\x01\x02\r\n\r\n", 400, "not HTTP"},
      {"GET\r\n\r\n", 400, "not HTTP"},
      {"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505, "HTTP/1.1"},
      {"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505, "HTTP/1.1"},
      {"GET / HTTP/1.1\r\n\r\n", 400, "Host"},
      {"GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400, "Host"},
      {"GET / HTTP/1.1\r\nHost : x\r\n\r\n", 400, "not HTTP"},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: b\0c\r\n\r\n"s, 400, "HTTP"},
      {"GET / HTTP/1.1\r\nHost: x\r\nA\0: b\r\n\r\n"s, 400, "HTTP"},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\n\r\n", 400, "one"},
      {post + "Content-Length: 1\r\nA: b\r\n\t\r\n\r\na", 400, "one"},
      {"GET /a\0b HTTP/1.1\r\nHost: x\r\n\r\n"s, 400, "HTTP"},
      {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400, "percent"},
      {"GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "percent"},
      {"GET example.org:80 HTTP/1.1\r\nHost: x\r\n\r\n", 400, "path"},
      {post + "Content-Length: 5\r\nContent-Length: 5\r\n\r\nhello", 400, "twice"},
      {post + "Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello", 400, "Content-Length"},
      {post + "Content-Length: -5\r\n\r\nhello", 400, "Content-Length"},
      {post + "Content-Length: 5x\r\n\r\nhello", 400, "Content-Length"},
      {post + "Content-Length: 5, 5\r\n\r\nhello", 400, "Content-Length"},
      {post + "Origin: http://x\r\nOrigin: http://y\r\n\r\n", 400, "origin: it is given twice"},
      {post + "Content-Type: a/b\r\nContent-Type: a/c\r\n\r\n", 400, "content-type"},
      {post + "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 400, "authorization"},
      {post + "Content-Length: 99999999999999999999\r\n\r\n", 400, "Content-Length"},
      {post + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400, "Transfer"},
      {post + "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n", 400, "Content"},
      {post + "Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400, "chunked"},
      {post + "Transfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n", 400, "chunked"},
      {post + "Transfer-Encoding: chunked\r\n\r\nxyz\r\n", 400, "chunked body"},
      {post + "Transfer-Encoding: chunked\r\n\r\n-1\r\n", 400, "chunked body"},
      {post + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n", 400, "chunked body"},
      {post + "Transfer-Encoding: chunked\r\n\r\n3\r\nhelXX\r\n", 400, "chunked body"},
      {post + "Transfer-Encoding: chunked\r\n\r\n3;" + std::string(40000, 'x'), 400, "line"},
      {post + "Content-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello", 415, "Content-Encoding"},
      {post + "Expect: tea\r\nContent-Length: 5\r\n\r\nhello", 417, "Expect"},
      {post + "Content-Length: 8388609\r\n\r\n", 413, "--max-body"},
      {"GET / HTTP/1.1\r\nHost: x\r\nA: " + std::string(17000, 'a') + "\r\n\r\n", 431, "headers"},
      {"GET /" + std::string(17000, 'a') + " HTTP/1.1\r\nHost: x\r\n\r\n", 431, "headers"},
      {"GET / HTTP/1.1\r\nHost: x\r\n" +
           [] {
             std::string many;
             for (int i = 0; i < 101; ++i) many += "A: b\r\n";
             return many;
           }() +
           "\r\n",
       431, "headers"},
  };
  for (const RefusedRequest& one : cases) {
    const std::string shown = one.bytes.substr(0, 120);
    for (const size_t step : {size_t{1}, size_t{1000}, size_t{100000}}) {
      if (step == 1 && one.bytes.size() > 1000) continue;
      RequestReader reader({});
      Feed(reader, one.bytes, step);
      ASSERT_EQ(reader.state(), ReaderState::kRefused) << shown;
      EXPECT_EQ(reader.status(), one.status) << shown << ": " << reader.message();
      EXPECT_THAT(reader.message(), HasSubstr(one.message)) << shown;
    }
  }
}

TEST(RequestReader, RefusesFoldedHeadersWhereverAPieceEnds) {
  for (const std::string_view bytes :
       {"GET / HTTP/1.1\r\nHost: x\r\nA: b\r\n c\r\nD: e\r\nF: g\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\tx\r\nA: b\r\nC: d\r\n\r\n"}) {
    for (size_t end = 1; end < bytes.size(); ++end) {
      RequestReader reader({});
      std::string waiting(bytes.substr(0, end));
      waiting.erase(0, reader.Take(waiting));
      reader.Take(waiting += bytes.substr(end));
      EXPECT_EQ(reader.state(), ReaderState::kRefused) << end;
      EXPECT_THAT(reader.message(), HasSubstr("a second line")) << end;
    }
  }
}

TEST(RequestReader, TakesTheHostOfAnAbsoluteTarget) {
  struct Target {
    std::string head;
    std::string host;
    std::string path;
  };
  const Target cases[] = {
      {"GET http://evil.example/v1/models?a=b HTTP/1.1\r\nHost: localhost\r\n\r\n", "evil.example",
       "/v1/models"},
      {"GET HTTPS://a:80 HTTP/1.1\r\nHost: localhost\r\n\r\n", "a:80", "/"},
      {"GET http://evil.example/ HTTP/1.0\r\n\r\n", "evil.example", "/"},
      {"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n", "localhost", "/"},
  };
  for (const Target& one : cases) {
    RequestReader reader({});
    Feed(reader, one.head, 1000);
    ASSERT_EQ(reader.state(), ReaderState::kDone) << one.head << reader.message();
    EXPECT_EQ(reader.request().Header("host"), one.host) << one.head;
    EXPECT_EQ(reader.request().path, one.path) << one.head;
  }
}

TEST(RequestReader, StopsReadingAChunkedBodyAtItsLimit) {
  RequestReader reader({.body_bytes = 10});
  Feed(reader,
       "POST /a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n8\r\n12345678\r\n"
       "8\r\n12345678\r\n0\r\n\r\n",
       1000);
  EXPECT_EQ(reader.state(), ReaderState::kRefused);
  EXPECT_EQ(reader.status(), 413);
}

TEST(RequestReader, WaitsForTheRest) {
  for (const std::string_view part :
       {"G", "GET / HTTP/1.1\r\nHost: x\r\n", "\r", "POST / HTTP/1.1\r\nHost: x\r\nContent-Le"}) {
    RequestReader reader({});
    Feed(reader, part, 1);
    EXPECT_EQ(reader.state(), ReaderState::kHead) << part;
  }
}

}  // namespace
}  // namespace tandem::frontend
