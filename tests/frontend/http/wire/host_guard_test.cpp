#include "frontend/http/wire/host_guard.h"

#include <gtest/gtest.h>

#include <string>

namespace tandem::frontend {
namespace {

HttpRequest With(HttpHeaders headers) { return {.method = "GET", .path = "/", .headers = headers}; }

int StatusOf(const HostGuard& guard, const HttpRequest& request) {
  const auto refusal = guard.CheckOrigin(request);
  return refusal ? refusal->status : 200;
}

TEST(HostGuard, KnowsTheNamesOfLoopback) {
  const HostGuard guard({});
  for (const char* host : {"localhost", "localhost:8080", "LocalHost:1", "127.0.0.1:8080",
                           "127.5.5.5", "[::1]:8080", "[::1]", "a.localhost:80", "localhost."}) {
    EXPECT_EQ(StatusOf(guard, With({{"host", host}})), 200) << host;
  }
  for (const char* host :
       {"evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil.example",
        "10.0.0.1", "", "localhost:80@evil.example", "[::1", "[::1]evil", "127.0.0.1.5.6"}) {
    EXPECT_EQ(StatusOf(guard, With({{"host", host}})), 403) << host;
  }
}

TEST(HostGuard, TakesNamesThatAreListed) {
  const HostGuard guard({.hosts = {"web.example"}});
  EXPECT_EQ(StatusOf(guard, With({{"host", "Web.Example:443"}})), 200);
  EXPECT_EQ(StatusOf(guard, With({{"host", "localhost"}})), 200);
  EXPECT_EQ(StatusOf(guard, With({{"host", "other.example"}})), 403);
  const HostGuard open({.loopback = false});
  EXPECT_EQ(StatusOf(open, With({{"host", "node7:8080"}})), 200);
  const HostGuard listed({.hosts = {"node7"}, .loopback = false});
  EXPECT_EQ(StatusOf(listed, With({{"host", "node7:8080"}})), 200);
  EXPECT_EQ(StatusOf(listed, With({{"host", "evil.example"}})), 403);
}

TEST(HostGuard, TakesPagesThatAreListed) {
  const HostGuard guard({.origins = {"https://chat.example"}});
  const auto from = [](const char* origin) {
    return With({{"host", "localhost:8080"}, {"origin", origin}});
  };
  EXPECT_EQ(StatusOf(guard, from("https://chat.example")), 200);
  EXPECT_EQ(StatusOf(guard, from("http://localhost:8080")), 200) << "its own";
  for (const char* origin : {"https://evil.example", "http://localhost:9090", "null",
                             "https://chat.example.evil.example", "localhost:8080"}) {
    EXPECT_EQ(StatusOf(guard, from(origin)), 403) << origin;
    EXPECT_TRUE(guard.CorsHeaders(from(origin)).empty());
  }
  EXPECT_EQ(guard.CorsHeaders(from("https://chat.example"))[0].second, "https://chat.example");
  EXPECT_TRUE(guard.CorsHeaders(With({{"host", "localhost"}})).empty());
  const HostGuard all({.origins = {"*"}});
  EXPECT_EQ(StatusOf(all, from("https://evil.example")), 200);
}

TEST(HostGuard, WantsOneOfItsKeys) {
  const HostGuard guard({.keys = {"secret-1", "secret-2"}});
  const auto allows = [&](HttpHeaders headers) { return !guard.CheckKey(With(headers)); };
  EXPECT_TRUE(allows({{"authorization", "Bearer secret-1"}}));
  EXPECT_TRUE(allows({{"authorization", "bearer secret-2"}}));
  EXPECT_TRUE(allows({{"x-api-key", "secret-2"}}));
  for (const HttpHeaders& headers :
       {HttpHeaders{}, HttpHeaders{{"authorization", "Bearer "}},
        HttpHeaders{{"authorization", "Bearer secret"}},
        HttpHeaders{{"authorization", "Basic secret-1"}}, HttpHeaders{{"x-api-key", "SECRET-1"}},
        HttpHeaders{{"authorization", "Bearer secret-12"}}}) {
    EXPECT_FALSE(allows(headers));
  }
  EXPECT_EQ(guard.CheckKey(With({}))->status, 401);
  EXPECT_FALSE(HostGuard({}).CheckKey(With({})));
}

}  // namespace
}  // namespace tandem::frontend
