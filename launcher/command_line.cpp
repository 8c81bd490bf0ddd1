#include "launcher/command_line.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <span>
#include <sstream>
#include <type_traits>
#include <utility>
#include <vector>

#include "core/base/descriptor_limit.h"
#include "core/base/isa.h"
#include "core/system/standard_output.h"
#include "core/system/text_file.h"
#include "launcher/commands/commands.h"
#include "launcher/options/flag_parsers.h"
#include "launcher/options/option_table.h"
#include "launcher/options/reported.h"
#include "launcher/options/version.h"

/// The one file that includes CLI11, which takes seconds to compile: rows come here as data.
namespace tandem::launcher {
namespace {

constexpr char kKvExamples[] =
    "Examples:\n"
    "  tandem kv ls --state S\n"
    "  tandem kv verify --state S && echo all good\n"
    "  tandem kv gc --state S --older-than 30d --max-bytes 8GiB --dry-run\n"
    "  tandem kv export --state S model.gguf --system \"$(cat system.txt)\" -o system.tandemkv\n"
    "  tandem kv import --state T system.tandemkv --trust KEY_THAT_EXPORT_PRINTED model.gguf";

/// A limit as the option's words have it, for messages and help.
std::string LimitText(double limit, Unit unit) {
  if (unit == Unit::kSize && limit >= 1024) {
    constexpr const char* kUnits[] = {"KiB", "MiB", "GiB", "TiB", "PiB"};
    size_t i = 0;
    for (limit /= 1024; limit >= 1024; limit /= 1024) ++i;
    return fmt::format("{}{}", limit, kUnits[i]);
  }
  if (unit == Unit::kAge && limit > 0) return fmt::format("{}d", limit / 86400);
  return limit < 1e15 ? fmt::format("{}", limit) : fmt::format("{:.0f}", limit);
}

/// CLI11's own takes nan.
template <typename Number>
CLI::Validator InRange(const OptionValue& value) {
  const auto [least, most] = value.limits;
  const std::string low = LimitText(least, value.unit);
  const std::string high = LimitText(most, value.unit);
  const auto check = [=, least = least, most = most](const std::string& word) {
    Number number{};
    const bool good = CLI::detail::lexical_cast(word, number) &&
                      static_cast<double>(number) >= least && static_cast<double>(number) <= most;
    return good ? std::string() : fmt::format("Value {} not in range {} to {}", word, low, high);
  };
  return {check, fmt::format("in [{} - {}]", low, high)};
}

/// As CLI11 wants it: the word is replaced by the number that it says, or the error is returned.
std::string Translate(Unit unit, std::string& word) {
  const auto with = [&word](const auto& parsed) {
    if (!parsed.ok()) return Message(parsed.status());
    word = fmt::format("{}", *parsed);
    return std::string();
  };
  if (unit == Unit::kSeconds && word == "true") word = fmt::format("{}", kSecondsAlone);
  if (unit == Unit::kSeconds) return with(ParseSeconds(word));
  return unit == Unit::kAge ? with(ParseAge(word)) : with(ParseSize(word));
}

template <typename T>
CLI::Option& AddTarget(CLI::App& app, const OptionRow& row, T& target) {
  if constexpr (std::is_same_v<T, bool>) {
    return *app.add_flag(row.name, target, row.help);
  } else {
    if constexpr (std::is_same_v<T, std::optional<double>>) {
      if (row.value.unit == Unit::kSeconds) {
        // CLI11 gives an empty word, untranslated, for a flag that stands alone.
        const auto read = [&target](const std::string& word) {
          target = word.empty() ? kSecondsAlone : std::stod(word);
        };
        return *app.add_option_function<std::string>(row.name, read, row.help);
      }
    }
    CLI::Option& option = *app.add_option(row.name, target, row.help);
    constexpr bool kList = CLI::detail::is_mutable_container<T>::value;
    if (kList && !std::is_same_v<T, std::vector<std::string>>) option.delimiter(',');
    if (row.value.limits.least < row.value.limits.most) {
      const bool real = option.get_type_name() == "FLOAT";
      option.check(real ? InRange<double>(row.value) : InRange<int64_t>(row.value));
    } else if (std::is_same_v<T, std::optional<uint64_t>>) {
      // CLI11 takes -1 for the largest number.
      option.check(CLI::Validator(
          [](const std::string& word) {
            const bool sign = word.find_first_not_of("0123456789") != std::string::npos;
            return sign ? fmt::format("Value {} not in range 0 to 2^64 - 1", word) : std::string();
          },
          "in [0 - 2^64 - 1]"));
    }
    return option;
  }
}

void AddRow(CLI::App& app, const OptionRow& row) {
  const OptionValue& value = row.value;
  CLI::Option& option =
      *std::visit([&](auto* target) { return &AddTarget(app, row, *target); }, value.target);
  if (row.required) option.required();
  if (!value.choices.empty()) option.check(CLI::IsMember(value.choices));
  // 0 stands for a default that is found out later, where it is none of the values.
  const bool found_out = row.written() == "0" && value.limits.least > 0;
  if (value.unit == Unit::kNone && !row.required && !row.written().empty() && !found_out) {
    option.capture_default_str();
  } else if (value.unit != Unit::kNone && value.unit != Unit::kPath) {
    // What a quantity is by default, its help tells.
    option.transform(CLI::Validator(
        [unit = value.unit](std::string& word) { return Translate(unit, word); }, ""));
    option.type_name("TEXT");
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

/// How many letters must change to make one word of the other (Levenshtein 1966).
size_t Distance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, replaced}));
    }
  }
  return row.back();
}

