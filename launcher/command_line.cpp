#include "launcher/command_line.h"

#include <fmt/ranges.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <sstream>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/descriptor_limit.h"
#include "core/base/isa.h"
#include "core/formats/gguf.h"
#include "core/system/standard_output.h"
#include "core/system/text_file.h"
#include "launcher/commands/commands.h"
#include "launcher/option_tables/option_table.h"
#include "launcher/options/command_words.h"
#include "launcher/options/config_file.h"
#include "launcher/options/flag_parsers.h"
#include "launcher/options/nearest_name.h"
#include "launcher/options/option_sources.h"
#include "launcher/options/option_words.h"
#include "launcher/options/reported.h"
#include "launcher/options/version.h"
#include "parallel/start/start_table.h"

/// The one file that includes CLI11, which takes seconds to compile: rows come here as data.
namespace tandem::launcher {
namespace {

constexpr char kConfigVariable[] = "TANDEM_CONFIG";

template <typename T>
CLI::Option& AddTarget(CLI::App& app, const OptionRow& row, T& target) {
  if constexpr (std::is_same_v<T, bool>) {
    return *app.add_flag(row.name, target, row.help);
  } else {
    if constexpr (std::is_same_v<T, std::optional<double>>) {
      if (row.value.unit == Unit::kSeconds) {
        // CLI11 gives an empty word, untranslated, for a flag that stands alone.
        const auto read = [&target](const std::string& word) {
          target = ParseNumber<double>(word).value_or(kSecondsAlone);
        };
        return *app.add_option_function<std::string>(row.name, read, row.help);
      }
    }
    return *app.add_option(row.name, target, row.help);
  }
}

/// A list with commas. CLI11 would leave out its empty entries.
template <typename Number>
CLI::Option& AddTarget(CLI::App& app, const OptionRow& row, std::vector<Number>& target) {
  const auto read = [&target](const std::vector<std::string>& words) {
    target.clear();
    for (const std::string& word : words) {
      for (const std::string& entry : SplitAtCommas(word)) {
        target.push_back(ParseNumber<Number>(entry).value_or(Number{}));  // it was checked
      }
    }
  };
  CLI::Option& option =
      *app.add_option_function<std::vector<std::string>>(row.name, read, row.help);
  if (!row.written().empty()) option.default_str(fmt::format("[{}]", row.written()));
  return *option.type_name(std::is_integral_v<Number> ? "INT" : "FLOAT");
}
CLI::Option& AddTarget(CLI::App& app, const OptionRow& row, std::vector<std::string>& target) {
  return *app.add_option(row.name, target, row.help);
}

void AddRow(CLI::App& app, const OptionRow& row) {
  const OptionValue& value = row.value;
  CLI::Option& option =
      *std::visit([&](auto* target) { return &AddTarget(app, row, *target); }, value.target);
  if (row.required) option.required();
  option.transform(CLI::Validator([value](std::string& word) { return CheckWord(value, word); },
                                  AllowedText(value)));
  // 0 stands for a default that is found out later, where it is none of the values.
  const bool found_out = row.written() == "0" && value.limits.least > 0;
  if (value.unit == Unit::kNone && !row.required && !row.written().empty() && !found_out) {
    option.capture_default_str();
  } else if (value.unit == Unit::kSize || value.unit == Unit::kAge) {
    option.type_name("TEXT");  // what a quantity is by default, its help tells
  }
  if (value.unit == Unit::kSeconds) option.expected(0, 1)->type_name("[SECONDS]");
}

void AddRows(CLI::App& app, const std::vector<OptionRow>& rows) {
  for (const OptionRow& row : rows) AddRow(app, row);
  // CLI11 reads the environment for commands that were not given, too: those have no names for it.
  app.preparse_callback([&app, rows](size_t) {
    for (const OptionRow& row : rows) app.get_option(row.flag())->envname(row.environment());
  });
}

/// Variables that are no options: tests, scripts and jobs set them.
bool IsInternalVariable(const std::string& variable) {
  for (const char* name :
       {"TANDEM_PROGRAM", "TANDEM_MODELS", "TANDEM_ENDPOINT", parallel::kStartVariable}) {
    if (variable == name) return true;
  }
  return variable.starts_with("TANDEM_TEST_") || variable.starts_with("TANDEM_BENCH_");
}

/// CLI11 opens a file by itself, and reads whatever that is for as long as it goes on.
constexpr const char* kNoFile = "/dev/null";

/// The config file in place of CLI11's own reader, which has no names for what is wrong with it.
class ConfigFormat final : public CLI::Config {
 public:
  using Items = std::function<std::vector<CLI::ConfigItem>()>;

