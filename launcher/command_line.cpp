#include "launcher/command_line.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>
#include <memory>
#include <type_traits>

#include "core/base/isa.h"
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
    const auto [least, most] = row.value.limits;
    if (least < most && option.get_type_name() == "FLOAT") {
      option.check(CLI::Range(least, most));
    } else if (least < most) {
      option.check(CLI::Range(static_cast<int64_t>(least), static_cast<int64_t>(most)));
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
  if (value.unit == Unit::kNone && !row.required && !row.written().empty()) {
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

class CommandLine {
 public:
  CommandLine() : app_("Tandem: a large language model on many machines at once.", "tandem") {
    app_.set_version_flag("--version", std::string("tandem ") + kVersion);
    app_.set_config("--config", "", "config file (TOML or INI): a section a command, a key a flag")
        ->envname("TANDEM_CONFIG");
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
    // Not in --help: nobody types these.
    Add("worker", "a rank of a job that tandem serve or chat started", Worker, true).group("");
    Add("agent", "keeps the KV of a host; ranks start it", Agent, true).group("");
  }

  int Run(int argc, char** argv) {
    try {
      app_.parse(argc, argv);
    } catch (const CLI::Success& e) {
      return app_.exit(e);
    } catch (const CLI::ParseError& e) {
      const auto commands = app_.get_subcommands();
      if (commands.empty() && argc > 1 && argv[1][0] != '-') {
        std::fprintf(stderr, "tandem: unknown command '%s'; see tandem --help\n", argv[1]);
        return kExitUsage;
      }
      const std::string command = commands.empty() ? "" : " " + commands.front()->get_name();
      std::fprintf(stderr, "tandem: %s; see tandem%s --help\n", e.what(), command.c_str());
      return kExitUsage;
    }
    if (absl::Status status = SetUpLog(); !status.ok()) return ExitWith(status);
    if (absl::Status status = core::CheckProcessor(); !status.ok()) return ExitWith(status);
    core::SetFloatEnvironment();
    return ExitWith(run_());
  }

 private:
  static int ExitWith(const absl::Status& status) {
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
    const auto options = std::make_shared<Options>();
    return AddCommand(
        app_, name, help, RowsOf(*options), [run, options] { return run(*options); }, logs);
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
