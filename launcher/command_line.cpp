#include "launcher/command_line.h"

#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <functional>

#include "core/base/isa.h"
#include "launcher/commands/commands.h"
#include "launcher/kv_command_line.h"
#include "launcher/options/environment_flags.h"
#include "launcher/options/flag_parsers.h"
#include "launcher/options/reported.h"
#include "launcher/options/version.h"

namespace tandem::launcher {
namespace {

constexpr double kWatchSeconds = 2;

void AddModelArgument(CLI::App& app, std::string& model) {
  app.add_option("MODEL", model, "model file (.gguf)")->required();
}

void AddModelOptions(CLI::App& app, ModelOptions& o) {
  Add(app, "--threads", o.threads, "threads a rank; 0: the host's cores over its ranks")
      ->check(CLI::Range(0, 1024));
  Add(app, "--pin", o.pin,
      "where threads stay: auto (each rank on a NUMA node of its own, if there are several), cores "
      "(each thread on a core of its own) or none");
  Add(app, "--isa", o.isa,
      "instruction set: auto, scalar, avx2 or avx512 (all give the same bits)");
  Add(app, "--activations", o.activations,
      "q8: 8-bit activations with quantized weights; f32: float activations with dequantized "
      "weights (slow, the reference)");
  Add(app, "--kv-dtype", o.kv_dtype,
      "KV cache: f16 or f32 (default f16; f32 with --activations f32)");
  Add(app, "--device", o.device, "auto, cpu or cuda");
  Add(app, "--weights", o.weights, "relative speeds of the ranks, e.g. 1,1,2 (default equal)")
      ->delimiter(',');
  WithEnvironment(app.add_option_function<std::string>(
      "--kv-memory", SizeParser(o.kv_memory),
      "memory of the KV cache a rank, e.g. 2GiB (default: a quarter of what is free on the host, "
      "divided among its ranks)"));
  Add(app, "--prefill-chunk", o.prefill_chunk,
      "prompt tokens computed in one step; fewer while answers stream, so that these do not stall")
      ->check(CLI::Range(1, 1 << 20));
  Add(app, "--max-running", o.max_running,
      "requests computed at once, as far as the KV cache has pages for them")
      ->check(CLI::Range(1, 4096));
  Add(app, "--max-waiting", o.max_waiting, "requests that may wait; more are refused as overloaded")
      ->check(CLI::Range(0, 1 << 20));
  WithEnvironment(app.add_flag(
      "--speculate", o.speculate,
      "guess tokens ahead from what the text said before and verify them in one step: faster "
      "where it repeats itself, and the same answer"));
  Add(app, "--control-interface", o.control_interface,
      "network interface or address from which rank 0 reaches the others");
  Add(app, "--collective-timeout", o.collective_timeout,
      "seconds after which a hanging meeting of the ranks ends the job, naming the laggard")
      ->check(CLI::Range(0.1, 86400.0));
}

/// How an agent keeps the KV of its host.
void AddKvOptions(CLI::App& app, StateOptions& o) {
  Add(app, "--kv-write", o.kv_write,
      "when saved KV goes from a host's memory to its disk: through (at once), back (soon; when an "
      "answer is done) or on-evict (when memory is full, or the agent ends)")
      ->check(CLI::IsMember({"through", "back", "on-evict"}));
  WithEnvironment(app.add_option_function<std::string>(
      "--kv-host-memory", SizeParser(o.kv_host_memory),
      "memory a host for saved KV (default 1GiB); the longest unused makes room"));
  WithEnvironment(app.add_option_function<std::string>(
      "--kv-disk", SizeParser(o.kv_disk),
      "disk space a host for saved KV (default 32GiB); 0: memory only"));
  WithEnvironment(app.add_option_function<std::string>(
      "--kv-tenant", SizeParser(o.kv_tenant),
      "saved KV of one tenant, at most, in either of them (default: no limit); a tenant that has "
      "more loses the longest unused of its own"));
  Add(app, "--agent-ttl", o.agent_ttl,
      "seconds for which the process that keeps a host's saved KV outlives its last user")
      ->check(CLI::Range(0.1, 1e6));
}

void AddStateOptions(CLI::App& app, StateOptions& o) {
  Add(app, "--state", o.directory,
      "directory of what outlives this process, made where it is not there: conversations go on "
      "after a restart, with their KV, and an answer counts as done once its turn is on disk "
      "(default: conversations end with the process)");
  Add(app, "--state-key", o.key_file,
      "key file (32 bytes, or 64 hexadecimal digits) with which what lies in --state is encrypted");
  Add(app, "--kv-replicas", o.kv_replicas,
      "hosts of the job that keep each piece of saved KV: 1, or 2, so that the loss of one host "
      "costs none of it")
      ->check(CLI::Range(1, 2));
  Add(app, "--durability", o.durability,
      "hosts whose disks a turn is on before its answer counts as done: 1, this one; or 2, another "
      "host of the job as well, which can go on with the conversations when this one is lost")
      ->check(CLI::Range(1, 2));
  AddKvOptions(app, o);
}

void AddLaunchOptions(CLI::App& app, LaunchOptions& o) {
  Add(app, "-n,--ranks", o.ranks, "ranks over which the model is sharded; started with mpirun")
      ->check(CLI::Range(1, 65536));
  Add(app, "--hostfile", o.hostfile, "hosts for mpirun, one a line");
  Add(app, "--mpirun-arguments", o.mpirun_arguments, "further arguments for mpirun, in one string");
}

void AddChatTemplate(CLI::App& app, std::string& choice) {
  Add(app, "--chat-template", choice,
      "chatml, zephyr, or a file with a Jinja template (default: the model's own)");
}

void AddGenerationOptions(CLI::App& app, frontend::GenerationParams& o) {
  Add(app, "--max-tokens", o.max_tokens,
      "longest answer in tokens (default: chat 1024, else the rest of the context)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 31));
  Add(app, "--temperature", o.sampling.temperature, "0: always the likeliest token")
      ->check(CLI::Range(0.0, 100.0));
  Add(app, "--top-k", o.sampling.top_k, "only the K likeliest tokens; 0: all")
      ->check(CLI::Range(0, 1 << 20));
  Add(app, "--top-p", o.sampling.top_p,
      "only the likeliest tokens that together have this probability")
      ->check(CLI::Range(0.0, 1.0));
  Add(app, "--min-p", o.sampling.min_p, "only tokens with this share of the best one's probability")
      ->check(CLI::Range(0.0, 1.0));
  Add(app, "--repetition-penalty", o.sampling.repetition_penalty,
      "above 1: avoid tokens already there")
      ->check(CLI::Range(0.01, 100.0));
  Add(app, "--seed", o.seed, "of the randomness (default: drawn, and told)");
  app.add_option("--stop", o.stop, "text that ends the answer; may be given several times")
      ->envname("TANDEM_STOP");
}

class CommandLine {
 public:
  CommandLine() : app_("Tandem: a large language model on many machines at once.", "tandem") {
    app_.set_version_flag("--version", std::string("tandem ") + kVersion);
    app_.set_config("--config", "", "config file (TOML or INI): a section a command, a key a flag")
        ->envname("TANDEM_CONFIG");
    Add(app_, "--log-level", log_level_, "debug, info, warning, error or off");
    app_.require_subcommand(1);
    app_.fallthrough();
    AddServe();
    AddChat();
    AddGenerate();
    AddBench();
    AddPlan();
    AddInspect();
    AddText();
    AddStatus();
    AddKv();
    AddWorker();
    AddAgent();
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
    return ExitWith(command_());
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
    if (level.empty()) level = quiet_ ? "warning" : "info";
    if (level == "error") level = "err";
    const auto parsed = spdlog::level::from_str(level);
    if (parsed == spdlog::level::off && level != "off") {
      return InvalidArgument("--log-level {}: expected debug, info, warning, error or off", level);
    }
    log->set_level(parsed);
    spdlog::set_default_logger(log);
    return absl::OkStatus();
  }

  CLI::App& Command(const std::string& name, const std::string& help,
                    std::function<absl::Status()> run, bool quiet) {
    CLI::App& app = *app_.add_subcommand(name, help);
    app.callback([this, run = std::move(run), quiet] {
      command_ = run;
      quiet_ = quiet;
    });
    return app;
  }

  void AddServe() {
    CLI::App& app = Command(
        "serve", "serve a model over ZeroMQ", [this] { return Serve(serve_); }, false);
    AddModelArgument(app, serve_.model.model);
    Add(app, "--listen", serve_.listen, "ZeroMQ endpoint for clients");
    WithEnvironment(app.add_option_function<std::string>(
        "--max-message", SizeParser(serve_.max_message), "largest request frame (default 1MiB)"));
    AddChatTemplate(app, serve_.chat_template);
    Add(app, "--context-policy", serve_.context_policy,
        "chats longer than the context: stop (refuse them), shift (leave out the oldest messages, "
        "but not the system's) or window:N (read the newest N tokens)");
    Add(app, "--max-conversations", serve_.max_conversations,
        "conversations that the server keeps; more are refused as overloaded")
        ->check(CLI::Range(int64_t{0}, int64_t{1} << 31));
    WithEnvironment(app.add_option_function<std::string>(
        "--conversation-memory", SizeParser(serve_.conversation_memory),
        "memory of all kept conversations' text and tokens (default 256MiB)"));
    Add(app, "--resume-grace", serve_.resume_grace,
        "seconds for which the requests of a client that is gone go on, so that it may come back "
        "and resume them; 0: they end at once")
        ->check(CLI::Range(0.0, 3600.0));
    AddStateOptions(app, serve_.model.state);
    Add(app, "--recover", serve_.model.state.recover,
        "which conversations to go on with, where several hosts have some: own (those in --state, "
        "or none), ID or ID@HOST (a copy that a host keeps; those in --state are put aside)");
    AddLaunchOptions(app, serve_.launch);
    AddModelOptions(app, serve_.model);
  }

  void AddChat() {
    CLI::App& app = Command(
        "chat", "chat in the terminal, or answer each line of a pipe",
        [this] { return Chat(chat_); }, true);
    app.add_option("MODEL", chat_.model.model, "model file (.gguf), for an engine of its own");
    Add(app, "--connect", chat_.connect, "endpoint of a running server, instead of MODEL");
    Add(app, "--system", chat_.system, "system message");
    Add(app, "--conversation", chat_.conversation,
        "go on with this conversation, which the server keeps (a new one if there is none)");
    Add(app, "--tenant", chat_.tenant, "whose conversation it is");
    Add(app, "--context-policy", chat_.context_policy,
        "chats longer than the context: stop, shift or window:N (default: the server's)");
    AddChatTemplate(app, chat_.chat_template);
    AddGenerationOptions(app, chat_.generation);
    AddLaunchOptions(app, chat_.launch);
    AddModelOptions(app, chat_.model);
  }

  void AddGenerate() {
    GenerateOptions& o = generate_;
    CLI::App& app = Command(
        "generate", "complete one prompt without a server", [this] { return Generate(generate_); },
        true);
    AddModelArgument(app, o.model.model);
    app.add_option("-p,--prompt", o.prompt, "raw text to go on from");
    app.add_option_function<std::string>("--tokens", TokensParser(o.tokens, o.tokens_given),
                                         "token ids to go on from, e.g. 1,2,3");
    Add(app, "--logits", o.logits_file,
        "write the prompt's logits, float32 [positions, vocab], to this .npy file");
    app.add_flag("--json", o.json, "one JSON document on standard output");
    Add(app, "--logprobs", o.generation.logprobs,
        "with --json: the log-probability of every token, and those of this many likeliest ones")
        ->check(CLI::Range(0, parallel::kMostLogprobs));
    AddGenerationOptions(app, o.generation);
    AddLaunchOptions(app, o.launch);
    AddModelOptions(app, o.model);
  }

  void AddBench() {
    BenchOptions& o = bench_;
    CLI::App& app = Command(
        "bench", "measure speed, beside what this machine can do at most",
        [this] { return Bench(bench_); }, true);
    AddModelArgument(app, o.model.model);
    Add(app, "--prompt", o.prompt, "tokens of the prompt whose prefill is measured")
        ->check(CLI::Range(1, 1 << 24));
    Add(app, "--gen", o.generated, "tokens that each sequence gets while decoding is measured")
        ->check(CLI::Range(2, 1 << 24));
    Add(app, "--batch", o.batches, "how many sequences to decode together, e.g. 1,4,16,64")
        ->delimiter(',')
        ->check(CLI::Range(1, 4096));
    Add(app, "--context", o.context, "tokens of each sequence in the cache before decoding")
        ->check(CLI::Range(1, 1 << 24));
    Add(app, "--rounds", o.rounds, "interleaved rounds, of which medians are told")
        ->check(CLI::Range(1, 1000));
    WithEnvironment(app.add_option_function<std::string>(
        "--read-memory", SizeParser(o.read_memory),
        "memory a host that is read to measure the bandwidth (default 1GiB)"));
    app.add_flag("--json", o.json, "one JSON document on standard output");
    AddLaunchOptions(app, o.launch);
    AddModelOptions(app, o.model);
  }

  void AddPlan() {
    PlanCommandOptions& o = plan_;
    CLI::App& app = Command(
        "plan", "show which rank gets which heads, columns, rows and bytes",
        [this] { return Plan(plan_); }, true);
    AddModelArgument(app, o.model);
    app.add_option("-n,--ranks", o.ranks, "ranks")->required()->check(CLI::Range(1, 65536));
    app.add_option("--weights", o.weights, "relative speeds of the ranks, e.g. 1,1,2")
        ->delimiter(',');
    app.add_option_function<std::string>("--memory", SizesParser(o.memory),
                                         "memory for weights of each rank, e.g. 8GiB,8GiB,4GiB");
    app.add_flag("--json", o.json, "one JSON document on standard output");
  }

  void AddInspect() {
    CLI::App& app = Command(
        "inspect", "show a model file's config, metadata and tensors",
        [this] { return Inspect(inspect_); }, true);
    AddModelArgument(app, inspect_.model);
    app.add_flag("--json", inspect_.json, "one JSON document on standard output");
  }

  void AddText() {
    CLI::App& tokenize = Command(
        "tokenize", "token ids of a text (argument or standard input)",
        [this] { return Tokenize(tokenize_); }, true);
    AddModelArgument(tokenize, tokenize_.model);
    tokenize.add_option("TEXT", tokenize_.text, "text, taken exactly; none: standard input");
    tokenize.add_flag("--special", tokenize_.special, "recognize control tokens in the text");
    tokenize.add_flag("--bos", tokenize_.bos, "add the model's own start token, if it wants one");
    tokenize.add_flag("--json", tokenize_.json, "{\"tokens\":[...]}");

    CLI::App& detokenize = Command(
        "detokenize", "text of token ids (argument or standard input)",
        [this] { return Detokenize(detokenize_); }, true);
    AddModelArgument(detokenize, detokenize_.model);
    detokenize.add_option("TOKENS", detokenize_.tokens, "ids, e.g. 1,2,3, or tokenize's JSON");
    detokenize.add_flag("--special", detokenize_.special, "spell control tokens too");
    detokenize.add_flag("--json", detokenize_.json, "{\"text\":\"...\"}");

    TemplateOptions& o = template_;
    CLI::App& render = Command(
        "template", "render messages with a chat template", [this] { return Template(template_); },
        true);
    AddModelArgument(render, o.model);
    render.add_option("MESSAGES", o.messages, "JSON file of messages; -: standard input")
        ->required();
    render.add_option("--chat-template", o.chat_template,
                      "chatml, zephyr, or a file (default: the model's own)");
    render.add_option("--bos-token", o.bos_token, "text of bos_token (default: the model's)");
    render.add_option("--eos-token", o.eos_token, "text of eos_token (default: the model's)");
    render.add_flag("!--no-generation-prompt", o.generation_prompt,
                    "do not end with the beginning of an answer");
    render.add_flag("--json", o.json, "{\"text\":\"...\",\"tokens\":[...]}");
  }

  void AddStatus() {
    CLI::App& app = Command(
        "status", "look at a running server", [this] { return ShowStatus(status_); }, true);
    Add(app, "--connect", status_.connect, "endpoint of the server");
    WithEnvironment(app.add_option_function<std::string>(
                        "--watch", SecondsParser(status_.watch, kWatchSeconds),
                        "look again every SECONDS until Ctrl-C (2 where none are given)"))
        ->expected(0, 1)
        ->type_name("[SECONDS]");
    app.add_flag("--json", status_.json,
                 "one JSON document on standard output, with --watch one a line");
  }

  void AddKv() {
    AddKvCommands(app_, kv_, [this](std::function<absl::Status()> run) {
      command_ = std::move(run);
      quiet_ = true;
    });
  }

  void AddWorker() {
    CLI::App& app = Command(
        "worker", "a rank of a job that tandem serve or chat started",
        [this] { return Worker(worker_); }, false);
    app.group("");  // not in --help: nobody types it
    AddModelArgument(app, worker_.model.model);
    app.add_option("--expected-ranks", worker_.ranks)->required();
    AddModelOptions(app, worker_.model);
    AddStateOptions(app, worker_.model.state);
  }

  void AddAgent() {
    CLI::App& app = Command(
        "agent", "keeps the KV of a host; ranks start it", [this] { return Agent(agent_); }, false);
    app.group("");
    app.add_option("DIRECTORY", agent_.directory, "where it is kept")->required();
    AddKvOptions(app, agent_.state);
  }

  CLI::App app_;
  std::string log_level_;
  bool quiet_ = false;
  std::function<absl::Status()> command_;
  ServeOptions serve_;
  ChatOptions chat_;
  GenerateOptions generate_;
  BenchOptions bench_;
  PlanCommandOptions plan_;
  InspectOptions inspect_;
  TokenizeOptions tokenize_;
  DetokenizeOptions detokenize_;
  TemplateOptions template_;
  StatusOptions status_;
  KvOptions kv_;
  WorkerOptions worker_;
  AgentOptions agent_;
};

}  // namespace

int RunCommandLine(int argc, char** argv) { return CommandLine().Run(argc, argv); }

}  // namespace tandem::launcher