  explicit ConfigFormat(Items read) : items_(std::move(read)) {}
  std::string to_config(const CLI::App*, bool, bool, std::string) const override { return ""; }
  std::vector<CLI::ConfigItem> from_config(std::istream&) const override { return items_(); }

 private:
  const Items items_;
};

class CommandLine {
 public:
  CommandLine() : app_("Tandem: a large language model on many machines at once.", "tandem") {
    app_.set_version_flag("--version", std::string("tandem ") + kVersion);
    app_.set_config("--config", "",
                    "config file (TOML or INI): a section a command, a key a flag; variables go "
                    "before it, and the command line before both")
        ->transform(CLI::Validator([this](std::string& word) { return ReadConfig(word); }, ""))
        ->envname(kConfigVariable);
    app_.config_formatter(std::make_shared<ConfigFormat>([this] { return ItemsOfConfig(); }));
    commands_[""] = {
        {"--log-level",
         {&log_level_},
         "debug, info, warning, error or off (default: info for serve, else warning)"}};
    AddRows(app_, commands_[""]);
    app_.require_subcommand(1);
    app_.fallthrough();
    Add("serve", "serve a model over ZeroMQ", Serve, /*logs=*/true);
    Add("chat", "chat in the terminal, or answer each line of a pipe", Chat);
    Add("generate", "complete one prompt without a server", Generate);
    Add("perplexity", "tell how well a model predicts a text, as llama.cpp's tool does",
        Perplexity);
    Add("bench", "measure speed, beside what this machine can do at most", Bench);
    Add("plan", "show which rank gets which heads, columns, rows and bytes", Plan);
    Add("inspect", "show a model file's config, metadata and tensors", Inspect);
    Add("tokenize", "token ids of a text (argument or standard input)", Tokenize);
    Add("detokenize", "text of token ids (argument or standard input)", Detokenize);
    Add("template", "render messages with a chat template", Template);
    Add("status", "look at a running server", ShowStatus);
    Add("scale", "change the number of a running server's ranks", Scale);
    AddKvCommands();
    CLI::App& agent = *app_.add_subcommand(
        "agent", "end the process that keeps a host's saved KV when its server has ended");
    agent.require_subcommand(1);
    Add(agent, "stop", "have the agent of this host write what it holds, and end it", EndAgent);
    // Not in --help: nobody types these.
    Add(agent, "run", "keeps the KV of a host; ranks start it", Agent, true).group("");
    Add("worker", "a rank of a job that tandem serve or chat started", Worker, true).group("");
  }

  int Run(std::vector<std::string> words) {
    words_ = std::move(words);
    try {
      std::vector<std::string> arguments = WithEmptyValues(words_);
      AddConfigOfEnvironment(arguments);
      // CLI11 takes them from the end.
      std::reverse(arguments.begin(), arguments.end());
      app_.parse(std::move(arguments));
    } catch (const CLI::Success& e) {
      const std::string unknown = UnknownCommand();
      if (!unknown.empty()) return TellWrongUse(unknown);
      std::ostringstream text;
      app_.exit(e, text);
      WriteOutput(text.str());
      return ExitWith(absl::OkStatus());
    } catch (const CLI::FileError&) {
      Report(config_error_);
      return kExitUsage;
    } catch (const CLI::ParseError& e) {
      for (const std::string& unknown : {UnknownCommand(), UnknownFlag()}) {
        if (!unknown.empty()) return TellWrongUse(unknown);
      }
      const std::vector<std::string> rest = app_.remaining(/*recurse=*/true);
      const bool surplus = dynamic_cast<const CLI::ExtrasError*>(&e) != nullptr && !rest.empty();
      return TellWrongUse(FindSources().Name(surplus ? OneTooMany(rest.front(), Rows())
                                                     : InOurWords(e.what(), Rows())));
    }
    if (const std::string empty = EmptyOption(); !empty.empty()) return TellWrongUse(empty);
    sources_ = FindSources();
    if (absl::Status status = SetUpLog(); !status.ok()) return ExitWith(sources_.Name(status));
    if (absl::Status status = core::CheckProcessor(); !status.ok()) return ExitWith(status);
    core::SetFloatEnvironment();
    WarnOfUnknownVariables();
    RaiseDescriptorLimit();
    return ExitWith(sources_.Name(run_()));
  }

