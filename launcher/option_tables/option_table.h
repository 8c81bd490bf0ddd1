#pragma once

#include <vector>

#include "launcher/options/option_row.h"
#include "launcher/options/options.h"

/// The options of all commands, a row each. The rows keep their values in the options that they are
/// made of, which must outlive them. Ranks are told all rows of `worker` (or `bench`), an agent all
/// rows of `agent`.
namespace tandem::launcher {

std::vector<OptionRow> ModelRows(ModelOptions& o);
std::vector<OptionRow> StateRows(StateOptions& o);
std::vector<OptionRow> LaunchRows(LaunchOptions& o);

std::vector<OptionRow> RowsOf(ServeOptions& o);
std::vector<OptionRow> RowsOf(ChatOptions& o);
std::vector<OptionRow> RowsOf(GenerateOptions& o);
std::vector<OptionRow> RowsOf(PerplexityOptions& o);
std::vector<OptionRow> RowsOf(BenchOptions& o);
std::vector<OptionRow> RowsOf(PlanCommandOptions& o);
std::vector<OptionRow> RowsOf(InspectOptions& o);
std::vector<OptionRow> RowsOf(TokenizeOptions& o);
std::vector<OptionRow> RowsOf(DetokenizeOptions& o);
std::vector<OptionRow> RowsOf(TemplateOptions& o);
std::vector<OptionRow> RowsOf(StatusOptions& o);
std::vector<OptionRow> RowsOf(ScaleOptions& o);
std::vector<OptionRow> RowsOf(WorkerOptions& o);
std::vector<OptionRow> RowsOf(AgentOptions& o);
std::vector<OptionRow> RowsOf(AgentStopOptions& o);

/// What the help of kv ends with.
inline constexpr char kKvExamples[] =
    "Examples:\n"
    "  tandem kv ls --state S\n"
    "  tandem kv verify --state S && echo all good\n"
    "  tandem kv gc --state S --older-than 30d --max-bytes 8GiB --dry-run\n"
    "  tandem kv export --state S model.gguf --system \"$(cat system.txt)\" -o system.tandemkv\n"
    "  tandem kv import --state T system.tandemkv --trust KEY_THAT_EXPORT_PRINTED model.gguf";

std::vector<OptionRow> KvListRows(KvOptions& o);  // of kv verify too
std::vector<OptionRow> KvShowRows(KvOptions& o);
std::vector<OptionRow> KvCollectRows(KvOptions& o);
std::vector<OptionRow> KvExportRows(KvOptions& o);
std::vector<OptionRow> KvImportRows(KvOptions& o);

}  // namespace tandem::launcher
