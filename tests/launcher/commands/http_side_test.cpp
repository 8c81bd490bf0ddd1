#include "launcher/commands/http_side.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "frontend/http/wire/http_listener.h"
#include "tests/support/temporary_directory.h"

namespace tandem::launcher {
namespace {

using tandem::testing::TemporaryDirectory;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

OptionSources Typed() { return {.given = {{"--http", "--http"}}, .elsewhere = {}}; }

/// Options of a gateway on a free port.
HttpOptions Options() {
  HttpOptions options;
  options.address = "127.0.0.1:0";
  return options;
}

std::string ErrorOf(const HttpOptions& options) {
  const auto prepared = PrepareHttp(options, Typed());
  if (prepared.ok()) return "";
  EXPECT_TRUE(absl::IsInvalidArgument(prepared.status())) << prepared.status();
  return Message(prepared.status());
}

TEST(HttpSide, ListensWhereItIsTold) {
  const auto prepared = PrepareHttp(Options(), Typed());
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  ASSERT_NE(prepared->listener, nullptr);
  EXPECT_THAT(prepared->listener->address, HasSubstr("127.0.0.1:"));
  EXPECT_TRUE(prepared->listener->loopback);
  EXPECT_THAT(prepared->keys, IsEmpty());
  EXPECT_EQ(prepared->access_log, nullptr);
}

TEST(HttpSide, IsNotThereWhereItIsOff) {
  HttpOptions options = Options();
  options.address = "off";
  options.key_file = "/nonexistent";
  const auto prepared = PrepareHttp(options, Typed());
  ASSERT_TRUE(prepared.ok()) << "nothing else is looked at";
  EXPECT_EQ(prepared->listener, nullptr);
}

TEST(HttpSide, GoesOnWithoutATakenPortUnlessItWasTyped) {
  auto taken = frontend::ListenForHttp("127.0.0.1:0");
  ASSERT_TRUE(taken.ok());
  HttpOptions options = Options();
  options.address = taken->address;
  const auto by_default = PrepareHttp(options, {});
  ASSERT_TRUE(by_default.ok()) << by_default.status();
  EXPECT_EQ(by_default->listener, nullptr);
  const OptionSources by_environment{.given = {}, .elsewhere = {{"--http", "TANDEM_HTTP"}}};
  for (const OptionSources& sources : {Typed(), by_environment}) {
    const auto told = PrepareHttp(options, sources);
    ASSERT_TRUE(absl::IsFailedPrecondition(told.status())) << told.status();
    EXPECT_THAT(Message(told.status()),
                AllOf(HasSubstr("--http " + options.address), HasSubstr("choose another port")));
  }
}

TEST(HttpSide, RefusesAddressesThatAreNone) {
  for (const char* address :
       {"", "8080", ":8080", "127.0.0.1", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:80x",
        "localhost:-1", "example.org:80", "1.2.3:80", "[::1:80"}) {
    HttpOptions options = Options();
    options.address = address;
    EXPECT_THAT(ErrorOf(options), HasSubstr("expected ADDRESS:PORT")) << address;
  }
}

class HttpSideKeys : public ::testing::Test {
 protected:
  std::string Write(const std::string& text, mode_t mode = 0600) {
    std::ofstream(path_) << text;
    chmod(path_.c_str(), mode);
    HttpOptions options = Options();
    options.key_file = path_;
    return ErrorOf(options);
  }
  const TemporaryDirectory directory_;
  const std::string path_ = directory_.path() + "/keys";
};

TEST_F(HttpSideKeys, AreALineEach) {
  HttpOptions options = Options();
  options.key_file = path_;
  EXPECT_EQ(Write("first\n\n  second \r\nthird"), "");
  const auto prepared = PrepareHttp(options, Typed());
  ASSERT_TRUE(prepared.ok());
  EXPECT_THAT(prepared->keys, ElementsAre("first", "second", "third"));
  EXPECT_EQ(Write(std::string(4096, 'k')), "");
}

TEST_F(HttpSideKeys, AreNotForOthersToRead) {
  for (const mode_t mode : {0640, 0604, 0610, 0602, 0777}) {
    EXPECT_THAT(Write("key\n", mode),
                AllOf(HasSubstr(fmt::format("(mode {:04o})", mode)), HasSubstr("chmod 600 ")))
        << mode;
  }
  EXPECT_EQ(Write("key\n", 0400), "");
}

TEST_F(HttpSideKeys, AreToldWithoutAWordOfThem) {
  EXPECT_THAT(Write(""), HasSubstr("there is no key in it"));
  EXPECT_THAT(Write(" \n\t\r\n"), HasSubstr("there is no key in it"));
  const std::string wrong[] = {"one\nsecret two\n", "one\nsecret\x01", "one\nsecret\xC3\xB6\n",
                               "one\n" + std::string(5000, 's') + "ecret\n"};
  for (const std::string& text : wrong) {
    EXPECT_THAT(Write(text), AllOf(HasSubstr("key 2 has "), HasSubstr("write one key a line"),
                                   Not(HasSubstr("ecret"))));
  }
  EXPECT_THAT(Write(std::string(size_t{2} << 20, 'k')), HasSubstr("--api-key-file"));
}

TEST_F(HttpSideKeys, AreInAFileThatCanBeRead) {
  HttpOptions options = Options();
  options.key_file = directory_.path() + "/none";
  EXPECT_THAT(ErrorOf(options), HasSubstr("--api-key-file: "));
  std::filesystem::create_directory(options.key_file);
  std::filesystem::permissions(options.key_file, std::filesystem::perms::owner_all);
  EXPECT_THAT(ErrorOf(options), HasSubstr("--api-key-file: "));
}

TEST(HttpSide, TakesHostsAsRequestsNameThem) {
  HttpOptions options = Options();
  options.hosts = "Example.ORG, a_b.local,[2001:DB8::1], 2001:db8::2 ,10.0.0.1,*";
  const auto prepared = PrepareHttp(options, Typed());
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_THAT(prepared->hosts, ElementsAre("example.org", "a_b.local", "2001:db8::1", "2001:db8::2",
                                           "10.0.0.1", "*"));
  for (const char* host :
       {"example.org:8080", "http://example.org", "example.org/", "a b", "[::1]:80", "[::1",
        "*.example.org", "user@example.org", "\xC3\xB6.org"}) {
    options.hosts = std::string("fine,") + host;
    EXPECT_THAT(ErrorOf(options), HasSubstr(fmt::format("--http-hosts {}: expected names", host)));
  }
}

TEST(HttpSide, TakesOriginsAsBrowsersSendThem) {
  HttpOptions options = Options();
  options.origins = "https://example.org, http://localhost:3000,null,http://[::1]:80,*,app://x";
  const auto prepared = PrepareHttp(options, Typed());
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(prepared->origins.size(), 6U);
  for (const char* origin : {"example.org", "https://example.org/", "https://example.org/page",
                             "https://", "://x", "https://a b", "https://x?y", "https://x:80x"}) {
    options.origins = std::string("https://fine,") + origin;
    EXPECT_THAT(ErrorOf(options),
                HasSubstr(fmt::format("--http-origins {}: expected origins", origin)));
  }
}

TEST(HttpSide, AppendsToItsAccessLog) {
  const TemporaryDirectory directory;
  HttpOptions options = Options();
  options.access_log = directory.path() + "/none/log";
  EXPECT_THAT(ErrorOf(options), HasSubstr("--access-log " + options.access_log));
  options.access_log = directory.path() + "/log";
  std::ofstream(options.access_log) << "before\n";
  const auto prepared = PrepareHttp(options, Typed());
  ASSERT_TRUE(prepared.ok()) << prepared.status();
  EXPECT_EQ(std::filesystem::file_size(options.access_log), 7U);
}

}  // namespace
}  // namespace tandem::launcher