 private:
  int TellWrongUse(const std::string& what) const {
    std::string command;
    for (const CLI::App* app = &Command(); app->get_parent() != nullptr; app = app->get_parent()) {
      command.insert(0, " " + app->get_name());
    }
    Report(fmt::format("{}; see tandem{} --help", what, command));
    return kExitUsage;
  }

  /// The command that runs, as far as its words are known.
  const CLI::App& Command() const {
    const CLI::App* app = &app_;
    while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
    return *app;
  }
  /// "kv.gc"; empty for the program itself.
  static std::string PathOf(const CLI::App& app) {
    const CLI::App* parent = app.get_parent();
    if (parent == nullptr) return "";
    const std::string path = PathOf(*parent);
    return path.empty() ? app.get_name() : path + "." + app.get_name();
  }

  /// Of the program and of the command that runs.
  std::vector<OptionRow> Rows() const {
    std::vector<OptionRow> rows = commands_.at("");
    const auto more = commands_.find(PathOf(Command()));
    if (&Command() != &app_ && more != commands_.end()) {
      rows.insert(rows.end(), more->second.begin(), more->second.end());
    }
    return rows;
  }
  /// What is wrong with an option that is empty; empty itself if none is.
  std::string EmptyOption() const {
    std::string config;
    std::vector<OptionRow> rows = Rows();
    rows.push_back({"--config", {&config}, ""});
    return IsInternal() ? "" : EmptyValue(rows, words_);
  }

  /// Processes that this program starts are told all on their command line.
  bool IsInternal() const {
    const auto is = [this](size_t i, const char* word) {
      return words_.size() > i && words_[i] == word;
    };
    return is(0, "worker") || (is(0, "agent") && is(1, "run"));
  }

  /// TANDEM_CONFIG is as --config, of which CLI11 takes no notice when it reads files.
  void AddConfigOfEnvironment(std::vector<std::string>& arguments) {
    const char* path = std::getenv(kConfigVariable);
    const bool given = std::any_of(arguments.begin(), arguments.end(), [](const auto& word) {
      return word == "--config" || word.starts_with("--config=");
    });
    if (path == nullptr || *path == '\0' || given || IsInternal()) return;
    arguments.insert(arguments.begin(), fmt::format("--config={}", path));
    config_of_environment_ = true;
  }
  std::string ConfigName(std::string_view path) const {
    return fmt::format("{}config file {}", config_of_environment_ ? "TANDEM_CONFIG: " : "", path);
  }
  [[noreturn]] void FailConfig(std::string error) {
    config_error_ = std::move(error);
    throw CLI::FileError(config_error_, CLI::ExitCodes::FileError);
  }

  /// Reads it once, since a shell's pipe has its text only then, and gives CLI11 another to open.
  std::string ReadConfig(std::string& word) {
    if (!config_text_) {
      config_path_ = word;
      auto text = ReadTextFile(word);
      // CLI11 lets --help go before, if it is told later.
      if (!text.ok()) config_error_ = ConfigName(Message(text.status()));
      config_text_ = std::move(text).value_or("");
    }
    word = kNoFile;
    return "";
  }

  /// Those of the command that runs, and of the program; what is wrong with others is told, too.
  std::vector<CLI::ConfigItem> ItemsOfConfig() {
    if (!config_error_.empty()) FailConfig(config_error_);
    const auto fail = [this](const absl::Status& status) {
      FailConfig(fmt::format("{}: {}", ConfigName(config_path_), Message(status)));
    };
    auto entries = ParseConfig(config_text_.value_or(""));
    if (!entries.ok()) fail(entries.status());
    if (absl::Status status = CheckConfig(commands_, *entries); !status.ok()) fail(status);
    const std::string running = PathOf(Command());
    std::vector<CLI::ConfigItem> items;
    for (ConfigEntry& entry : *entries) {
      if (entry.key.empty() || (!entry.section.empty() && entry.section != running)) continue;
      const OptionRow& row = *RowOfKey(commands_[entry.section], entry.key);
      if (IsSet(row.environment())) continue;
      config_names_[row.flag()] =
          fmt::format("{}: line {}: {}", ConfigName(config_path_), entry.line, entry.name());
      CLI::ConfigItem item;
      std::istringstream parents(entry.section);
      for (std::string parent; std::getline(parents, parent, '.');) item.parents.push_back(parent);
      item.name = std::move(entry.key);
      item.inputs = std::move(entry.words);
      items.push_back(std::move(item));
    }
    return items;
  }

