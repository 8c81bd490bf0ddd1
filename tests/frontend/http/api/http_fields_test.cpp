#include "frontend/http/api/http_fields.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "frontend/http/api/api_request.h"
#include "frontend/http/api/json_body.h"
#include "frontend/protocol/known_fields.h"
#include "tests/support/read_file.h"

namespace tandem::frontend {
namespace {

using ::testing::HasSubstr;
using BodyJson = nlohmann::json;

constexpr ApiKind kKinds[] = {kChatApi, kCompletionsApi, kMessagesApi, kResponsesApi};

/// The least that a request of this kind has.
BodyJson Least(ApiKind api) {
  const BodyJson messages = BodyJson::array({{{"role", "user"}, {"content", "Hi"}}});
  switch (api) {
    case kChatApi:
      return {{"messages", messages}};
    case kCompletionsApi:
      return {{"prompt", "Hi"}};
    case kMessagesApi:
      return {{"messages", messages}, {"max_tokens", 5}};
    case kResponsesApi:
      return {{"input", "Hi"}};
  }
  return {};
}

absl::StatusOr<ApiRequest> ReadAs(ApiKind api, const BodyJson& body) {
  switch (api) {
    case kChatApi:
      return ReadChatRequest(body, {});
    case kCompletionsApi:
      return ReadCompletionRequest(body, {});
    case kMessagesApi:
      return ReadMessagesRequest(body, {});
    case kResponsesApi:
      return ReadResponsesRequest(body, {});
  }
  return Internal("no such kind");
}

absl::StatusOr<ApiRequest> ReadWith(ApiKind api, const std::string& name, const BodyJson& value) {
  BodyJson body = Least(api);
  body[name] = value;
  return ReadAs(api, body);
}

std::vector<BodyJson> NeutralValues(std::string_view neutral) {
  std::string values(neutral);
  if (values.starts_with("off")) values.replace(0, 3, R"(false, 0, "", [], {})");
  return BodyJson::parse("[null, " + values + "]").get<std::vector<BodyJson>>();
}

TEST(HttpFields, EachIsBuiltRefusedOrNeutral) {
  const BodyJson strange = {{"strange", {"value"}}};
  for (const HttpField& field : HttpFields()) {
    const std::string name(field.name);
    for (const ApiKind api : kKinds) {
      if ((field.apis & api) == 0) continue;
      if (field.neutral == "read") {
        // Whoever reads a field looks at its type; this one takes objects.
        const bool any_object = name == "metadata" || name == "stream_options" ||
                                name == "conversation" || name == "chat_template_kwargs";
        const auto read = ReadWith(api, name, strange);
        EXPECT_TRUE(any_object || !read.ok()) << name << " " << int{api};
        if (!any_object) {
          EXPECT_THAT(Message(read.status()), HasSubstr(name));
        }
        continue;
      }
      const auto refused = ReadWith(api, name, strange);
      EXPECT_TRUE(absl::IsUnimplemented(refused.status())) << name << refused.status();
      EXPECT_THAT(Message(refused.status()), HasSubstr(name + ": this server"));
      for (const BodyJson& value : NeutralValues(field.neutral)) {
        const auto read = ReadWith(api, name, value);
        ASSERT_TRUE(read.ok()) << name << value << read.status();
        EXPECT_EQ(read->unknown_fields.count, 0U) << name;
      }
    }
  }
}

TEST(HttpFields, OthersAreAsInTheProtocol) {
  const BodyJson strange = {{"strange", {"value"}}};
  int refused_fields = 0;
  for (const KnownField& field : KnownFields()) {
    if (field.neutral == "read" || field.place == FieldPlace::kMessage) continue;
    for (const ApiKind api : kKinds) {
      const FieldPlace other = api == kCompletionsApi ? FieldPlace::kChat : FieldPlace::kComplete;
      if (field.place == other || field.beside_penalty) continue;
      const bool own = std::any_of(HttpFields().begin(), HttpFields().end(), [&](const auto& http) {
        return http.name == field.name && (http.apis & api) != 0;
      });
      if (own) continue;
      const std::string name(field.name);
      const auto read = ReadWith(api, name, strange);
      if (field.neutral == "any") {
        EXPECT_TRUE(read.ok()) << name << " " << int{api} << read.status();
        continue;
      }
      ++refused_fields;
      EXPECT_TRUE(absl::IsUnimplemented(read.status())) << name << " " << int{api} << read.status();
      for (const BodyJson& value : NeutralValues(field.neutral)) {
        EXPECT_TRUE(ReadWith(api, name, value).ok()) << name << value;
      }
    }
  }
  EXPECT_GT(refused_fields, 300);
}

TEST(HttpFields, ThatNobodyKnowsAreCounted) {
  for (const ApiKind api : kKinds) {
    const auto read = ReadWith(api, "zeal", 1);
    ASSERT_TRUE(read.ok());
    EXPECT_EQ(read->unknown_fields.count, 1U);
    EXPECT_EQ(read->unknown_fields.names, std::vector<std::string>{"zeal"});
  }
}

TEST(HttpFields, ThatBelongElsewhereAreRefused) {
  const std::pair<ApiKind, const char*> cases[] = {
      {kChatApi, "prompt"},        {kChatApi, "tokens"},
      {kChatApi, "echo"},          {kCompletionsApi, "messages"},
      {kCompletionsApi, "tokens"}, {kCompletionsApi, "conversation"},
      {kMessagesApi, "prompt"},    {kResponsesApi, "messages"},
      {kResponsesApi, "echo"},     {kCompletionsApi, "accept_damage"}};
  for (const auto& [api, name] : cases) {
    const auto read = ReadWith(api, name, "x");
    EXPECT_TRUE(absl::IsInvalidArgument(read.status())) << name << read.status();
    EXPECT_THAT(Message(read.status()), HasSubstr(std::string(name) + ": it is for other"));
    EXPECT_TRUE(ReadWith(api, name, nullptr).ok()) << name;
  }
}

TEST(HttpFields, AreThoseOfTheDocument) {
  const std::string document = testing::ReadFile(TANDEM_SOURCE_DIR "/docs/http.md");
  EXPECT_THAT(document, HasSubstr("\n|---|---|---|---|\n" + HttpFieldRows() + "\n"));
}

TEST(ParseBody, RefusesWhatIsNoObject) {
  const std::pair<std::string, const char*> cases[] = {
      {"", "empty"},
      {"[]", "not a JSON object"},
      {"1", "not a JSON object"},
      {"{\"a\":", "wrong at byte"},
      {"{\"a\":\"\xC3\"}", "wrong at byte"},
      {std::string("{\"a\":1\0}", 8), "byte 7 is zero"},
      {R"({"a":{"b":1,"b":1}})", "twice"},
      {R"({"a":1,"\u0061":1})", "twice"},
      {R"({"a":1e999})", "double"},
      {std::string(100000, '['), "levels deep"},
      {R"({"a":[0)" + std::string(1 << 20, ',') + "]}", "at most 1048576 are allowed"},
      {std::string(40, '[') + std::string(40, ']'), "levels deep"},
  };
  for (const auto& [body, message] : cases) {
    const auto parsed = ParseBody(body, 32);
    EXPECT_TRUE(absl::IsInvalidArgument(parsed.status())) << body.substr(0, 50);
    EXPECT_THAT(Message(parsed.status()), HasSubstr(message));
  }
  EXPECT_TRUE(ParseBody(R"( {"a":"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[["} )", 32).ok());
}

}  // namespace
}  // namespace tandem::frontend