/// words: at least one.
std::string Nearest(const std::string& word, const std::vector<std::string>& words) {
  return *std::min_element(words.begin(), words.end(), [&](const auto& a, const auto& b) {
    return Distance(word, a) < Distance(word, b);
  });
}

/// Names of the flags of a command, without their dashes.
std::vector<std::string> LongNames(const CLI::App& app) {
  std::vector<std::string> names;
  for (const CLI::Option* option : app.get_options()) {
    names.insert(names.end(), option->get_lnames().begin(), option->get_lnames().end());
  }
  return names;
}

/// CLI11 opens a file by itself, and reads whatever that is for as long as it goes on.
constexpr const char* kNoFile = "/dev/null";

/// The config file, which is read once: a shell's pipe has its text only then.
struct ConfigFile {
  std::string path;
  std::string text;

  /// As CLI11 wants it: the word is replaced by the file that it shall open, or the error is
  /// returned.
  std::string Read(std::string& word) {
    if (path.empty()) {
      auto read = ReadTextFile(word);
      if (!read.ok()) return Message(read.status());
      path = word;
      text = *std::move(read);
    }
    word = kNoFile;
    return "";
  }
};

class ConfigText final : public CLI::ConfigBase {
 public:
  explicit ConfigText(const ConfigFile& file) : file_(file) {}
  std::vector<CLI::ConfigItem> from_config(std::istream&) const override {
    std::istringstream lines(file_.text);
    return CLI::ConfigBase::from_config(lines);
  }

 private:
  const ConfigFile& file_;
};

