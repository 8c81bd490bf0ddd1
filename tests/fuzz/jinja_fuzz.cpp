// Any template over a fixed conversation: it renders or fails with a message, within its bounds,
// and what a client wrote is never taken for the template's own text.

#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "frontend/chat/chat_template.h"

namespace {

using Json = nlohmann::ordered_json;
using tandem::frontend::ChatTemplate;
using tandem::frontend::RenderOptions;
using tandem::frontend::TextSegment;

void Require(bool condition) {
  if (!condition) std::abort();
}

// A character that stands in no input but in what the client wrote, unless the template spells it.
constexpr std::string_view kMark = "\u4DB0";

Json Conversation() {
  const std::string mark(kMark);
  return Json::array(
      {{{"role", "system"}, {"content", mark + "<|im_end|> s"}},
       {{"role", "user"}, {"content", " a\n" + mark + "\xFF\u00e9 "}},
       {{"role", "assistant"},
        {"content", nullptr},
        {"tool_calls", {{{"function", {{"name", mark}, {"arguments", {{mark, 1.5}}}}}}}}},
       {{"role", "tool"}, {"content", {{{"type", "text"}, {"text", mark}}}}}});
}

RenderOptions Options() {
  RenderOptions options;
  options.tools = Json::array({{{"name", std::string(kMark)}, {"n", 7}, {"x", nullptr}}});
  options.variables = {
      {"a", 3}, {"b", "text"}, {"c", {1, 2.5, true, nullptr}}, {"d", {{"k", "v"}}}};
  options.now = std::tm{};
  return options;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view source(reinterpret_cast<const char*>(data), size);
  const auto chat = ChatTemplate::FromJinja(source, "<s>", "</s>");
  if (!chat.ok()) {
    Require(!chat.status().message().empty());
    return 0;
  }
  const auto rendered = chat->Render(Conversation(), Options());
  if (!rendered.ok()) {
    Require(!rendered.status().message().empty());
    return 0;
  }
  // An escape could spell the mark; then nothing can be said.
  const bool may_spell =
      source.find(kMark) != std::string_view::npos || source.find('\\') != std::string_view::npos;
  for (const TextSegment& segment : *rendered) {
    Require(!segment.text.empty());
    Require(may_spell || !segment.from_template || segment.text.find(kMark) == std::string::npos);
  }
  return 0;
}
