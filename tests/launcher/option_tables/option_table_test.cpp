#include "launcher/option_tables/option_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "launcher/command_line.h"
#include "launcher/option_tables/rank_command.h"
#include "launcher/options/command_words.h"
#include "launcher/options/option_words.h"

namespace tandem::launcher {
namespace {

using Rows = std::vector<OptionRow>;

bool IsFlag(const OptionRow& row) { return std::holds_alternative<bool*>(row.value.target); }

/// A value of the option that is not its default.
std::string SampleOf(const OptionRow& row) {
  const Unit unit = row.value.unit;
  if (const auto [least, most] = row.value.limits;
      least < most && unit != Unit::kSize && unit != Unit::kAge) {
    const std::string sample = fmt::format("{}", most);
    return sample == row.written() ? fmt::format("{}", least) : sample;
  }
  if (!row.value.choices.empty()) return row.value.choices.back();
  switch (unit) {
    case Unit::kSize:
      return "7MiB";
    case Unit::kAge:
      return "7d";
    case Unit::kPath:
      return "/a/path";
    case Unit::kNone:
    case Unit::kText:
    case Unit::kSeconds:
      break;
  }
  return IsFlag(row) ? "true" : "7";
}

std::vector<std::string> ArgumentsWith(const OptionRow& row, const std::string& value) {
  if (!row.name.starts_with('-')) return {value};
  if (IsFlag(row)) return {row.flag()};
  return {row.flag(), value};
}

/// A command that runs nothing: only rows, and where they keep their values.
template <typename Options>
struct Bound {
  explicit Bound(std::vector<OptionRow> (*rows_of)(Options&)) : rows(rows_of(options)) {}
  Bound(const Bound&) = delete;
  Bound& operator=(const Bound&) = delete;

  void ReadAll(const std::vector<std::string>& arguments) { Read(rows, arguments); }
  void ReadOne(size_t row, const std::vector<std::string>& arguments) {
    Read({rows[row]}, arguments);
  }
  static void Read(Rows all, const std::vector<std::string>& arguments) {
    for (OptionRow& row : all) row.required = false;
    const absl::Status status = ReadOptions(all, arguments);
    EXPECT_TRUE(status.ok()) << Message(status);
  }