class CommandLine {
 public:
  CommandLine() : app_("Tandem: a large language model on many machines at once.", "tandem") {
    app_.set_version_flag("--version", std::string("tandem ") + kVersion);
    app_.set_config("--config", "", "config file (TOML or INI): a section a command, a key a flag")
        ->transform(CLI::Validator([this](std::string& word) { return config_.Read(word); }, ""))
        ->envname("TANDEM_CONFIG");
    app_.config_formatter(std::make_shared<ConfigText>(config_));
    app_.allow_config_extras(CLI::config_extras_mode::error);
    AddRows(app_, {{"--log-level", {&log_level_}, "debug, info, warning, error or off"}});
    app_.require_subcommand(1);
    app_.fallthrough();
    Add("serve", "serve a model over ZeroMQ", Serve, /*logs=*/true);
    Add("chat", "chat in the terminal, or answer each line of a pipe", Chat);
    Add("generate", "complete one prompt without a server", Generate);
    Add("bench", "measure speed, beside what this machine can do at most", Bench);
    Add("plan", "show which rank gets which heads, columns, rows and bytes", Plan);
    Add("inspect", "show a model file's config, metadata and tensors", Inspect);
    Add("tokenize", "token ids of a text (argument or standard input)", Tokenize);
    Add("detokenize", "text of token ids (argument or standard input)", Detokenize);
    Add("template", "render messages with a chat template", Template);
    Add("status", "look at a running server", ShowStatus);
    AddKvCommands();
    CLI::App& agent = *app_.add_subcommand(
        "agent", "end the process that keeps a host's saved KV when its server has ended");
    agent.require_subcommand(1);
    Add(agent, "stop", "have the agent of this host write what it holds, and end it", EndAgent);
    // Not in --help: nobody types these.
    Add(agent, "run", "keeps the KV of a host; ranks start it", Agent, true).group("");
    Add("worker", "a rank of a job that tandem serve or chat started", Worker, true).group("");
  }

