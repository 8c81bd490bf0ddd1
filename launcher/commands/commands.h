#pragma once

#include "core/base/status.h"
#include "launcher/options/options.h"

/// The commands of the program, one function each. They write their result to standard output and
/// return an error where there is none; kInvalidArgument is a wrong use (exit status 2), everything
/// else a failure (1).
namespace tandem::launcher {

absl::Status Serve(const ServeOptions& options);
absl::Status Chat(const ChatOptions& options);
absl::Status Generate(const GenerateOptions& options);
absl::Status Perplexity(const PerplexityOptions& options);
absl::Status Bench(const BenchOptions& options);
absl::Status Plan(const PlanCommandOptions& options);
absl::Status Worker(const WorkerOptions& options);
absl::Status Agent(const AgentOptions& options);
absl::Status EndAgent(const AgentStopOptions& options);
absl::Status Inspect(const InspectOptions& options);
absl::Status Tokenize(const TokenizeOptions& options);
absl::Status Detokenize(const DetokenizeOptions& options);
absl::Status Template(const TemplateOptions& options);
absl::Status ShowStatus(const StatusOptions& options);
absl::Status Scale(const ScaleOptions& options);
absl::Status KvList(const KvOptions& options);
absl::Status KvShow(const KvOptions& options);
absl::Status KvVerify(const KvOptions& options);
absl::Status KvCollect(const KvOptions& options);
absl::Status KvExport(const KvOptions& options);
absl::Status KvImport(const KvOptions& options);

}  // namespace tandem::launcher