  Options options;
  Rows rows;
};

/// What is written of each row after it was read from a flag, from the environment, and from what a
/// rank is told.
template <typename Options>
void CheckRows(std::vector<OptionRow> (*rows_of)(Options&)) {
  std::set<std::string> names;
  for (size_t i = 0; i < Bound<Options>(rows_of).rows.size(); ++i) {
    Bound<Options> sampled(rows_of);
    const OptionRow& row = sampled.rows[i];
    SCOPED_TRACE(row.name);
    EXPECT_TRUE(names.insert(row.flag()).second);
    EXPECT_FALSE(row.help.empty());
    // Every number has a range; that of seeds and of --watch is that of their type and unit.
    const bool number = std::visit(
        [](const auto* target) {
          using T = std::decay_t<decltype(*target)>;
          return std::is_same_v<T, int> || std::is_same_v<T, int64_t> || std::is_same_v<T, float> ||
                 std::is_same_v<T, double> || std::is_same_v<T, std::optional<int>> ||
                 std::is_same_v<T, std::optional<int64_t>> ||
                 std::is_same_v<T, std::optional<double>> || std::is_same_v<T, std::vector<int>> ||
                 std::is_same_v<T, std::vector<int64_t>> || std::is_same_v<T, std::vector<double>>;
        },
        row.value.target);
    EXPECT_TRUE(!number || row.value.limits.least < row.value.limits.most ||
                row.value.unit == Unit::kSeconds);
    const std::string before = row.written();
    const std::string value = SampleOf(row);

    Bound<Options> flag(rows_of);
    flag.ReadOne(i, ArgumentsWith(row, value));
    const std::string written = flag.rows[i].written();
    EXPECT_NE(written, before);

    if (row.name.starts_with('-')) {
      Bound<Options> environment(rows_of);
      ASSERT_EQ(row.environment().find("TANDEM_"), 0U);
      setenv(row.environment().c_str(), value.c_str(), 1);
      environment.ReadAll({});
      unsetenv(row.environment().c_str());
      EXPECT_EQ(environment.rows[i].written(), written);
    }

    Bound<Options> rank(rows_of);
    rank.ReadOne(i, ArgumentsOf({flag.rows[i]}));
    EXPECT_EQ(rank.rows[i].written(), written);
  }
}

/// Arguments that set everything.
std::vector<std::string> AllArguments(const Rows& rows) {
  std::vector<std::string> all;
  for (const OptionRow& row : rows) {
    for (const std::string& word : ArgumentsWith(row, SampleOf(row))) all.push_back(word);
  }
  return all;
}

TEST(OptionTable, EachRowIsReadFromFlagsTheEnvironmentAndWhatRanksAreTold) {
  CheckRows<ServeOptions>(RowsOf);
  CheckRows<ChatOptions>(RowsOf);
  CheckRows<GenerateOptions>(RowsOf);
  CheckRows<PerplexityOptions>(RowsOf);
  CheckRows<BenchOptions>(RowsOf);
  CheckRows<PlanCommandOptions>(RowsOf);
  CheckRows<InspectOptions>(RowsOf);
  CheckRows<TokenizeOptions>(RowsOf);
  CheckRows<DetokenizeOptions>(RowsOf);
  CheckRows<TemplateOptions>(RowsOf);
  CheckRows<StatusOptions>(RowsOf);
  CheckRows<WorkerOptions>(RowsOf);
  CheckRows<AgentOptions>(RowsOf);
  CheckRows<KvOptions>(KvListRows);
  CheckRows<KvOptions>(KvShowRows);
  CheckRows<KvOptions>(KvCollectRows);
  CheckRows<KvOptions>(KvExportRows);
  CheckRows<KvOptions>(KvImportRows);
}

TEST(OptionTable, RanksHaveTheOptionsOfTheirJob) {
  Bound<WorkerOptions> asked(RowsOf);
  asked.ReadAll(AllArguments(asked.rows));
  Bound<WorkerOptions> rank(RowsOf);
  rank.ReadAll(ArgumentsOf(asked.rows));
  EXPECT_EQ(ArgumentsOf(rank.rows), ArgumentsOf(asked.rows));
  EXPECT_EQ(rank.options.ranks, 65536);
  EXPECT_EQ(rank.options.model.collective_timeout, 86400);
  EXPECT_EQ(rank.options.model.state.kv_tenant, 7 << 20);

  Bound<BenchOptions> bench(RowsOf);
  bench.ReadAll(AllArguments(bench.rows));
  bench.options.batches = {3, 1};
  Bound<BenchOptions> bench_rank(RowsOf);
  bench_rank.ReadAll(ArgumentsOf(bench.rows));
  EXPECT_EQ(bench_rank.options.batches, bench.options.batches);
  EXPECT_EQ(ArgumentsOf(bench_rank.rows), ArgumentsOf(bench.rows));
}

/// What a server is told of its model and state, its ranks can be told.
TEST(OptionTable, RanksTakeAllRowsOfModelAndState) {
  Bound<ServeOptions> serve(RowsOf);
  serve.ReadAll(AllArguments(serve.rows));
  WorkerOptions told{.model = serve.options.model, .ranks = 2};
  Bound<WorkerOptions> rank(RowsOf);
  rank.ReadAll(ArgumentsOf(RowsOf(told)));
  std::set<std::string> names;
  for (const OptionRow& row : rank.rows) names.insert(row.name + "=" + row.written());
  for (const auto& rows : {ModelRows(serve.options.model), StateRows(serve.options.model.state)}) {
    for (const OptionRow& row : rows) {
      EXPECT_TRUE(names.contains(row.name + "=" + row.written())) << row.name;
    }
  }
}

TEST(OptionTable, TheAgentIsToldHowToKeepKv) {
  AgentOptions options{.directory = "/state/kv/host", .state = {}};
  options.state.kv_write = "through";
  options.state.agent_ttl = 0.5;
  Bound<AgentOptions> agent(RowsOf);
  agent.ReadAll(ArgumentsOf(RowsOf(options)));
  EXPECT_EQ(agent.options.directory, options.directory);
  EXPECT_EQ(agent.options.state.kv_write, "through");
  EXPECT_EQ(agent.options.state.agent_ttl, 0.5);
}

TEST(OptionTable, PathsAreToldAsTheyAreFoundFromAnywhere) {
  WorkerOptions options;
  options.model.model = "model.gguf";
  options.model.state.directory = "state";
  const std::vector<std::string> arguments = ArgumentsOf(RowsOf(options));
  EXPECT_EQ(arguments.front().find('/'), 0U);
  const auto state = std::find(arguments.begin(), arguments.end(), "--state");
  ASSERT_NE(state, arguments.end());
  EXPECT_EQ((state + 1)->find('/'), 0U);
}

TEST(OptionTable, RanksCompareWhatDecidesResultsAndTheOrderOfCollectives) {
  ModelOptions options;
  ModelChoices choices;
  const auto facts = [&] {
    std::vector<std::pair<std::string, std::string>> all;
    for (const parallel::WorldFact& fact : SameOptions(options, choices)) {
      all.emplace_back(fact.name, fact.value);
    }
    return all;
  };
  using Facts = std::vector<std::pair<std::string, std::string>>;
  EXPECT_EQ(facts(), (Facts{{"--activations", "q8"},
                            {"--kv-dtype", "f16"},
                            {"--attention", "dense"},
                            {"--no-limit", "default"},
                            {"--no-exact", "default"},
                            {"--share-gpus", "default"},
                            {"--gpu-link", "auto"},
                            {"--weights", "default"},
                            {"--kv-memory", "default"},
                            {"--kv-spill-memory", "default"},
                            {"--prefill-chunk", "512"},
                            {"--max-running", "64"},
                            {"--kv-replicas", "without --state"}}));
  // What was chosen counts, and not whether it was said.
  options.activations = "f32";
  choices.kv_dtype = core::KvDtype::kF32;
  choices.attention = {.window = 64, .global = 4};
  options.state.directory = "state";
  EXPECT_EQ(facts()[1].second, "f32");
  EXPECT_EQ(facts()[2].second, "sparse:window=64,global=4");
  EXPECT_EQ(facts()[12].second, "1");
}

TEST(ModelChoices, KnowEveryKvDtype) {
  ModelOptions options;
  for (const core::KvDtype dtype : core::kKvDtypes) {
    options.kv_dtype = KvDtypeName(dtype);
    const auto choices = ModelChoices::From(options);
    ASSERT_TRUE(choices.ok()) << choices.status();
    EXPECT_EQ(choices->kv_dtype, dtype);
  }
  options.kv_dtype = "f4";
  EXPECT_EQ(Message(ModelChoices::From(options).status()),
            "--kv-dtype f4: expected f16, f32 or f8");
}

TEST(ModelChoices, SparseAttentionIsUnderstood) {
  ModelOptions options;
  EXPECT_EQ(ModelChoices::From(options)->attention, core::AttentionForm{});
  options.attention = "sparse:window=64,random=2";
  EXPECT_EQ(ModelChoices::From(options)->attention,
            (core::AttentionForm{.window = 64, .random = 2}));
  options.attention = "sparse:width=64";
  EXPECT_EQ(Message(ModelChoices::From(options).status()),
            "--attention sparse:width=64 at character 8 (\"width=64\"): expected window, global, "
            "random or seed; the form is dense, sparse:window=W[,global=G][,random=R][,seed=S] or "
            "infini:segment=N[,gate=B][,update=delta|linear]");
}

/// The one line of a wrong value.
std::string ErrorOf(const OptionRow& row, const std::vector<std::string>& arguments) {
  const absl::Status status = ReadOptions({row}, arguments);
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  return Message(status);
}

TEST(OptionRow, WrongValuesNameTheFlagAndWhatIsExpected) {
  int number = 0;
  double fraction = 0;
  std::optional<uint64_t> seed;
  std::optional<double> seconds;
  std::vector<int> numbers;
  std::string text;
  int64_t size = 0;
  std::optional<double> age;
  bool flag = false;
  const OptionRow threads = {"--threads", {&number, {0, 1024}}, ""};
  for (const char* value : {"1025", "-1", "many", "1x", "1.5", "99999999999999999999"}) {
    EXPECT_EQ(ErrorOf(threads, {"--threads", value}),
              fmt::format("--threads: '{}' is no whole number from 0 to 1024", value));
  }
  EXPECT_EQ(ErrorOf({"--top-p", {&fraction, {0, 1}}, ""}, {"--top-p", "2"}),
            "--top-p: '2' is no number from 0 to 1");
  EXPECT_EQ(ErrorOf({"--seed", {&seed}, ""}, {"--seed", "x"}),
            "--seed: 'x' is no whole number from 0 to 2^64 - 1");
  EXPECT_EQ(ErrorOf({"--batch", {&numbers, {1, 9}}, ""}, {"--batch", "1,x"}),
            "--batch: 'x' is no whole number from 1 to 9");
  EXPECT_EQ(
      ErrorOf({"--write", {&text, {}, Unit::kNone, {"back", "through"}}, ""}, {"--write", "x"}),
      "--write: 'x' is none of back, through");
  EXPECT_EQ(ErrorOf({"--size", {&size, {}, Unit::kSize}, ""}, {"--size", "much"}),
            "--size: 'much' is no size; expected bytes, or a number with KiB, MiB, GiB, TiB or PiB "
            "(K and KB mean KiB, and so on), e.g. 512MiB or 1.5GiB");
  EXPECT_EQ(ErrorOf({"--size", {&size, {1, 0x1p40}, Unit::kSize}, ""}, {"--size", "2 TiB"}),
            "--size: '2 TiB' is no size from 1 to 1TiB");
  EXPECT_EQ(ErrorOf({"--age", {&age, {0, 86400}, Unit::kAge}, ""}, {"--age", "2d"}),
            "--age: '2d' is no age from 0 to 1d");
  EXPECT_EQ(ErrorOf({"--watch", {&seconds, {}, Unit::kSeconds}, ""}, {"--watch=0"}),
            "--watch: '0': expected seconds, from 0.01 to 86400");
  EXPECT_EQ(ErrorOf({"--json", {&flag}, ""}, {"--json=maybe"}),
            "--json: 'maybe': expected true or false");
  EXPECT_EQ(number, 0);
  EXPECT_TRUE(numbers.empty());
}

TEST(OptionRow, WhatIsEmptyIsCalledSo) {
  bool flag = false;
  int number = 0;
  std::optional<uint64_t> seed;
  std::vector<double> numbers;
  std::string text;
  int64_t size = 0;
  std::optional<double> age, seconds;
  const std::vector<OptionRow> rows = {
      {"--flag", {&flag}, ""},
      {"--number", {&number, {0, 9}}, ""},
      {"--seed", {&seed}, ""},
      {"--numbers", {&numbers, {0, 9}}, ""},
      {"--text", {&text}, ""},
      {"--choice", {&text, {}, Unit::kNone, {"back", "through"}}, ""},
      {"--path", {&text, {}, Unit::kPath}, ""},
      {"--size", {&size, {1, 9}, Unit::kSize}, ""},
      {"--age", {&age, {0, 9}, Unit::kAge}, ""},
      {"--seconds", {&seconds, {}, Unit::kSeconds}, ""}};
  for (const OptionRow& row : rows) {
    std::string empty;
    EXPECT_EQ(CheckWord(row.value, empty), "it is empty: give a value, or leave it out")
        << row.name;
    setenv(row.environment().c_str(), "", 1);
    EXPECT_EQ(EmptyValue({row}, {}),
              row.environment() + ": it is empty: give a value, or leave it out");
    unsetenv(row.environment().c_str());
  }
}

TEST(OptionRow, WhatIsMissingIsToldAsItIsTyped) {
  std::string text;
  const std::vector<OptionRow> rows = {{"-o,--output", {&text}, "file to write"},
                                       {"MODEL", {&text}, "model file"},
                                       {"--state", {&text}, "state directory"}};
  EXPECT_EQ(InOurWords("--output is required", rows), "-o is required: file to write");
  EXPECT_EQ(InOurWords("MODEL is required", rows), "MODEL is required: model file");
  EXPECT_EQ(InOurWords("--state is required", rows), "--state is required: state directory");
}

TEST(OptionRow, ValuesAreReadAsTheFieldWritesThem) {
  std::optional<double> seconds;
  std::vector<double> weights;
  std::vector<std::string> stop;
  std::vector<int64_t> memory;
  bool flag = true;
  const OptionRow watch = {"--watch", {&seconds, {}, Unit::kSeconds}, ""};
  EXPECT_TRUE(ReadOptions({watch}, {"--watch"}).ok());
  EXPECT_EQ(seconds, 2);
  EXPECT_TRUE(ReadOptions({watch}, {"--watch", "0.5"}).ok());
  EXPECT_EQ(seconds, 0.5);
  const OptionRow weights_row = {"--weights", {&weights}, ""};
  EXPECT_TRUE(ReadOptions({weights_row}, {"--weights", "1,2.5"}).ok());
  EXPECT_EQ(weights, (std::vector<double>{1, 2.5}));
  EXPECT_TRUE(ReadOptions({weights_row}, {"--weights", "3", "4", "--weights", "5"}).ok());
  EXPECT_EQ(weights, (std::vector<double>{3, 4, 5}));
  const OptionRow stop_row = {"--stop", {&stop}, ""};
  EXPECT_TRUE(ReadOptions({stop_row}, {"--stop", "a,b", "--stop", "c"}).ok());
  EXPECT_EQ(stop, (std::vector<std::string>{"a,b", "c"}));
  const OptionRow memory_row = {"--memory", {&memory, {}, Unit::kSize}, ""};
  EXPECT_TRUE(ReadOptions({memory_row}, {"--memory", "1KiB,2"}).ok());
  EXPECT_EQ(memory, (std::vector<int64_t>{1024, 2}));
  std::optional<uint64_t> seed;
  const OptionRow seed_row = {"--seed", {&seed}, ""};
  EXPECT_TRUE(ReadOptions({seed_row}, {"--seed", "010"}).ok());
  EXPECT_EQ(seed, 10U);
  EXPECT_TRUE(ReadOptions({seed_row}, {"--seed", "18446744073709551615"}).ok());
  EXPECT_EQ(seed, ~uint64_t{0});
  EXPECT_TRUE(ReadOptions({{"--json", {&flag}, ""}}, {"--json=false"}).ok());
  EXPECT_FALSE(flag);
}

}  // namespace
}  // namespace tandem::launcher