  OptionSources FindSources() const {
    OptionSources sources;
    for (const OptionRow& row : Rows()) {
      const auto config = config_names_.find(row.flag());
      if (const std::string typed = TypedName(row, words_); !typed.empty()) {
        sources.given[row.flag()] = typed;
      } else if (IsSet(row.environment())) {
        sources.elsewhere[row.flag()] = row.environment();
      } else if (config != config_names_.end()) {
        sources.elsewhere[row.flag()] = config->second;
      }
    }
    return sources;
  }

  /// A command that is none, where one is expected; empty: there is no such.
  std::string UnknownCommand() const {
    const CLI::App& command = Command();
    const auto commands =
        command.get_subcommands([](const CLI::App* app) { return !app->get_group().empty(); });
    if (commands.empty()) return "";
    std::vector<std::string> names;
    names.reserve(commands.size());
    for (const CLI::App* one : commands) names.push_back(one->get_name());
    for (const char* flag : {"--help", "--version"}) {
      if (command.get_option_no_throw(flag) != nullptr) names.emplace_back(flag);
    }
    const std::vector<std::string> words = app_.remaining(/*recurse=*/true);
    if (words.empty() || words.front().starts_with('-')) return "";
    const std::string parent = command.get_parent() == nullptr ? "" : command.get_name() + " ";
    return fmt::format("unknown command '{}{}'{}", parent, words.front(),
                       DidYouMean(words.front(), names));
  }

  /// What is wrong with the first word that looks like a flag and is none; empty: there is no such.
  /// CLI11 misses what a command requires first.
  std::string UnknownFlag() const {
    for (const std::string& word : app_.remaining(/*recurse=*/true)) {
      if (word.size() < 2 || word[0] != '-' || std::isdigit(static_cast<unsigned char>(word[1]))) {
        continue;
      }
      const std::string flag = word.substr(0, word.find('='));
      std::vector<std::string> flags;
      for (const CLI::Option* option : Command().get_options()) {
        for (const std::string& name : option->get_lnames()) flags.push_back("--" + name);
      }
      if (std::find(flags.begin(), flags.end(), flag) != flags.end()) {
        return fmt::format("{} stands behind --, where no flags are read; put it before", flag);
      }
      return UnknownFlagText(flag, Rows(), flags);
    }
    return "";
  }

  /// One line, by one rank of a job.
  void WarnOfUnknownVariables() const {
    const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");
    if (IsInternal() || (rank != nullptr && std::string_view(rank) != "0")) return;
    std::vector<std::string> known = {kConfigVariable};
    for (const auto& [path, rows] : commands_) {
      for (const OptionRow& row : rows) known.push_back(row.environment());
    }
    std::vector<std::string> unknown;
    for (char** entry = environ; *entry != nullptr; ++entry) {
      const std::string variable(*entry, std::strcspn(*entry, "="));
      if (!variable.starts_with("TANDEM_") || IsInternalVariable(variable)) continue;
      if (std::find(known.begin(), known.end(), variable) != known.end()) continue;
      unknown.push_back(core::PrintableText(variable) + DidYouMean(variable, known));
    }
    if (unknown.empty()) return;
    spdlog::warn("no option has the variable {}", fmt::join(unknown, ", or "));
  }

  static int ExitWith(const absl::Status& ran) {
    const absl::Status written = FlushOutput();
    const absl::Status& status = ran.ok() ? written : ran;
    if (status.ok()) return kExitDone;
    if (!IsReportedElsewhere(status)) Report(status);
    const bool usage = absl::IsInvalidArgument(status) || absl::IsOutOfRange(status);
    return usage ? kExitUsage : kExitFailed;
  }