  int Run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::Success& e) {
      std::ostringstream text;
      app_.exit(e, text);
      WriteOutput(text.str());
      return ExitWith(absl::OkStatus());
    } catch (const CLI::ConfigError& e) {
      std::fprintf(stderr, "tandem: %s\n", ExplainConfigError(e).c_str());
      return kExitUsage;
    } catch (const CLI::ParseError& e) {
      const auto commands = app_.get_subcommands();
      if (commands.empty() && argc > 1 && argv[1][0] != '-') {
        std::fprintf(stderr, "tandem: unknown command '%s'; see tandem --help\n", argv[1]);
        return kExitUsage;
      }
      const std::string command = commands.empty() ? "" : " " + commands.front()->get_name();
      if (const std::string unknown = UnknownFlag(); !unknown.empty()) {
        std::fprintf(stderr, "tandem: %s; see tandem%s --help\n", unknown.c_str(), command.c_str());
        return kExitUsage;
      }
      const std::string what = NameSource(e.what(), std::span(argv, static_cast<size_t>(argc)));
      std::fprintf(stderr, "tandem: %s; see tandem%s --help\n", what.c_str(), command.c_str());
      return kExitUsage;
    }
    if (absl::Status status = SetUpLog(); !status.ok()) return ExitWith(status);
    if (absl::Status status = core::CheckProcessor(); !status.ok()) return ExitWith(status);
    core::SetFloatEnvironment();
    RaiseDescriptorLimit();
    return ExitWith(run_());
  }

 private:
  /// What is wrong with the first word that looks like a flag and is none; empty: there is no such.
  /// CLI11 misses what a command requires first.
  std::string UnknownFlag() const {
    for (const std::string& word : app_.remaining(/*recurse=*/true)) {
      if (word.size() < 2 || word[0] != '-' || std::isdigit(static_cast<unsigned char>(word[1]))) {
        continue;
      }
      const std::string flag = word.substr(0, word.find('='));
      const CLI::App* app = &app_;
      while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
      const std::string bare = flag.substr(std::min(flag.find_first_not_of('-'), flag.size()));
      const std::string nearest = "--" + Nearest(bare, LongNames(*app));
      const bool close = Distance(flag, nearest) <= std::max<size_t>(flag.size() / 4, 2);
      return fmt::format("{} is unknown{}", flag,
                         close ? fmt::format(" (did you mean {}?)", nearest) : "");
    }
    return "";
  }

  /// The key of a config file that nobody knows, with the nearest one that is known.
  std::string ExplainConfigError(const CLI::ConfigError& error) {
    const std::string& path = config_.path;
    std::vector<CLI::ConfigItem> items;
    try {
      items = app_.get_config_formatter()->from_file(kNoFile);
    } catch (const CLI::Error&) {
      return fmt::format("config file {}: {}", path, error.what());
    }
    for (const CLI::ConfigItem& item : items) {
      const CLI::App* app = &app_;
      std::vector<std::string> known;
      std::string wrong;
      for (const std::string& parent : item.parents) {
        const auto next = app->get_subcommands(
            [&parent](const CLI::App* one) { return one->get_name() == parent; });
        if (next.empty()) {
          wrong = parent;
          for (const CLI::App* one : app->get_subcommands({})) known.push_back(one->get_name());
          break;
        }
        app = next.front();
      }
      // CLI11 marks where a section begins and ends.
      if (wrong.empty() && (item.name == "++" || item.name == "--")) continue;
      if (wrong.empty() && app->get_option_no_throw("--" + item.name) == nullptr &&
          app->get_option_no_throw(item.name) == nullptr) {
        wrong = item.name;
        known = LongNames(*app);
      }
      if (wrong.empty()) continue;
      const bool section = item.name == "++" || item.name == "--";
      return fmt::format("config file {}: {} is unknown; did you mean {}?", path,
                         section ? "[" + wrong + "]" : item.fullname(), Nearest(wrong, known));
    }
    return fmt::format("config file {}: {}", path, error.what());
  }

  /// A message that begins with an option's flag, with its variable where the value came from
  /// there.
  std::string NameSource(const std::string& message, std::span<char*> words) const {
    for (const CLI::App* app : app_.get_subcommands()) {
      while (!app->get_subcommands().empty()) app = app->get_subcommands().front();
      for (const CLI::Option* option : app->get_options()) {
        const std::string& variable = option->get_envname();
        if (variable.empty() || std::getenv(variable.c_str()) == nullptr) continue;
        for (const std::string& name : option->get_lnames()) {
          const std::string begin = "--" + name + ":";
          if (!message.starts_with(begin) || IsGiven(*option, words)) continue;
          return variable + message.substr(begin.size() - 1);
        }
      }
    }
    return message;
  }

  static bool IsGiven(const CLI::Option& option, std::span<char*> words) {
    return std::any_of(words.begin(), words.end(), [&](std::string_view word) {
      word = word.substr(0, word.find('='));
      return std::any_of(option.get_lnames().begin(), option.get_lnames().end(),
                         [&](const std::string& name) { return word == "--" + name; }) ||
             std::any_of(option.get_snames().begin(), option.get_snames().end(),
                         [&](const std::string& name) { return word.starts_with("-" + name); });
    });
  }

  static int ExitWith(const absl::Status& ran) {
    const absl::Status written = FlushOutput();
    const absl::Status& status = ran.ok() ? written : ran;
    if (status.ok()) return kExitDone;
    if (!IsReportedElsewhere(status)) Report(status);
    const bool usage = absl::IsInvalidArgument(status) || absl::IsOutOfRange(status);
    return usage ? kExitUsage : kExitFailed;
  }

  absl::Status SetUpLog() {
    auto log = std::make_shared<spdlog::logger>("tandem",
                                                std::make_shared<spdlog::sinks::stderr_sink_mt>());
    log->set_pattern("%Y-%m-%d %H:%M:%S.%e %l: %v");
    std::string level = log_level_;
    if (level.empty()) level = logs_ ? "info" : "warning";
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
    return AddCommand(
        parent, name, help, RowsOf(*options), [run, options] { return run(*options); }, logs);
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

  ConfigFile config_;
  CLI::App app_;
  std::string log_level_;
  bool logs_ = false;
  std::function<absl::Status()> run_;
};

}  // namespace

int RunCommandLine(int argc, char** argv) { return CommandLine().Run(argc, argv); }

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
