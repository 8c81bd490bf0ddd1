#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "frontend/protocol/protocol.h"

/// Fields of chat and complete, one by one.
namespace tandem::frontend {
namespace {

using ::testing::StartsWith;

/// A chat with more fields, read; or the error that it gets.
std::variant<GenerateRequest, std::string> ChatWith(const std::string& more) {
  auto parsed = ParseRequest(
      R"({"v":1,"type":"chat","id":"r1","messages":[{"role":"user","content":"Hi"}],)" + more + "}",
      {});
  if (const auto* error = std::get_if<RequestError>(&parsed)) {
    EXPECT_EQ(error->code, ErrorCode::kInvalidArgument) << more;
    return error->message;
  }
  return std::get<GenerateRequest>(std::get<Request>(parsed).body);
}

std::string ErrorWith(const std::string& more) {
  const auto read = ChatWith(more);
  const auto* error = std::get_if<std::string>(&read);
  return error == nullptr ? "accepted" : *error;
}

TEST(AnswerFields, PenaltiesOfTheAnswer) {
  const auto request =
      std::get<GenerateRequest>(ChatWith(R"("presence_penalty":-2,"frequency_penalty":0.5)"));
  EXPECT_EQ(request.params.sampling.presence_penalty, -2.0F);
  EXPECT_EQ(request.params.sampling.frequency_penalty, 0.5F);
  for (const char* name : {"presence_penalty", "frequency_penalty"}) {
    for (const char* wrong : {"2.01", "-3", "\"1\"", "true"}) {
      EXPECT_THAT(ErrorWith(fmt::format("\"{}\":{}", name, wrong)), StartsWith(name));
    }
  }
}

TEST(AnswerFields, HowAChatIsRendered) {
  const auto plain = std::get<GenerateRequest>(ChatWith(R"("n":1)")).render;
  EXPECT_TRUE(plain.add_generation_prompt);
  EXPECT_FALSE(plain.continue_final_message);
  EXPECT_TRUE(plain.variables.empty());
  const auto open = std::get<GenerateRequest>(ChatWith(R"("add_generation_prompt":false)")).render;
  EXPECT_FALSE(open.add_generation_prompt);
  for (const char* fields : {R"("continue_final_message":true)",
                             R"("continue_final_message":true,"add_generation_prompt":false)"}) {
    const auto render = std::get<GenerateRequest>(ChatWith(fields)).render;
    EXPECT_TRUE(render.continue_final_message);
    EXPECT_FALSE(render.add_generation_prompt);
  }
  EXPECT_THAT(ErrorWith(R"("continue_final_message":true,"add_generation_prompt":true)"),
              StartsWith("add_generation_prompt: true begins an answer"));
  EXPECT_THAT(ErrorWith(R"("continue_final_message":1)"), StartsWith("continue_final_message"));
}

TEST(AnswerFields, VariablesOfTheTemplate) {
  const auto request = std::get<GenerateRequest>(ChatWith(
      R"("chat_template_kwargs":{"enable_thinking":false,"level":1.5,"names":["a",null],"s":""})"));
  EXPECT_EQ(request.render.variables,
            nlohmann::ordered_json::parse(
                R"({"enable_thinking":false,"level":1.5,"names":["a",null],"s":""})"));
  EXPECT_TRUE(std::get<GenerateRequest>(ChatWith(R"("chat_template_kwargs":null)"))
                  .render.variables.empty());
  for (const char* own : {"messages", "bos_token", "eos_token", "add_generation_prompt",
                          "strftime_now", "raise_exception"}) {
    EXPECT_EQ(ErrorWith(fmt::format(R"("chat_template_kwargs":{{"{}":"x"}})", own)),
              fmt::format("chat_template_kwargs: \"{}\" is what templates have already; choose "
                          "another name",
                          own));
  }
  EXPECT_THAT(ErrorWith(R"("chat_template_kwargs":{"a":{"b":1}})"),
              StartsWith("chat_template_kwargs.\"a\": expected a number, a string"));
  EXPECT_THAT(ErrorWith(R"("chat_template_kwargs":{"a":[[1,{}]]})"),
              StartsWith("chat_template_kwargs.\"a\""));
  EXPECT_THAT(ErrorWith(R"("chat_template_kwargs":[])"),
              StartsWith("chat_template_kwargs: expected an object"));
  EXPECT_THAT(ErrorWith(R"("chat_template_kwargs":{"a":")" + std::string(70000, 'x') + "\"}"),
              StartsWith("chat_template_kwargs: expected at most 64 variables and 65536 bytes"));
  std::string many = "\"a\":1";
  for (int i = 0; i < 64; ++i) many += fmt::format(",\"v{}\":1", i);
  EXPECT_THAT(ErrorWith("\"chat_template_kwargs\":{" + many + "}"),
              StartsWith("chat_template_kwargs: expected at most 64 variables"));
}

}  // namespace
}  // namespace tandem::frontend
