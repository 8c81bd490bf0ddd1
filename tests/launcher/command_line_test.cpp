#include "launcher/command_line.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

namespace tandem::launcher {
namespace {

struct Outcome {
  int status = 0;
  std::string output;
  std::string error;
};

Outcome RunProgram(std::vector<std::string> words) {
  words.insert(words.begin(), "tandem");
  std::vector<char*> arguments;
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::testing::internal::CaptureStdout();
  ::testing::internal::CaptureStderr();
  Outcome outcome;
  outcome.status = RunCommandLine(static_cast<int>(words.size()), arguments.data());
  outcome.output = ::testing::internal::GetCapturedStdout();
  outcome.error = ::testing::internal::GetCapturedStderr();
  return outcome;
}

std::vector<std::string> Split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream words(text);
  for (std::string word; std::getline(words, word, at);) parts.push_back(word);
  return parts;
}

/// Their names, as a help lists them.
std::vector<std::string> Subcommands(const std::string& help) {
  std::vector<std::string> names;
  const size_t list = help.find("\nSubcommands:\n");
  if (list == std::string::npos) return names;
  for (const std::string& line : Split(help.substr(list + 1), '\n')) {
    if (line.empty()) break;
    const bool entry = line.size() > 2 && line.starts_with("  ") && line[2] != ' ';
    if (entry) names.push_back(line.substr(2, line.find(' ', 2) - 2));
  }
  return names;
}

/// tests/golden/help.txt has "$ tandem COMMAND --help" lines, each with what it prints.
TEST(CommandLine, HelpOfEveryCommandIsAsInTheGoldenFile) {
  std::ifstream file(std::string(TANDEM_SOURCE_DIR) + "/tests/golden/help.txt");
  const std::string golden(std::istreambuf_iterator<char>(file), {});
  std::set<std::string> there, listed;  // "kv ls"
  for (size_t begin = 0; begin < golden.size();) {
    const size_t line_end = golden.find('\n', begin);
    const size_t next = std::min(golden.find("\n$ tandem ", line_end), golden.size() - 1) + 1;
    const std::string line = golden.substr(begin, line_end - begin);
    SCOPED_TRACE(line);
    ASSERT_EQ(line.find("$ tandem "), 0U);
    const std::string words = line.substr(std::string("$ tandem ").size());
    const std::string path = words.substr(0, words.size() - std::string("--help").size());
    there.insert(path);
    const Outcome outcome = RunProgram(Split(words, ' '));
    EXPECT_EQ(outcome.status, 0);
    EXPECT_EQ(outcome.output, golden.substr(line_end + 1, next - line_end - 1));
    for (const std::string& name : Subcommands(outcome.output)) listed.insert(path + name + " ");
    begin = next;
  }
  ASSERT_TRUE(listed.contains("kv ls "));
  // Those that nobody types are there, too, and listed nowhere.
  for (const std::string& command : listed) {
    EXPECT_TRUE(there.contains(command))
        << "$ tandem " << command << "--help: give help.txt this line, and run make_help.py";
  }
}

/// Status 2 and one line that says what was wrong.
void ExpectWrongUse(const std::vector<std::string>& words, const std::string& message) {
  const Outcome outcome = RunProgram(words);
  EXPECT_EQ(outcome.status, 2);
  EXPECT_EQ(outcome.error, "tandem: " + message + "\n");
  EXPECT_EQ(outcome.output, "");
}

TEST(CommandLine, WrongUseIsOneLineAndStatusTwo) {
  ExpectWrongUse({}, "a command is missing; see tandem --help");
  ExpectWrongUse({"sing"}, "unknown command 'sing'; see tandem --help");
  ExpectWrongUse({"kv"}, "a command is missing; see tandem kv --help");
  ExpectWrongUse({"inspect"}, "MODEL is required: model file (.gguf); see tandem inspect --help");
  ExpectWrongUse({"inspect", "model", "--jsn"},
                 "--jsn is unknown (did you mean --json?); see tandem inspect --help");
  ExpectWrongUse({"generate", "--nonsense"}, "--nonsense is unknown; see tandem generate --help");
  ExpectWrongUse({"plan", "-x"}, "-x is unknown; see tandem plan --help");
  ExpectWrongUse({"plan", "model", "--ranks", "0"},
                 "--ranks: '0' is no whole number from 1 to 65536; see tandem plan --help");
  ExpectWrongUse({"plan", "model", "-n", "0"},
                 "-n: '0' is no whole number from 1 to 65536; see tandem plan --help");
  ExpectWrongUse({"kv", "export", "model", "--state", "S"},
                 "-o is required: file to write; replaced once it is whole; see tandem kv export "
                 "--help");
  ExpectWrongUse({"serve", "model", "--kv-disk", "much"},
                 "--kv-disk: 'much' is no size; expected bytes, or a number with KiB, MiB, GiB, "
                 "TiB or PiB (K and KB mean KiB, and so on), e.g. 512MiB or 1.5GiB; see tandem "
                 "serve --help");
  ExpectWrongUse({"kv", "gc", "--state", "S", "--older-than", "long"},
                 "--older-than: 'long' is no age; expected a number with s, m, h, d or w, e.g. "
                 "30d; see tandem kv gc --help");
  ExpectWrongUse({"--log-level", "loud", "inspect", "model"},
                 "--log-level loud: expected debug, info, warning, error or off");
}

/// Sets a variable as long as it lives.
class Variable {
 public:
  Variable(const char* name, const char* value) : name_(name) { setenv(name, value, 1); }
  ~Variable() { unsetenv(name_); }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* const name_;
};

TEST(CommandLine, TheEnvironmentIsReadForTheCommandThatRuns) {
  const Variable ranks("TANDEM_RANKS", "many");
  ExpectWrongUse({"plan", "model"},
                 "TANDEM_RANKS: 'many' is no whole number from 1 to 65536; see tandem plan --help");
  // Of a text that another command would take for a number, this one hears nothing.
  const Variable prompt("TANDEM_PROMPT", "Once upon a time");
  const Outcome outcome = RunProgram({"inspect", "/no/such/model"});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_NE(outcome.error.find("/no/such/model"), std::string::npos);
}

TEST(CommandLine, NumbersThatAreNoneAreOutOfRange) {
  for (const char* flag : {"--temperature", "--top-p", "--min-p", "--repetition-penalty",
                           "--weights", "--collective-timeout"}) {
    for (const char* word : {"nan", "-nan", "inf", "-1", "1e300", "x"}) {
      const Outcome outcome = RunProgram({"generate", "model", flag, word});
      EXPECT_EQ(outcome.status, 2) << flag << " " << word;
      EXPECT_EQ(outcome.error.find("tandem: " + std::string(flag) + ": '" + word +
                                   "' is no number from "),
                0U)
          << outcome.error;
    }
  }
  for (const char* word :
       {"-1", "+1", "1.5", "nan", "99999999999999999999", "18446744073709551616", "0x10", ""}) {
    EXPECT_EQ(RunProgram({"generate", "model", "--seed", word}).status, 2) << word;
  }
  for (const char* flag : {"--max-tokens", "--threads", "--temperature", "--top-k", "--logprobs"}) {
    for (const char* word : {"0x1", "0x1p0", "+1", " 1", "1 ", "1,"}) {
      EXPECT_EQ(RunProgram({"generate", "model", flag, word}).status, 2) << flag << " " << word;
    }
  }
  ExpectWrongUse({"generate", "model", "--threads", "513"},
                 "--threads: '513' is no whole number from 1 to 512; see tandem generate --help");
  ExpectWrongUse({"serve", "model", "--max-message", "1"},
                 "--max-message: '1' is no size from 1KiB to 1GiB; see tandem serve --help");
}

TEST(CommandLine, WhatIsEmptyIsNoValue) {
  const auto expect = [&](const std::vector<std::string>& words, const std::string& what) {
    const Outcome outcome = RunProgram(words);
    EXPECT_EQ(outcome.status, 2) << what;
    EXPECT_EQ(outcome.error.find("tandem: " + what + ": "), 0U) << outcome.error;
  };
  // A key without a name would leave in plain bytes what it is to encrypt.
  for (const char* flag :
       {"--state", "--state-key", "--listen", "--chat-template", "--recover", "--kv-dtype", "--isa",
        "--hostfile", "--max-message", "--threads", "--weights", "--kv-write", "--speculate"}) {
    const bool alone = std::string_view(flag) == "--speculate";  // takes no word behind it
    if (!alone) expect({"serve", "model", flag, ""}, flag);
    if (!alone) expect({"serve", "model", std::string(flag) + "="}, flag);
    std::string variable = "TANDEM_" + std::string(flag + 2);
    for (char& c : variable) c = c == '-' ? '_' : static_cast<char>(std::toupper(c));
    const Variable empty(variable.c_str(), "");
    expect({"serve", "model"}, variable);
  }
  ExpectWrongUse(
      {"serve", "model", "--state-key="},
      "--state-key: it is empty: give a value, or leave it out; see tandem serve --help");
  expect({"status", "--watch", ""}, "--watch");
  expect({"status", "--watch=", "--json"}, "--watch");
  expect({"--log-level", "", "inspect", "model"}, "--log-level");
  expect({"inspect", ""}, "MODEL");
  const Variable config("TANDEM_CONFIG", "");
  expect({"inspect", "model"}, "TANDEM_CONFIG");
}

TEST(CommandLine, ListsHaveNoEmptyEntries) {
  for (const char* list : {"1,,2", "1,", ",1", ","}) {
    for (const char* flag : {"--weights", "--batch"}) {
      ExpectWrongUse({"bench", "model", flag, list},
                     std::string(flag) + ": '" + list +
                         "' has nothing before or behind a comma; see tandem bench --help");
    }
    EXPECT_EQ(RunProgram({"plan", "model", "-n", "2", "--memory", list}).status, 2) << list;
    const Variable weights("TANDEM_WEIGHTS", list);
    EXPECT_EQ(RunProgram({"plan", "model", "-n", "2"}).status, 2) << list;
  }
  EXPECT_NE(RunProgram({"bench", "--help"}).output.find("--batch INT:in [1 - 4096]=[1,4,16,64]"),
            std::string::npos);
}

TEST(CommandLine, SecondsThatNoDoubleHoldAreNone) {
  for (const char* word : {"1e-320", "1e-400", "1e999", "nan", "0x1p-3"}) {
    EXPECT_EQ(RunProgram({"status", "--connect", "nothing", "--watch", word}).status, 2) << word;
  }
}

TEST(CommandLine, TextsAreUtf8AndMessagesAreOneLine) {
  ExpectWrongUse({"generate", "model", "-p", "ab\xff"},
                 "-p: byte 2 of the text, 0xFF, is no UTF-8; see tandem generate --help");
  ExpectWrongUse({"inspect", "/no/\x1b[31m\xff\nsuch"},
                 "/no/\\x1b[31m\\xff\\nsuch: no such file; check the path");
  const Outcome outcome = RunProgram({"inspect", "--" + std::string(100'000, 'x')});
  EXPECT_EQ(outcome.status, 2);
  EXPECT_LT(outcome.error.size(), 5000U);
  EXPECT_NE(outcome.error.find("[...]"), std::string::npos);
  EXPECT_TRUE(outcome.error.ends_with("see tandem inspect --help\n"));
}

TEST(CommandLine, WhatIsGivenTwiceOrBehindTwoDashesIsToldInOurWords) {
  ExpectWrongUse({"plan", "model", "-n", "2", "--ranks", "3"},
                 "-n is given 2 times; give it once; see tandem plan --help");
  ExpectWrongUse({"plan", "model", "-n"},
                 "-n has no value; expected a whole number from 1 to 65536; see tandem plan "
                 "--help");
  for (const auto& [flag, expected] : {std::pair{"--kv-memory", "a size from 1 to 1PiB"},
                                       {"--temperature", "a number from 0 to 100"},
                                       {"--seed", "a whole number from 0 to 2^64 - 1"},
                                       {"--weights", "a number from 1e-06 to 1000000"},
                                       {"--logprobs", "a whole number from 0 to 64"}}) {
    ExpectWrongUse({"generate", "model", flag}, fmt::format("{} has no value; expected {}; see "
                                                            "tandem generate --help",
                                                            flag, expected));
  }
  ExpectWrongUse({"serve", "model", "--kv-write"},
                 "--kv-write has no value; expected one of through, back, on-evict; see tandem "
                 "serve --help");
  ExpectWrongUse({"serve", "model", "--state"},
                 "--state has no value: directory of what outlives this process, made where it is "
                 "not there: conversations go on after a restart, with their KV, and an answer "
                 "counts as done once its turn is on disk (default: conversations end with the "
                 "process); see tandem serve --help");
  ExpectWrongUse({"serve", "model", "--listen"},
                 "--listen has no value: ZeroMQ endpoint for clients; see tandem serve --help");
  ExpectWrongUse({"plan", "model", "more", "-n", "2"},
                 "'more' is one argument too many; see tandem plan --help");
  ExpectWrongUse({"plan", "-n", "2", "--", "model", "--json"},
                 "--json stands behind --, where no flags are read; put it before; see tandem plan "
                 "--help");
  ExpectWrongUse({""}, "unknown command ''; see tandem --help");
  ExpectWrongUse({"kv", "gc", "--drynes"}, "--drynes is unknown; see tandem kv gc --help");
}

TEST(CommandLine, WhatOtherProgramsTakeIsToldInOurFlags) {
  const auto told = [](const char* flag) {
    const std::string error = RunProgram({"generate", "model", "-p", "x", flag, "1"}).error;
    const std::string begin = fmt::format("tandem: {} is unknown", flag);
    EXPECT_EQ(error.substr(0, begin.size()), begin);
    return error.substr(begin.size(), error.find("; see tandem generate --help") - begin.size());
  };
  EXPECT_EQ(told("-m"), "; here that is MODEL, which has no flag");
  EXPECT_EQ(told("--model"), "; here that is MODEL, which has no flag");
  EXPECT_EQ(told("-t"), "; here that is --threads");
  EXPECT_EQ(told("--temp"), "; here that is --temperature");
  EXPECT_EQ(told("--n-predict"), "; here that is --max-tokens");
  EXPECT_EQ(told("--tensor-parallel-size"), "; here that is -n");
  EXPECT_EQ(told("--port"), "") << "of another command";
  EXPECT_EQ(told("--repetition"), " (did you mean --repetition-penalty?)");
  EXPECT_EQ(told("--kv-"), "") << "several begin so";
  ExpectWrongUse({"serve", "model", "--port", "5555"},
                 "--port is unknown; here that is --listen; see tandem serve --help");
  ExpectWrongUse({"help"}, "unknown command 'help' (did you mean --help?); see tandem --help");
  ExpectWrongUse({"version"},
                 "unknown command 'version' (did you mean --version?); see tandem --help");
  ExpectWrongUse({"generate", "model", "Once", "upon"},
                 "'Once' is one argument too many; a prompt stands behind -p, in quotes; see "
                 "tandem generate --help");
}

TEST(CommandLine, ADashIsAStandardStreamOnlyWhereThatIsSaid) {
  const std::string why =
      "'-' is no standard stream here: give a path (./- for a file of that name)";
  for (const auto& [words, flag] :
       {std::pair{std::vector<std::string>{"inspect", "-"}, "MODEL"},
        {{"generate", "model", "-p", "x", "--logits", "-"}, "--logits"},
        {{"serve", "model", "-n", "2", "--hostfile", "-"}, "--hostfile"},
        {{"serve", "model", "--state", "-"}, "--state"},
        {{"kv", "ls", "--state", "-"}, "--state"},
        {{"kv", "export", "model", "--state", "S", "-o", "-"}, "-o"},
        {{"kv", "import", "-", "--state", "S", "--trust", "T"}, "FILE"}}) {
    const Outcome outcome = RunProgram(words);
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.error.find(fmt::format("tandem: {}: {}", flag, why)), 0U) << outcome.error;
  }
}

TEST(CommandLine, AWrongVariableIsNamed) {
  const Variable threads("TANDEM_THREADS", "none");
  ExpectWrongUse(
      {"generate", "model"},
      "TANDEM_THREADS: 'none' is no whole number from 1 to 512; see tandem generate --help");
  // The flag goes before, and is to blame then.
  ExpectWrongUse({"generate", "model", "--threads=0"},
                 "--threads: '0' is no whole number from 1 to 512; see tandem generate --help");
}

TEST(CommandLine, AnUnknownKeyOfAConfigFileIsNamedWithTheNearestKnown) {
  const std::string path = ::testing::TempDir() + "/command_line_typo_test.toml";
  const auto expect = [&](const std::string& text, const std::string& message) {
    std::ofstream(path) << text;
    ExpectWrongUse({"--config", path, "plan", "model", "-n", "1"},
                   "config file " + path + ": " + message);
  };
  expect("[plan]\nrank = 1\n", "line 2: plan.rank is unknown; did you mean ranks?");
  expect("log-levle = \"info\"\n", "line 1: log-levle is unknown; did you mean log-level?");
  // Of a command that does not run, too.
  expect("[serve]\nkv_memory = \"1GiB\"\n",
         "line 2: serve.kv_memory is unknown; did you mean kv-memory?");
  expect("[srve]\nthreads = 1\n", "line 1: [srve] is unknown; did you mean serve?");
}

TEST(CommandLine, AWrongValueInAConfigFileNamesFileAndKey) {
  const std::string path = ::testing::TempDir() + "/command_line_test.toml";
  const auto expect = [&](const std::string& text, const std::string& message) {
    std::ofstream(path) << text;
    ExpectWrongUse({"--config", path, "generate", "model", "-p", "x"},
                   "config file " + path + ": " + message);
  };
  expect("[generate]\nmax-tokens = \"abc\"\n",
         "line 2: generate.max-tokens: 'abc' is no whole number from 0 to 2147483647");
  // Of a command that does not run, too.
  expect("[plan]\nranks = 0\n", "line 2: plan.ranks: '0' is no whole number from 1 to 65536");
  // What is found out later.
  expect("log-level = \"loud\"\n",
         "line 1: log-level loud: expected debug, info, warning, error or off");
  expect("[generate]\nlogprobs = 5\n",
         "line 2: generate.logprobs 5: it needs --json, which has a place for them");
}

TEST(CommandLine, TheCommandLineGoesBeforeVariablesAndTheseBeforeTheConfigFile) {
  const std::string path = ::testing::TempDir() + "/command_line_order_test.toml";
  std::ofstream(path) << "log-level = \"file\"\n";
  const auto expect = [&](const std::vector<std::string>& words, const std::string& blamed) {
    ExpectWrongUse(words, blamed + ": expected debug, info, warning, error or off");
  };
  const Variable config("TANDEM_CONFIG", path.c_str());
  expect({"inspect", "m"}, "TANDEM_CONFIG: config file " + path + ": line 1: log-level file");
  const Variable level("TANDEM_LOG_LEVEL", "variable");
  expect({"inspect", "m"}, "TANDEM_LOG_LEVEL variable");
  expect({"inspect", "m", "--log-level", "flag"}, "--log-level flag");
}

TEST(CommandLine, TheVariableOfTheConfigFileIsAsTheFlag) {
  const Variable config("TANDEM_CONFIG", "/no/such/file");
  ExpectWrongUse(
      {"inspect", "m"},
      "TANDEM_CONFIG: config file /no/such/file: cannot be read: No such file or directory");
  EXPECT_EQ(RunProgram({"inspect", "--help"}).status, 0);
  const std::string path = ::testing::TempDir() + "/command_line_flag_test.toml";
  std::ofstream(path) << "x = 1\n";
  ExpectWrongUse({"--config", path, "inspect", "m"},
                 "config file " + path + ": line 1: x is unknown; did you mean log-level?");
}

TEST(CommandLine, AWrongValueIsBlamedOnItsVariable) {
  for (const auto& [name, value, message] :
       {std::tuple{"TANDEM_ISA", "sse", " sse: unknown instruction set"},
        {"TANDEM_DEVICE", "gpu", " gpu: expected"},
        {"TANDEM_PIN", "x", " x: expected"},
        {"TANDEM_KV_DTYPE", "f64", " f64: expected"},
        {"TANDEM_ACTIVATIONS", "q4", " q4: expected"},
        {"TANDEM_LOGPROBS", "5", " 5: it needs --json"},
        {"TANDEM_TOKENS", "1", ": generate takes -p or --tokens"},
        {"TANDEM_SPECULATE", "maybe", ": 'maybe': expected true or false"}}) {
    const Variable variable(name, value);
    const Outcome outcome = RunProgram({"generate", "/no/such/model", "-p", "x"});
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.error.find(std::string("tandem: ") + name + message), 0U) << outcome.error;
  }
  for (const auto& [name, value] :
       {std::pair{"TANDEM_CONTEXT_POLICY", "foo"}, {"TANDEM_DURABILITY", "2"}}) {
    const Variable variable(name, value);
    const Outcome outcome = RunProgram({"serve", "/no/such/model"});
    EXPECT_EQ(outcome.status, 2);
    EXPECT_EQ(outcome.error.find(std::string("tandem: ") + name), 0U) << outcome.error;
  }
}

TEST(CommandLine, FlagsWithoutWhatTheyNeedAreRefused) {
  for (const char* flag : {"--threads=1", "-n2", "--ranks=2", "--chat-template=chatml",
                           "--isa=auto", "--kv-memory=1GiB", "--device=cpu", "--speculate",
                           "--weights=1", "--hostfile=h", "--pin=none", "--mpirun-arguments=-v"}) {
    const Outcome outcome = RunProgram({"chat", "--connect", "ipc:///no/such", flag});
    EXPECT_EQ(outcome.status, 2) << flag;
    EXPECT_NE(outcome.error.find("is for a MODEL, not for --connect"), std::string::npos) << flag;
  }
  for (const char* flag : {"--kv-replicas=2", "--kv-disk=1GiB", "--kv-write=back", "--kv-tenant=1",
                           "--kv-host-memory=1GiB", "--agent-ttl=1", "--durability=2",
                           "--recover=own", "--state-key=k"}) {
    const Outcome outcome = RunProgram({"serve", "/no/such/model", flag});
    EXPECT_EQ(outcome.status, 2) << flag;
    EXPECT_NE(outcome.error.find("without --state"), std::string::npos) << outcome.error;
  }
  for (const char* command : {"serve", "chat", "bench"}) {
    for (const char* flag : {"--hostfile=h", "--mpirun-arguments=-v", "--control-interface=eth0"}) {
      const Outcome outcome = RunProgram({command, "/no/such/model", flag});
      EXPECT_EQ(outcome.status, 2) << flag;
      EXPECT_NE(outcome.error.find("it is for several ranks"), std::string::npos) << outcome.error;
    }
  }
  // For other uses of a variable, nobody is blamed.
  const Variable hosts("TANDEM_HOSTFILE", "h");
  EXPECT_NE(RunProgram({"serve", "/no/such/model"}).error.find("no such file"), std::string::npos);
}

TEST(CommandLine, VariablesThatAreNoOptionsAreToldOnce) {
  const Variable typo("TANDEM_TEMPRATURE", "1");
  const Variable other("TANDEM_OF_SOMEBODY_ELSE", "1");
  const Variable test("TANDEM_TEST_ANYTHING", "1");
  const std::string error = RunProgram({"inspect", "/no/such/model"}).error;
  EXPECT_NE(error.find("TANDEM_TEMPRATURE (did you mean TANDEM_TEMPERATURE?)"), std::string::npos);
  EXPECT_NE(error.find("TANDEM_OF_SOMEBODY_ELSE"), std::string::npos);
  EXPECT_EQ(error.find("TANDEM_TEST_ANYTHING"), std::string::npos);
  EXPECT_EQ(std::count(error.begin(), error.end(), '\n'), 2) << error;
}

TEST(CommandLine, HelpOfNoCommandIsWrongUse) {
  ExpectWrongUse({"eval", "--help"}, "unknown command 'eval'; see tandem --help");
  ExpectWrongUse({"kv", "lss", "--help"},
                 "unknown command 'kv lss' (did you mean ls?); see tandem kv --help");
}

TEST(CommandLine, AnEmptyTextEndsNoAnswer) {
  const std::string message = "--stop: it is empty: give a value, or leave it out; see tandem ";
  for (const char* command : {"chat", "generate"}) {
    ExpectWrongUse({command, "model", "--stop", ""}, message + command + " --help");
    ExpectWrongUse({command, "model", "--stop=", "--max-tokens", "1"},
                   message + command + " --help");
  }
}

}  // namespace
}  // namespace tandem::launcher
