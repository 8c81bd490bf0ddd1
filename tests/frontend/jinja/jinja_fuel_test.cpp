#include <iterator>
#include <limits>
#include <string>
#include <string_view>
#include <utility>

#include "frontend/jinja/interpreter.h"
#include "frontend/jinja/syntax/parser.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/frontend/jinja/render_source.h"

// What work costs a template, and that it ends.
namespace tandem::frontend {
namespace {

using testing::Error;
using ::testing::HasSubstr;
using testing::Render;

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

}  // namespace
}  // namespace tandem::frontend