  /// What was asked for, or what the command's users want to know of.
  std::string LogLevel() const {
    if (!log_level_.empty()) return log_level_;
    return logs_ ? "info" : "warning";
  }
  absl::Status SetUpLog() {
    auto log = std::make_shared<spdlog::logger>("tandem",
                                                std::make_shared<spdlog::sinks::stderr_sink_mt>());
    log->set_pattern("%Y-%m-%d %H:%M:%S.%e %l: %v");
    std::string level = LogLevel();
    if (level == "error") level = "err";
    const auto parsed = spdlog::level::from_str(level);
    if (parsed == spdlog::level::off && level != "off") {
      return InvalidArgument("--log-level {}: expected debug, info, warning, error or off", level);
    }
    log->set_level(parsed);
    spdlog::set_default_logger(log);
    return absl::OkStatus();
  }

  /// logs: at level info, unless --log-level says otherwise.
  CLI::App& AddCommand(CLI::App& parent, const char* name, const char* help,
                       const std::vector<OptionRow>& rows, std::function<absl::Status()> run,
                       bool logs = false) {
    CLI::App& app = *parent.add_subcommand(name, help);
    AddRows(app, rows);
    commands_[PathOf(app)] = rows;
    app.callback([this, run = std::move(run), logs] {
      run_ = run;
      logs_ = logs;
    });
    return app;
  }

  template <typename Options>
  CLI::App& Add(const char* name, const char* help, absl::Status (*run)(const Options&),
                bool logs = false) {
    return Add(app_, name, help, run, logs);
  }
  template <typename Options>
  CLI::App& Add(CLI::App& parent, const char* name, const char* help,
                absl::Status (*run)(const Options&), bool logs = false) {
    const auto options = std::make_shared<Options>();
    const auto run_from = [this, run, options] {
      if constexpr (requires { options->model.sources; }) options->model.sources = sources_;
      if constexpr (requires { options->sources; }) options->sources = sources_;
      if constexpr (requires { options->launch; }) options->launch.log_level = LogLevel();
      return run(*options);
    };
    return AddCommand(parent, name, help, RowsOf(*options), run_from, logs);
  }

  void AddKvCommands() {
    CLI::App& kv =
        *app_.add_subcommand("kv", "look after the KV that a state directory keeps on this host");
    kv.require_subcommand(1);
    kv.footer(kKvExamples);
    const auto options = std::make_shared<KvOptions>();
    const auto add = [&](const char* name, const char* help,
                         std::vector<OptionRow> (*rows)(KvOptions&),
                         absl::Status (*run)(const KvOptions&)) {
      AddCommand(kv, name, help, rows(*options), [run, options] { return run(*options); });
    };
    add("ls", "list the prefixes and conversations whose KV is there", KvListRows, KvList);
    add("show", "one prefix or conversation in detail: its blocks, and what is missing", KvShowRows,
        KvShow);
    add("verify", "read and check every record; exit status 1 if any is damaged (see also gc)",
        KvListRows, KvVerify);
    add("gc",
        "remove what is of no use: damaged records, blocks that are incomplete or stand on what is "
        "missing; on request what is unused, from the end of each prefix",
        KvCollectRows, KvCollect);
    add("export", "write the KV of a prefix into a signed file, for another cluster to import",
        KvExportRows, KvExport);
    add("import", "take the KV of an exported file, if a trusted key has signed it", KvImportRows,
        KvImport);
  }

  CLI::App app_;
  CommandRows commands_;
  std::vector<std::string> words_;  // of the command line
  bool config_of_environment_ = false;
  std::string config_path_;
  std::optional<std::string> config_text_;
  std::string config_error_;                         // empty: the config file is good, or not there
  std::map<std::string, std::string> config_names_;  // of values, by flag: "config file F: KEY"
  OptionSources sources_;
  std::string log_level_;
  bool logs_ = false;
  std::function<absl::Status()> run_;
};

}  // namespace

int RunCommandLine(int argc, char** argv) {
  return CommandLine().Run({argv + std::min(argc, 1), argv + argc});
}

absl::Status ReadOptions(const std::vector<OptionRow>& rows, std::vector<std::string> arguments) {
  CLI::App app;
  AddRows(app, rows);
  try {
    // CLI11 takes them from the end.
    std::reverse(arguments.begin(), arguments.end());
    app.parse(std::move(arguments));
  } catch (const CLI::ParseError& e) {
    return InvalidArgument("{}", e.what());
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
