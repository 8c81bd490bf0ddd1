#include "launcher/kv_command_line.h"

#include <CLI/CLI.hpp>
#include <string>
#include <utility>

#include "launcher/commands/commands.h"
#include "launcher/options/environment_flags.h"
#include "launcher/options/flag_parsers.h"

namespace tandem::launcher {
namespace {

constexpr char kExamples[] =
    "Examples:\n"
    "  tandem kv ls --state S\n"
    "  tandem kv verify --state S && echo all good\n"
    "  tandem kv gc --state S --older-than 30d --max-bytes 8GiB --dry-run\n"
    "  tandem kv export --state S model.gguf --system \"$(cat system.txt)\" -o system.tandemkv\n"
    "  tandem kv import --state T system.tandemkv --trust KEY_THAT_EXPORT_PRINTED model.gguf";

class KvCommandLine {
 public:
  using Choose = std::function<void(std::function<absl::Status()>)>;

  KvCommandLine(CLI::App& app, KvOptions& options, Choose choose)
      : kv_(*app.add_subcommand("kv",
                                "look after the KV that a state directory keeps on this "
                                "host")),
        options_(options),
        choose_(std::move(choose)) {
    kv_.require_subcommand(1);
    kv_.footer(kExamples);
  }

  void AddAll() {
    Command("ls", "list the prefixes and conversations whose KV is there", KvList);
    CLI::App& show = Command(
        "show", "one prefix or conversation in detail: its blocks, and what is missing", KvShow);
    show.add_option("PREFIX", options_.prefix, "id, or its beginning, as ls tells it");
    AddConversation(show);
    Command("verify", "read and check every record; exit status 1 if any is damaged (see also gc)",
            KvVerify);
    AddGc();
    AddExport();
    AddImport();
  }

 private:
  CLI::App& Command(const std::string& name, const std::string& help,
                    absl::Status (*run)(const KvOptions&)) {
    CLI::App& app = *kv_.add_subcommand(name, help);
    app.callback([choose = choose_, run, &options = options_] {
      choose([run, &options] { return run(options); });
    });
    Add(app, "--state", options_.state.directory, "state directory of tandem serve")->required();
    Add(app, "--state-key", options_.state.key_file,
        "key file with which what lies in --state is encrypted");
    app.add_flag("--json", options_.json, "one JSON document on standard output");
    return app;
  }

  void AddConversation(CLI::App& app) {
    Add(app, "--conversation", options_.conversation, "a conversation that the server keeps");
    Add(app, "--tenant", options_.tenant, "whose it is (default: the nameless tenant's)");
  }

  void AddModel(CLI::App& app) {
    Add(app, "--kv-dtype", options_.model.kv_dtype,
        "of the server: f16 or f32 (default f16; f32 with --activations f32)");
    Add(app, "--activations", options_.model.activations, "of the server: q8 or f32");
  }

  void AddGc() {
    CLI::App& app = Command(
        "gc",
        "remove what is of no use: damaged records, blocks that are incomplete or stand on what is "
        "missing; on request what is unused, from the end of each prefix",
        KvCollect);
    WithEnvironment(app.add_option_function<std::string>(
        "--older-than", AgeParser(options_.older_than),
        "also what was used last longer ago than this, e.g. 12h, 30d"));
    WithEnvironment(app.add_option_function<std::string>(
        "--max-bytes", OptionalSizeParser(options_.max_bytes),
        "also what was unused longest, until no more than this is left, e.g. 8GiB"));
    WithEnvironment(
        app.add_flag("--dry-run", options_.dry_run, "tell what would go, and remove nothing"));
    WithEnvironment(app.add_flag(
        "--this-host-alone", options_.this_host_alone,
        "what is incomplete on this host is of no use: no other host has the rest (default: so if "
        "no other host keeps KV in the directory)"));
  }

  void AddExport() {
    CLI::App& app = Command(
        "export", "write the KV of a prefix into a signed file, for another cluster to import",
        KvExport);
    app.add_option("MODEL", options_.model.model, "model file (.gguf) whose KV it is")->required();
    AddConversation(app);
    WithEnvironment(app.add_option("--system", options_.system,
                                   "what all chats with this system message begin with"));
    Add(app, "--text-file", options_.text_file,
        "what all raw prompts begin with that begin with this file's text");
    Add(app, "--chat-template", options_.chat_template,
        "of the server: chatml, zephyr, or a file with a Jinja template (default: the model's "
        "own)");
    AddModel(app);
    app.add_option("-o,--output", options_.file, "file to write; replaced once it is whole")
        ->required();
  }

  void AddImport() {
    CLI::App& app = Command(
        "import", "take the KV of an exported file, if a trusted key has signed it", KvImport);
    app.add_option("FILE", options_.file, "file that tandem kv export wrote")->required();
    app.add_option("MODEL", options_.model.model,
                   "model file (.gguf) that is to use it: another one's KV is refused");
    Add(app, "--trust", options_.trust,
        "public key that may have signed it, as export prints it, or a file with such keys")
        ->required();
    Add(app, "--tenant", options_.tenant, "whose it will be (default: the nameless tenant's)");
    AddModel(app);
  }

  CLI::App& kv_;
  KvOptions& options_;
  const Choose choose_;
};

}  // namespace

void AddKvCommands(CLI::App& app, KvOptions& options,
                   const std::function<void(std::function<absl::Status()> run)>& choose) {
  KvCommandLine(app, options, choose).AddAll();
}

}  // namespace tandem::launcher
