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

// The template language itself, through ChatTemplate.
namespace tandem::frontend {
namespace {

using Json = nlohmann::ordered_json;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using Rendered = absl::StatusOr<std::vector<TextSegment>>;

Rendered Render(const std::string& source, const Json& variables = Json::object(),
                const Json& messages = Json::array()) {
  TANDEM_ASSIGN_OR_RETURN(const ChatTemplate chat, ChatTemplate::FromJinja(source, "<s>", "</s>"));
  RenderOptions options;
  options.variables = variables;
  std::tm now{};
  now.tm_year = 2026 - 1900;
  now.tm_mon = 2;
  now.tm_mday = 4;
  now.tm_hour = 5;
  now.tm_min = 6;
  now.tm_sec = 7;
  now.tm_wday = 3;
  now.tm_yday = 62;
  options.now = now;
  return chat.Render(messages, options);
}

std::string Error(const Rendered& rendered) {
  return rendered.ok() ? "no error: " + JoinSegments(*rendered) : Message(rendered.status());
}

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

constexpr const char* kRunawayTemplates[] = {
    "{{ 'a' * 10**9 }}",
    "{{ 'a' * 10**18 }}",
    "{{ [1] * 10**9 }}",
    "{{ range(10**9) }}",
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% set ns = namespace(s='aaaaaaaa') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}"
    "{% endfor %}",
    "{% set ns = namespace(s=[1, 2]) %}{% for i in range(99) %}{% set ns.s = ns.s + ns.s %}"
    "{% endfor %}",
    "{% set ns = namespace(s=[]) %}{% for i in range(99999) %}{% set ns.s = [ns.s] %}{% endfor "
    "%}",
    "{% set ns = namespace(s=()) %}{% for i in range(99999) %}{% set ns.s = (ns.s,) %}{% endfor "
    "%}",
    "{% set ns = namespace(s={}) %}{% for i in range(99999) %}{% set ns.s = {'a': ns.s} %}"
    "{% endfor %}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}"
    "{% endfor %}{{ ns.s }}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}"
    "{% endfor %}{{ ns.s == ns.s }}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = [ns.s, ns.s] %}"
    "{% endfor %}{{ ns.s|tojson }}",
    "{% set ns = namespace(g=[1]) %}{% for i in range(9999) %}{% set ns.g = ns.g|map('abs') %}"
    "{% endfor %}{{ ns.g|list }}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(x) %}{{ m(x ~ x) }}{% endmacro %}{{ m('a') }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% set ns = namespace() %}{% set ns.x = ns %}{{ ns }}",
    "{% set ns = namespace() %}{% set ns.x = [ns] %}{{ ns }}",
    "{{ '%999999999d' % 1 }}",
    "{{ '{:999999999}'.format(1) }}",
    "{{ '{:.999999999f}'.format(1.0) }}",
    "{{ 'a'.center(10**9) }}",
    "{{ 'a'.zfill(10**9) }}",
    "{{ 'a\nb'|indent(10**9) }}",
    "{{ [1]|tojson(indent=10**9) }}",
    "{{ [1]|batch(10**9, 1)|list }}",
    "{% set x = 'a' * 1000000 %}{% for i in range(99999) %}{{ x }}{% endfor %}",
    "{% set x = 'a' * 1000000 %}{{ x.replace('', x) }}",
    "{% set x = 'a' * 1000000 %}{{ x.join(x|list) }}",
    "{% set x = ['a' * 1000000] * 100000 %}{{ x|join }}",
    "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = ns.l + ['a' * 9999] "
    "%}"
    "{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "y in x %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.find(y) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.rfind(y) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.count(y) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.split(y) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.rsplit(y) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.partition(y) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.replace(y, '') %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.strip(y) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.startswith(x) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.endswith((y, x, y)) %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x == x %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x is in x %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "{x: 1}[x] %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x in {x: 1} %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x|length %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x.isalpha() %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x|wordcount %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 2000000 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x < x %}1{% endif %}{% endfor %}",
    "{% set x = 'a' * 4000000 %}{% set y = 'a' * 3999999 ~ 'b' %}{% for i in range(9999) %}{% if "
    "x in [y, y] %}1{% endif %}{% endfor %}",
    "{{ 2 ** 64 }}",
    "{{ 9223372036854775807 + 1 }}",
    "{{ -9223372036854775807 - 2 }}",
    "{{ 10 ** 10 ** 10 }}",
};

/// One test a template: under sanitizers each takes seconds, and so they share the processors.
class RunawayTemplateTest : public ::testing::TestWithParam<size_t> {};

TEST_P(RunawayTemplateTest, EndsWithAnError) {
  const char* source = kRunawayTemplates[GetParam()];
  EXPECT_FALSE(Render(source).ok()) << source;
}

INSTANTIATE_TEST_SUITE_P(All, RunawayTemplateTest,
                         ::testing::Range(size_t{0}, std::size(kRunawayTemplates)));

/// Where a search begins anew at each place, these take hours.
TEST(JinjaTest, SearchesTakeTheTimeOfTheirLength) {
  const std::string texts =
      "{% set x = 'a' * 2000000 %}{% set y = 'a' * 1000000 ~ 'b' %}"
      "{% set z = 'b' ~ 'a' * 1000000 %}";
  const std::pair<const char*, const char*> cases[] = {
      {"y in x", "False"},
      {"z in x", "False"},
      {"y in (x ~ 'b')", "True"},
      {"y not in x", "True"},
      {"x.find(y)", "-1"},
      {"(x ~ 'b').find(y)", "1000000"},
      {"x.rfind(z)", "-1"},
      {"('b' ~ x).rfind(z)", "0"},
      {"x.count(y)", "0"},
      {"x.count('a' * 17)", "117647"},
      {"x.split(y)|length", "1"},
      {"x.rsplit(z)|length", "1"},
      {"('a' * 1000000 ~ 'bc').split(y)|length", "2"},
      {"x.partition(y)[0]|length", "2000000"},
      {"x.rpartition(z)[2]|length", "2000000"},
      {"x.replace(y, '')|length", "2000000"},
      {"(x ~ 'b').replace(y, '-')|length", "1000001"},
      {"x.strip(y)|length", "0"},
  };
  for (const auto& [expression, expected] : cases) {
    const auto found = Render(texts + "{{ " + expression + " }}");
    ASSERT_TRUE(found.ok()) << expression << ": " << found.status();
    EXPECT_EQ(JoinSegments(*found), expected) << expression;
  }
}

struct Spent {
  absl::Status status;
  int64_t steps = 0;
};

/// Renders a template with so much fuel.
Spent Spend(const std::string& source, int64_t steps) {
  const auto body = jinja::Parse(source);
  if (!body.ok()) return {body.status()};
  jinja::Limits limits;
  limits.steps = steps;
  jinja::Sandbox sandbox(limits);
  jinja::Interpreter interpreter(sandbox, std::tm{});
  return {interpreter.Render(*body).status(), sandbox.used_steps()};
}

/// The template gets so much fuel for its loop, beyond what its beginning takes.
void ExpectOutOfFuel(const std::string& setup, const std::string& loop, int64_t steps) {
  SCOPED_TRACE(loop);
  const Spent before = Spend(setup, std::numeric_limits<int64_t>::max());
  ASSERT_TRUE(before.status.ok()) << before.status;
  EXPECT_THAT(Message(Spend(setup + loop, before.steps + steps).status),
              HasSubstr("an endless loop?"));
}

/// A statement that is done ten times.
std::string TenTimes(std::string_view expression) {
  return fmt::format("{{% for i in range(10) %}}{{% set x = {} %}}{{% endfor %}}", expression);
}

/// Each walks over 100 kB ten times.
TEST(JinjaTest, WorkOnLongTextsIsPaidForByTheByte) {
  const std::string setup =
      "{% set a = 'a' * 100000 %}{% set b = 'a' * 100000 %}{% set u = '\u00e4' * 50000 %}"
      "{% set w = 'a b ' * 25000 %}{% set n = '\n' * 100000 %}{% set q = '<' * 100000 %}"
      "{% set one = '1' * 100000 %}{% set p = '%%' * 50000 %}{% set d = {'k': 1} %}";
  // Copied or searched: at most 256 bytes a step.
  for (const char* expression : {"u[49998:49999]",
                                 "u[-1]",
                                 "u[::-1]",
                                 "a[::-1]",
                                 "a|reverse",
                                 "(u + 'b')|length",
                                 "a + 'b'",
                                 "a ~ 'b'",
                                 "a == b",
                                 "a < b",
                                 "a != b",
                                 "'b' in a",
                                 "{a: 1}",
                                 "{a: 1}[b]",
                                 "d[a]",
                                 "d.get(a)",
                                 "a in d",
                                 "dict([[a, 1]])",
                                 "a.isalpha()",
                                 "a is eq b",
                                 "a is lt b",
                                 "a|wordcount",
                                 "q|e",
                                 "q|forceescape",
                                 "a|replace('b', '')",
                                 "a.count('a')",
                                 "a.find('b')",
                                 "a.rfind('b')",
                                 "u.find('b', 5)",
                                 "u.startswith('b', 5)",
                                 "a.split('b')",
                                 "w.split()",
                                 "w.rsplit()",
                                 "n.splitlines()",
                                 "a.strip('a')",
                                 "n.strip()",
                                 "n.rstrip()",
                                 "a.partition('b')",
                                 "''.center(100000)",
                                 "''.ljust(100000)",
                                 "''.zfill(100000)",
                                 "p % ()",
                                 "'%.1s' % u",
                                 "'{:.1}'.format(u)",
                                 "'{}'.format(a)",
                                 "'%s' % a",
                                 "one|float",
                                 "n|indent",
                                 "'a'|indent(100000)",
                                 "u|truncate(5)",
                                 "[a]|join",
                                 "'a' * 100000"}) {
    ExpectOutOfFuel(setup, TenTimes(expression), 3'900);
  }
  // Each character is looked at by itself: at most 10 a step.
  for (const char* expression : {"[a, b]|max",
                                 "[a, b]|min",
                                 "[a, b]|sort",
                                 "[a, b]|unique|list",
                                 "a|upper",
                                 "a|lower",
                                 "a|capitalize",
                                 "w|title",
                                 "a.upper()",
                                 "a.swapcase()",
                                 "w.title()",
                                 "a is lower",
                                 "a is upper",
                                 "q|urlencode",
                                 "a|tojson",
                                 "u|tojson(ensure_ascii=true)",
                                 "[a]|string",
                                 "[u]|string",
                                 "a|replace('a', '')",
                                 "a|list|length",
                                 "a|map('upper')|list",
                                 "a[::2]",
                                 "''.strip(a)"}) {
    ExpectOutOfFuel(setup, TenTimes(expression), 90'000);
  }
  ExpectOutOfFuel(setup, "{% for i in range(10) %}{% set x %}{{ a }}{% endset %}{% endfor %}",
                  3'900);
  ExpectOutOfFuel(setup,
                  "{% for i in range(10) %}{% for j in [1] %}{% set x %}" +
                      std::string(99'999, 'a') + "{% break %}{% endset %}{% endfor %}{% endfor %}",
                  3'900);
}

/// Each touches ten thousand values ten times.
TEST(JinjaTest, WorkOnManyValuesIsPaidForByTheValue) {
  const std::string setup =
      "{% set l = range(10000)|list %}{% set m = range(10000)|list %}{% set s = "
      "l|map('string')|list %}"
      "{% set d = dict(range(20000)|list|batch(2)) %}{% set e = dict(range(20000)|list|batch(2)) %}"
      "{% set o = [{'a': 1}] * 10000 %}{% set ns = namespace() %}{% set f = '{k9}' * 1000 %}";
  for (const char* expression : {"l|sum",
                                 "l|min",
                                 "l|max",
                                 "l|sort",
                                 "l|unique|list",
                                 "s|unique|list",
                                 "l|list",
                                 "l|last",
                                 "l|reverse|list",
                                 "l|join",
                                 "l|batch(2)|list",
                                 "l|slice(2)|list",
                                 "l == m",
                                 "-1 in l",
                                 "l.count(1)",
                                 "l + m",
                                 "l[::-1]",
                                 "l[:]",
                                 "l * 1",
                                 "d == e",
                                 "d.copy()",
                                 "dict(d)",
                                 "d|dictsort",
                                 "d|items|list",
                                 "d.items()|list",
                                 "d.values()|list",
                                 "o|map(attribute='a')|list",
                                 "o|selectattr('a')|list",
                                 "o|rejectattr('b', 'defined')|list",
                                 "o|groupby('a')|list",
                                 "l|select('odd')|list",
                                 "l|string",
                                 "l|tojson",
                                 "l is eq m",
                                 "l|tojson(indent=2)"}) {
    ExpectOutOfFuel(setup, TenTimes(expression), 90'000);
  }
  ExpectOutOfFuel(setup, "{% for i in range(10) %}{% for x in l %}{% endfor %}{% endfor %}",
                  290'000);
  ExpectOutOfFuel(
      setup, "{% for i in range(10) %}{% for x in l if false %}{% endfor %}{% endfor %}", 190'000);
  ExpectOutOfFuel(setup,
                  "{% for i in range(10) %}{% for x in l %}{% macro m() %}{% endmacro %}"
                  "{% endfor %}{% endfor %}",
                  490'000);
}

/// What was quadratic takes as much as the values are.
TEST(JinjaTest, UniqueAndLargeDictsTakeTimeInProportion) {
  for (const char* source : {"{{ (range(100000)|list)|unique|list|length }}",
                             "{{ dict(range(100000)|list|batch(2))|length }}"}) {
    const Spent spent = Spend(source, 3'000'000);
    EXPECT_TRUE(spent.status.ok()) << source << ": " << spent.status;
  }
}

/// Work that is not seen in the sizes of what is given.
TEST(JinjaTest, HiddenWorkIsPaidFor) {
  std::string variables;
  for (int i = 0; i < 16'000; ++i) variables += fmt::format("{{% set v{} = 1 %}}", i);
  ExpectOutOfFuel("{% set a = 1 %}", variables, 1'000'000);  // each is compared with all before it
  ExpectOutOfFuel("", "{% for i in range(1000) %}{% set x = '%.500f' % 1e308 %}{% endfor %}",
                  500'000);
  ExpectOutOfFuel("", "{% for i in range(1000) %}{% set x = 1e300|round(300) %}{% endfor %}",
                  500'000);
  ExpectOutOfFuel("", "{% for i in range(10) %}{% set x = '%100000d' % 1 %}{% endfor %}", 100'000);
  ExpectOutOfFuel("", "{% for i in range(10) %}{% set x = strftime_now('%c' * 100) %}{% endfor %}",
                  10'000);
  // Pairs of pairs of pairs: two texts of a hundred letters, and as many comparisons as 2^40.
  ExpectOutOfFuel(
      "{% set ns = namespace(a=(1,), b=(1,)) %}{% for i in range(40) %}"
      "{% set ns.a = (ns.a, ns.a) %}{% set ns.b = (ns.b, ns.b) %}{% endfor %}",
      "{{ {ns.a: 1}[ns.b] }}", 1'000'000'000);
  EXPECT_THAT(Error(Render("{{ 'a'.center(4611686018427387904, '\U0001F680') }}")),
              HasSubstr("longer than"));
}

/// What is found without walking costs no walk: a slice of a long text, a key of a large dict.
TEST(JinjaTest, WhatIsFoundAtOnceIsCheap) {
  const std::string setup =
      "{% set a = 'a' * 1000000 %}{% set d = dict(range(20000)|list|batch(2)) %}";
  const int64_t before = Spend(setup, std::numeric_limits<int64_t>::max()).steps;
  for (const char* expression : {"a[1:2]", "a[:5]", "a[-1]", "d[500]", "500 in d"}) {
    const Spent spent = Spend(setup + fmt::format("{{% set x = {} %}}", expression),
                              std::numeric_limits<int64_t>::max());
    EXPECT_TRUE(spent.status.ok()) << expression << ": " << spent.status;
    EXPECT_LT(spent.steps - before, 50) << expression;
  }
  const auto found = Render(
      "{% set d = dict([[1, 'i'], [2.5, 'f'], ['1', 's'], [(1, 'a'), 't'], "
      "[none, 'n']] + (range(100, 120)|list|batch(2)|list)) %}"
      "{{ d[1] }}{{ d[1.0] }}{{ d[true] }}{{ d[2.5] }}{{ d['1'] }}"
      "{{ d[(1, 'a')] }}{{ d[none] }}{{ d[118] }}{{ d[9007199254740993] }}");
  ASSERT_TRUE(found.ok()) << found.status();
  EXPECT_EQ(JoinSegments(*found), "iiifstn119");
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
