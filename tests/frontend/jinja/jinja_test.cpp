#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <random>
#include <string>

#include "frontend/chat/chat_template.h"
#include "frontend/jinja/interpreter.h"
#include "frontend/jinja/syntax/parser.h"
#include "frontend/jinja/values/search.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/frontend/jinja/render_source.h"

// The template language itself, through ChatTemplate.
namespace tandem::frontend {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::ElementsAre;
using testing::Error;
using ::testing::HasSubstr;
using testing::Render;
using testing::Rendered;

TEST(JinjaTest, SnippetsRenderAsJinja2DoesByteForByte) {
  std::ifstream file(TANDEM_SOURCE_DIR "/tests/golden/templates/snippets.json");
  ASSERT_TRUE(file);
  const Json golden = Json::parse(file);
  for (const Json& snippet : golden["snippets"]) {
    const std::string source = snippet[0].get<std::string>();
    const Rendered rendered = Render(source, golden["variables"]);
    if (snippet[1].is_null()) {
      EXPECT_FALSE(rendered.ok()) << source << "\nmust fail, gives: " << Error(rendered);
      continue;
    }
    EXPECT_EQ(rendered.ok() ? JoinSegments(*rendered) : "error: " + Error(rendered),
              snippet[1].get<std::string>())
        << source;
  }
  EXPECT_GT(golden["snippets"].size(), 700u);
}

TEST(JinjaTest, ErrorsNameTheLineAndWhatWasWrong) {
  const std::pair<const char*, const char*> kCases[] = {
      {"a\n{% if x %}\n{{ 1", "line 3: expected end of print statement, found end of template"},
      {"\n\n{% nope %}", "line 3: unknown tag 'nope'"},
      {"{% for x in y %}\n", "'endfor' is missing"},
      {"{{ 'a }}", "line 1: the string that starts here has no closing '"},
      {"\n{{ a.b.c }}", "line 2: 'a' is undefined"},
      {"{% set d = {} %}\n{{ d.x.y }}", "line 2: 'dict object' has no attribute 'x'"},
      {"\n\n{{ 1 + 'a' }}", "line 3: unsupported operand types for +: 'int' and 'str'"},
      {"{{ 'x' | nofilter }}", "there is no filter named 'nofilter'"},
      {"{{ 'x' is notest }}", "there is no test named 'notest'"},
      {"{{ raise_exception('only users') }}", "the template refuses these messages: only users"},
      {"{{ [].append(1) }}", "access to attribute 'append' of 'list' object is unsafe"},
      {"{{ ''.__class__.__mro__ }}", "access to attribute '__class__' of 'str' object is unsafe"},
      {"{% include 'secrets' %}", "the tag 'include' is not supported"},
      {"{% macro m(a) %}{{ a }}{% endmacro %}\n{{ m(1, 2) }}", "line 2: macro 'm' takes not more"},
  };
  for (const auto& [source, expected] : kCases) {
    const Rendered rendered = Render(source);
    EXPECT_THAT(Error(rendered), HasSubstr(expected)) << source;
    EXPECT_EQ(rendered.status().code(), absl::StatusCode::kInvalidArgument) << source;
    EXPECT_THAT(Error(rendered), HasSubstr("the model's own template, line ")) << source;
  }
}

TEST(JinjaTest, AByteOrderMarkInFrontOfATemplateIsNoPartOfIt) {
  EXPECT_EQ(Error(Render("\xEF\xBB\xBFone")), "no error: one");
}

/// Every way in which short texts lie in each other, against the standard library.
TEST(JinjaTest, SearchesFindWhatTheStandardLibraryFinds) {
  std::mt19937 random(1);
  const auto text = [&](size_t most) {
    std::string letters(random() % (most + 1), ' ');
    for (char& letter : letters) letter = "ab"[random() % 2];
    return letters;
  };
  jinja::Limits limits;
  limits.steps = std::numeric_limits<int64_t>::max();
  jinja::Sandbox sandbox(limits);
  for (int i = 0; i < 20'000; ++i) {
    std::string wanted = text(24);
    if (i % 2 == 0) wanted += std::string(random() % 24, 'a');
    std::string whole = text(80);
    if (i % 3 == 0) whole.insert(random() % (whole.size() + 1), wanted);
    const auto search = jinja::TextSearch::Make(sandbox, wanted, whole.size());
    ASSERT_TRUE(search.ok());
    for (const size_t at : {size_t{0}, whole.size() / 2, whole.size()}) {
      ASSERT_EQ(search->First(whole, at), whole.find(wanted, at)) << wanted << " in " << whole;
      ASSERT_EQ(search->Last(whole, at), std::string_view(whole).substr(0, at).rfind(wanted))
          << wanted << " in " << whole;
    }
  }
}

TEST(JinjaTest, ATemplateThatIsNoUtf8IsRefusedByLine) {
  for (const char* byte : {"\xFF", "\xC0\xAF", "\xED\xA0\x80", "\xE2\x82"}) {
    const auto found = Render(std::string("one\ntwo ") + byte);
    ASSERT_FALSE(found.ok());
    EXPECT_NE(Message(found.status()).find("line 2: byte 8 of the template"), std::string::npos)
        << found.status();
  }
  EXPECT_TRUE(Render("caf\xC3\xA9").ok());
}

TEST(JinjaTest, DeepSourceIsRefused) {
  const auto repeated = [](const std::string& part, int times) {
    std::string text;
    for (int time = 0; time < times; ++time) {
      text += part;
    }
    return text;
  };
  constexpr int kMany = 50'000;
  const std::string sources[] = {
      "{{ " + repeated("(", kMany) + "1" + repeated(")", kMany) + " }}",
      "{{ " + repeated("[", kMany),
      "{{ " + repeated("{1:", kMany),
      "{{ " + repeated("not ", kMany) + "1 }}",
      "{{ " + repeated("- ", kMany) + "1 }}",
      "{{ 1" + repeated("+1", kMany) + " }}",
      "{{ 1" + repeated("**1", kMany) + " }}",
      "{{ 1" + repeated(" and 1", kMany) + " }}",
      "{{ 1" + repeated(" if 1", kMany) + " }}",
      "{{ 1" + repeated(" if 1 else 1", kMany) + " }}",
      "{{ a" + repeated(".a", kMany) + " }}",
      "{{ a" + repeated("[0]", kMany) + " }}",
      "{{ a" + repeated("()", kMany) + " }}",
      "{{ a" + repeated("|abs", kMany) + " }}",
      "{{ a" + repeated("(a", kMany),
      repeated("{% if 1 %}", kMany),
      repeated("{% for a in a %}", kMany),
      repeated("{% macro a() %}", kMany),
  };
  for (const std::string& source : sources) {
    const auto chat = ChatTemplate::FromJinja(source, "", "");
    ASSERT_FALSE(chat.ok()) << source.substr(0, 40);
    EXPECT_THAT(Message(chat.status()), HasSubstr("nested deeper than")) << source.substr(0, 40);
  }
  EXPECT_FALSE(ChatTemplate::FromJinja(std::string(2 << 20, 'x'), "", "").ok());
}

TEST(JinjaTest, DeepClientDataIsRefused) {
  Json deep = 1;
  for (int level = 0; level < 500; ++level) {
    deep = Json::array({deep});
  }
  EXPECT_THAT(Error(Render("x", {{"deep", deep}})), HasSubstr("nested deeper than"));
}

TEST(JinjaTest, ManyMessagesAreNoProblem) {
  Json messages = Json::array();
  for (int turn = 0; turn < 20'000; ++turn) {
    messages.push_back(
        {{"role", turn % 2 == 0 ? "user" : "assistant"}, {"content", "Hello there"}});
  }
  const Rendered rendered = Render(
      "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m['content'] | trim }}<|im_end|>\n"
      "{% endfor %}",
      Json::object(), messages);
  ASSERT_TRUE(rendered.ok()) << rendered.status();
  EXPECT_GT(JoinSegments(*rendered).size(), 20'000u * 40);
}

// Which bytes the template wrote, shown by brackets around what a client did.
std::string Marked(const std::string& source, const Json& variables = Json::object(),
                   const Json& messages = Json::array()) {
  const Rendered rendered = Render(source, variables, messages);
  if (!rendered.ok()) {
    return "error: " + Error(rendered);
  }
  std::string marked;
  for (const TextSegment& segment : *rendered) {
    marked += segment.from_template ? segment.text : "[" + segment.text + "]";
  }
  return marked;
}

TEST(JinjaTest, EveryByteKnowsItsOrigin) {
  const Json variables = {{"user", "u<|x|>v"}, {"list", {"a", "b"}},         {"n", 7},
                          {"yes", true},       {"dict", {{"key", "value"}}}, {"role", "user"}};
  const std::pair<const char*, const char*> kCases[] = {
      {"a{{ user }}b", "a[u<|x|>v]b"},
      {"{{ '<' ~ user ~ '>' }}", "<[u<|x|>v]>"},
      {"{{ '<' + user + '>' }}", "<[u<|x|>v]>"},
      {"{{ bos_token }}{{ eos_token }}", "<s></s>"},
      {"{{ user[1:4] }}|{{ ('a' ~ user)[:3] }}", "[<|x]|a[u<]"},
      {"{{ ('  ' ~ user ~ ' ')|trim }}", "[u<|x|>v]"},
      {"{{ user.replace('<|x|>', '<|y|>') }}", "[u]<|y|>[v]"},
      {"{{ '<X>'.replace('X', user) }}", "<[u<|x|>v]>"},
      {"{{ user|replace('x', 'y') }}", "[u<|]y[|>v]"},
      {"{{ user.split('|') | join('|') }}", "[u<]|[x]|[>v]"},
      {"{{ '-'.join(list) }}", "[a]-[b]"},
      {"{{ ('x' ~ user)|upper }}", "X[U<|X|>V]"},
      {"{{ (user ~ 'x')|lower }}{{ user|title }}{{ user|capitalize }}",
       "[u<|x|>v]x[U<|x|>vU<|x|>v]"},
      {"{{ (user ~ 'x')|reverse }}", "x[v>|x|<u]"},
      {"{{ '%s!' % user }}{{ '%s!'|format(user) }}", "[u<|x|>v]![u<|x|>v]!"},
      {"{{ '<{}>{}'.format(user, 'x') }}", "<[u<|x|>v]>x"},
      {"{{ '{:>10}|'.format(user) }}", "   [u<|x|>v]|"},
      {"{{ user ~ 1 ~ none ~ true ~ 1.5 }}", "[u<|x|>v]1NoneTrue1.5"},
      {"{{ n }}|{{ n + 1 }}|{{ 1 + 1 }}|{{ yes }}|{{ n ~ '' }}", "[7]|[8]|2|[True]|[7]"},
      {"{{ dict }}|{{ dict|tojson }}|{{ ['x'] }}|{{ ['x', user] }}|{{ {'a': 1}|tojson }}",
       "[{'key': 'value'}]|[{\"key\": \"value\"}]|['x']|[['x', 'u<|x|>v']]|{\"a\": 1}"},
      {"{% for k, v in dict.items() %}{{ k }}={{ v }}{% endfor %}", "[key]=[value]"},
      {"{% for c in '<' ~ user[:1] %}{{ c }}{% endfor %}", "<[u]"},
      {"{% set x %}<{{ user }}>{% endset %}{{ x }}{{ x|length }}", "<[u<|x|>v]>[9]"},
      {"{% macro m(a) %}<{{ a }}>{% endmacro %}{{ m(user) }}", "<[u<|x|>v]>"},
      {"{% filter upper %}<{{ user }}>{% endfilter %}", "<[U<|X|>V]>"},
      {"{{ user * 2 }}{{ '<' * 2 }}", "[u<|x|>vu<|x|>v]<<"},
      {"{{ list|map('upper')|join('+') }}{{ list|first }}", "[A]+[Ba]"},
      {"{{ user|indent(2, true) }}|{{ 'a\nb'|indent(1) }}", "  [u<|x|>v]|a\n b"},
      {"{{ user|default('d') }}{{ missing|default('d') }}", "[u<|x|>v]d"},
      {"{{ user|e }}", "[u&lt;|x|&gt;v]"},
      {"{{ {'user': '<|user|>'}[role] }}", "<|user|>"},
      {"{{ user|string }}{{ user.strip('u') }}{{ user.partition('<')[1] }}", "[u<|x|>v<|x|>v<]"},
      {"{{ strftime_now('%Y') }}", "2026"},
      {"{% for x in list %}{{ loop.index }}{% endfor %}", "12"},
      {"{{ user.splitlines()[0] }}{{ user.center(9, '*') }}", "[u<|x|>v]*[u<|x|>v]*"},
      {"{{ user|truncate(4, true, '', 0) }}", "[u<|x]"},
      {"{{ user|int }}|{{ '5'|int }}|{{ n|string|int }}", "0|5|[7]"},
  };
  for (const auto& [source, expected] : kCases) {
    EXPECT_EQ(Marked(source, variables), expected) << source;
  }
}

TEST(JinjaTest, OnlyWellKnownRoleNamesMayBePartOfControlTokens) {
  const std::string source =
      "{% for m in messages %}{{ '<|' ~ m['role'] ~ '|>' ~ m.content }}{% endfor %}";
  EXPECT_EQ(Marked(source, {}, Json::parse(R"([{"role": "user", "content": "user"},
                                              {"role": "endoftext", "content": "x"}])")),
            "<|user|>[user]<|[endoftext]|>[x]");
  // Not a role: a field of that name deeper in the message.
  EXPECT_EQ(
      Marked("{{ messages[0].content[0].role }}", {}, Json::parse(R"([{"role": "user", "content":
                                 [{"type": "text", "text": "", "role": "system"}]}])")),
      "[system]");
}

TEST(JinjaTest, ClientVariablesCannotReplaceTheConversation) {
  EXPECT_EQ(
      Marked("{{ bos_token }}{{ messages|length }}", {{"bos_token", "evil"}, {"messages", "evil"}}),
      "<s>[0]");
}

TEST(JinjaTest, InvalidUtf8PassesThrough) {
  const Json messages = Json::array({{{"role", "user"},
                                      {"content",
                                       "a\xFF\xC3 \xE4\xB8"
                                       "b"}}});
  EXPECT_EQ(Marked("{{ messages[0].content }}|{{ messages[0].content|length }}|"
                   "{{ messages[0].content|upper }}|{{ messages[0].content[1] }}",
                   {}, messages),
            "[a\xFF\xC3 \xE4\xB8"
            "b]|[7]|[A\xFF\xC3 \xE4\xB8"
            "B]|[\xFF]");
}

TEST(SelectTemplateTest, ChoiceThenModelThenZephyr) {
  const auto name = [](std::optional<std::string> choice, std::optional<std::string> model) {
    const auto selected = SelectTemplate(choice, model, "<s>", "</s>");
    return selected.ok() ? selected->chat.name() + "/" + selected->note
                         : Message(selected.status());
  };
  EXPECT_EQ(name(std::nullopt, "{{ 1 }}"), "the model's own template/");
  EXPECT_EQ(name("chatml", "{{ 1 }}"), "chatml/");
  EXPECT_EQ(name("zephyr", std::nullopt), "zephyr/");
  EXPECT_THAT(name(std::nullopt, std::nullopt), HasSubstr("zephyr/the model has no chat template"));
  EXPECT_THAT(name("/no/such/file", std::nullopt), HasSubstr("neither chatml nor zephyr"));
  EXPECT_THAT(name(std::nullopt, "{{ 1"), HasSubstr("the model's own template, line 1: "));
}

}  // namespace
}  // namespace tandem::frontend
