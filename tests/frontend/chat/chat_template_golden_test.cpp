#include <sodium.h>

#include <nlohmann/json.hpp>
#include <string>

#include "core/formats/gguf.h"
#include "fmt/format.h"
#include "frontend/chat/chat_template.h"
#include "gtest/gtest.h"
#include "tests/frontend/jinja/render_source.h"
#include "tests/support/models.h"
#include "tests/support/read_file.h"

// Real templates against jinja2, over texts made by
// tests/golden/templates/make_template_goldens.py.
namespace tandem::frontend {
namespace {

using Json = nlohmann::ordered_json;

Json ReadGolden(const std::string& name) {
  return Json::parse(testing::ReadFile(TANDEM_SOURCE_DIR "/tests/golden/templates/" + name));
}

// The first 16 hex digits of the SHA-256.
std::string Hash(const std::string& text) {
  unsigned char digest[crypto_hash_sha256_BYTES];
  crypto_hash_sha256(digest, reinterpret_cast<const unsigned char*>(text.data()), text.size());
  std::string hex;
  for (size_t index = 0; index < 8; ++index) {
    hex += fmt::format("{:02x}", digest[index]);
  }
  return hex;
}

const std::string kSmolLm2 = "SmolLM2-135M-Instruct";

std::string TemplateSource(const std::string& name) {
  if (name != kSmolLm2) {
    return testing::ReadFile(testing::ModelPath("templates/" + name + ".jinja"));
  }
  auto file = core::GgufFile::Open(testing::ModelPath("SmolLM2-135M-Instruct.Q4_1.gguf"));
  EXPECT_TRUE(file.ok()) << file.status();
  return std::string((*file)->String("tokenizer.chat_template").value_or(""));
}

testing::Rendered RenderCase(const std::string& source, const Json& chat) {
  RenderOptions options;
  options.add_generation_prompt = chat["add_generation_prompt"].get<bool>();
  options.tools = chat.value("tools", Json());
  options.variables = chat.value("variables", Json::object());
  return testing::Render(source, chat["messages"], options);
}

TEST(ChatTemplateGoldenTest, RealTemplatesRenderAsJinja2DoesByteForByte) {
  const Json conversations = ReadGolden("conversations.json");
  const Json rendered = ReadGolden("rendered.json");
  int compared = 0;
  for (const auto& [name, hashes] : rendered["hashes"].items()) {
    const std::string source = TemplateSource(name);
    for (const auto& [chat_name, expected] : hashes.items()) {
      const auto text = RenderCase(source, conversations[chat_name]);
      const std::string found = text.ok() ? Hash(JoinSegments(*text)) : "error";
      EXPECT_EQ(found, expected.get<std::string>())
          << name << ", conversation " << chat_name << ": "
          << (text.ok() ? JoinSegments(*text) : Message(text.status()));
      ++compared;
    }
  }
  EXPECT_GT(compared, 2500);
}

TEST(ChatTemplateGoldenTest, SomeTextsInFull) {
  const Json conversations = ReadGolden("conversations.json");
  const Json rendered = ReadGolden("rendered.json");
  for (const Json& entry : rendered["texts"]) {
    const auto text = RenderCase(TemplateSource(entry["template"].get<std::string>()),
                                 conversations[entry["case"].get<std::string>()]);
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(JoinSegments(*text), entry["text"].get<std::string>());
  }
}

// The promise that the tokenizer leans on: control tokens that a user typed never stand in text
// that the template wrote, whatever the template does to the message.
TEST(ChatTemplateGoldenTest, NoTemplateTakesClientTextForItsOwn) {
  const Json rendered = ReadGolden("rendered.json");
  // Private-use characters that no template holds.
  const std::string mark = "\uE0F1\uE0F2";
  const Json messages = {
      {{"role", "system"}, {"content", mark + "s"}},
      {{"role", "user"}, {"content", " " + mark + "u\n" + mark + " "}},
      {{"role", "assistant"}, {"content", mark + "<think>" + mark + "</think>a"}},
      {{"role", "user"}, {"content", Json::array({{{"type", "text"}, {"text", mark}}})}}};
  const Json tools = {
      {{"type", "function"},
       {"function",
        {{"name", mark},
         {"description", mark},
         {"parameters",
          {{"type", "object"},
           {"properties", {{mark, {{"type", "string"}, {"description", mark}}}}}}}}}}};
  int renderings = 0;
  for (const auto& [name, hashes] : rendered["hashes"].items()) {
    for (const Json& chat : {messages, Json::array({messages[1]})}) {
      const auto text =
          RenderCase(TemplateSource(name),
                     {{"messages", chat}, {"tools", tools}, {"add_generation_prompt", true}});
      if (!text.ok()) {
        continue;
      }
      ++renderings;
      for (const TextSegment& segment : *text) {
        // Bytes of the marks' code points: U+E0F1 is EE 83 B1, U+E0F2 is EE 83 B2.
        EXPECT_FALSE(segment.from_template && segment.text.find("\xEE\x83") != std::string::npos)
            << name << ": " << segment.text;
      }
    }
  }
  EXPECT_GT(renderings, 100);
}

}  // namespace
}  // namespace tandem::frontend
