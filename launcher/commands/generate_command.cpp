#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/base/errno_text.h"
#include "core/system/standard_output.h"
#include "core/system/text_file.h"
#include "frontend/chat/generation.h"
#include "frontend/client/chat_terminal.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/json_output.h"
#include "launcher/commands/npy_writer.h"
#include "launcher/commands/text_side.h"
#include "launcher/options/cleanup_signals.h"
#include "launcher/options/interrupt_flag.h"
#include "launcher/supervision/with_engine.h"
#include "parallel/communicators/mpi_communicator.h"

namespace tandem::launcher {
namespace {

using nlohmann::ordered_json;

ordered_json LogprobsJson(std::span<const parallel::TokenLogprobs> logprobs) {
  const auto json = [](const parallel::TokenLogprob& one) {
    return ordered_json{{"token", one.token}, {"logprob", one.logprob}};
  };
  ordered_json all = ordered_json::array();
  for (const parallel::TokenLogprobs& of_token : logprobs) {
    ordered_json entry = json(of_token.chosen);
    entry["top"] = ordered_json::array();
    for (const parallel::TokenLogprob& one : of_token.top) entry["top"].push_back(json(one));
    all.push_back(std::move(entry));
  }
  return all;
}

double Rate(int32_t tokens, double seconds) { return seconds > 0 ? tokens / seconds : 0; }

ordered_json AnswerJson(const frontend::Answer& answer) {
  const parallel::Usage& usage = answer.usage;
  ordered_json document = {{"tokens", answer.tokens},
                           {"text", answer.text},
                           {"finish_reason", frontend::FinishReasonName(answer.reason)}};
  if (answer.seed) document["seed"] = *answer.seed;
  document["usage"] = {{"prompt_tokens", usage.prompt_tokens},
                       {"completion_tokens", usage.completion_tokens},
                       {"reused_tokens", usage.reused_tokens},
                       {"drafted_tokens", usage.drafted_tokens},
                       {"accepted_tokens", usage.accepted_tokens}};
  document["timings"] = {
      {"queue_seconds", usage.queue_seconds},
      {"prefill_seconds", usage.prefill_seconds},
      {"decode_seconds", usage.decode_seconds},
      {"prefill_tokens_per_second", Rate(usage.prompt_tokens, usage.prefill_seconds)},
      // The first token comes out of the prefill.
      {"decode_tokens_per_second",
       Rate(std::max(0, usage.completion_tokens - 1), usage.decode_seconds)}};
  return document;
}

/// Standard input, without the line's end that editors and echo put behind a text.
absl::StatusOr<std::string> ReadPrompt() {
  TANDEM_ASSIGN_OR_RETURN(std::string text, ReadStandardInput());
  if (text.ends_with('\n')) text.pop_back();
  return text;
}

/// An error about the prompt with the flag that the prompt came by.
absl::Status InFlagsOf(const GenerateOptions& options, const absl::Status& status) {
  constexpr std::string_view kPrompt = "prompt: ";
  const std::string message = Message(status);
  if (!options.tokens || !message.starts_with(kPrompt)) return status;
  return absl::Status(status.code(), "--tokens: " + message.substr(kPrompt.size()));
}

/// That the folder of a file can take it: nobody waits for an answer that cannot be kept.
absl::Status CheckOutputFile(const std::string& flag, const std::string& file) {
  const std::filesystem::path path = std::filesystem::absolute(file);
  std::error_code error;
  if (std::filesystem::is_directory(path, error)) {
    return InvalidArgument("{} {}: it is a directory, expected a file", flag, file);
  }
  const bool device =
      std::filesystem::exists(path, error) && !std::filesystem::is_regular_file(path, error);
  const std::filesystem::path written = device ? path : path.parent_path();
  if (access(written.c_str(), W_OK) == 0) return absl::OkStatus();
  return InvalidArgument("{} {}: cannot be written: {}", flag, file, ErrnoText(errno));
}

/// Somebody who watches the answer, and may not know how long it can be.
class Watcher {
 public:
  /// Whoever has mpirun in between cannot be asked.
  Watcher() : there_(isatty(STDERR_FILENO) != 0 && !parallel::StartedByMpi()) {}

  void TellLength(const GenerateOptions& options, int64_t rest) const {
    if (!there_ || options.generation.max_tokens || rest <= 0) return;
    fmt::print(stderr, "tandem: the answer may have {} (--max-tokens); Ctrl-C ends it\n",
               Counted(rest, "token"));
  }
  /// Whether the answer goes on. Before its first text, Ctrl-C ends the program as ever.
  bool GoesOn() {
    if (there_) interrupt_.Watch();
    return !interrupt_.raised();
  }
  bool has_stopped_it() const { return interrupt_.raised(); }
  void TellEnd(const parallel::Usage& usage) const {
    if (!has_stopped_it()) return;
    fmt::print(stderr, "tandem: stopped after {}, {:.1f} a second\n",
               Counted(usage.completion_tokens, "token"),
               Rate(std::max(0, usage.completion_tokens - 1), usage.decode_seconds));
  }

 private:
  const bool there_;
  InterruptFlag interrupt_;
};

/// What a model is asked for.
struct Question {
  std::unique_ptr<frontend::TextModel> text_model;
  std::vector<int32_t> prompt;
};

/// tokens: the prompt, if it was given in tokens. Needs none of the model's weights, and finds
/// whatever the model cannot do. `file` must outlive the question.
absl::StatusOr<Question> MakeQuestion(const core::ModelFile& file, const GenerateOptions& options,
                                      std::vector<int32_t> tokens) {
  Question question;
  // A raw prompt goes through no template: nobody wants to hear of the model's own.
  TANDEM_ASSIGN_OR_RETURN(question.text_model,
                          LoadTextSide(file, "chatml", options.tokens.has_value()));
  question.prompt = std::move(tokens);
  if (options.prompt) {
    TANDEM_ASSIGN_OR_RETURN(question.prompt, question.text_model->EncodeText(*options.prompt));
  }
  const absl::Status possible =
      frontend::MakeEngineRequest(*question.text_model, question.prompt, options.generation)
          .status();
  TANDEM_RETURN_IF_ERROR(InFlagsOf(options, possible));
  return question;
}

absl::Status GenerateWith(parallel::Engine& engine, const core::ModelFile& file,
                          const GenerateOptions& options, Question question, Watcher& watcher) {
  const frontend::TextModel& text_model = *question.text_model;
  std::vector<int32_t> prompt = std::move(question.prompt);
  frontend::GenerateCallbacks callbacks;
  std::unique_ptr<NpyWriter> logits;
  if (!options.logits_file.empty()) {
    TANDEM_ASSIGN_OR_RETURN(
        logits, NpyWriter::Create(options.logits_file, static_cast<int64_t>(prompt.size()),
                                  file.config().vocab));
    callbacks.on_logits = [&](int64_t, std::span<const float> row) { logits->Append(row); };
  }
  std::vector<parallel::TokenLogprobs> logprobs;
  callbacks.on_logprobs = [&](std::span<const parallel::TokenLogprobs> more) {
    logprobs.insert(logprobs.end(), more.begin(), more.end());
  };
  callbacks.on_text = [&](std::string_view text) {
    if (!options.json) WriteOutput(text);
    return FlushOutput().ok() && watcher.GoesOn();
  };
  watcher.TellLength(options, file.config().context - static_cast<int64_t>(prompt.size()));
  auto generated =
      frontend::Generate(engine, text_model, std::move(prompt), options.generation, callbacks);
  if (!generated.ok()) return InFlagsOf(options, generated.status());
  const frontend::Answer answer = *std::move(generated);
  if (logits) TANDEM_RETURN_IF_ERROR(logits->Finish());
  if (options.json) {
    ordered_json all = AnswerJson(answer);
    if (options.generation.logprobs) {
      // What came behind a stop string is no part of the answer.
      logprobs.resize(std::min(logprobs.size(), answer.tokens.size()));
      all["logprobs"] = LogprobsJson(logprobs);
    }
    PrintJson(all);
  } else if (answer.usage.completion_tokens > 0) {
    WriteOutput("\n");
  }
  TANDEM_RETURN_IF_ERROR(FlushOutput());
  watcher.TellEnd(answer.usage);
  if (!options.json && answer.seed && !options.generation.seed) {
    fmt::print(stderr, "tandem: drew --seed {}\n", *answer.seed);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Generate(const GenerateOptions& options) {
  const bool piped =
      options.prompt ? *options.prompt == "-" : !options.tokens && isatty(STDIN_FILENO) == 0;
  if (options.prompt && options.tokens) {
    // Of one that was not typed, nobody thinks.
    const bool typed = options.model.sources.Given("--tokens");
    return InvalidArgument("{}: generate takes -p or --tokens, and not both",
                           typed ? "--prompt" : "--tokens");
  }
  if (!piped && !options.prompt && !options.tokens) {
    return InvalidArgument(
        "generate takes either -p TEXT (-: standard input, as a pipe without -p) or --tokens "
        "1,2,3");
  }
  if (options.generation.logprobs && !options.json) {
    return InvalidArgument("--logprobs {}: it needs --json, which has a place for them",
                           *options.generation.logprobs);
  }
  TANDEM_RETURN_IF_ERROR(CheckGeneration(options.generation));
  if (!options.logits_file.empty()) {
    TANDEM_RETURN_IF_ERROR(CheckOutputFile("--logits", options.logits_file));
  }
  const auto tokens = ParseTokens(options.tokens.value_or(""));
  if (!tokens.ok()) return InvalidArgument("--tokens: {}", Message(tokens.status()));
  GenerateOptions whole = options;
  const auto read = [&]() -> absl::Status {
    if (!piped) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(whole.prompt, ReadPrompt());
    TANDEM_RETURN_IF_ERROR(CheckInputText(*whole.prompt));
    if (!whole.prompt->empty() || options.prompt) return absl::OkStatus();
    return InvalidArgument(
        "generate needs a prompt: -p TEXT, a text on standard input, or --tokens 1,2,3");
  };
  // mpirun gives standard input to rank 0 alone, which is the one that runs the body; the other
  // ranks' start does not wait for it.
  const bool late = piped && parallel::StartedByMpi();
  if (!late) TANDEM_RETURN_IF_ERROR(read());
  Question question;
  const auto ask = [&](const core::ModelFile& file) -> absl::Status {
    auto made = MakeQuestion(file, whole, *tokens);
    if (!made.ok()) return frontend::InFlags(made.status());
    question = *std::move(made);
    return absl::OkStatus();
  };
  bool interrupted = false;
  absl::Status status;
  {
    CleanupSignals signals;
    status = WithEngine(
        options.model, options.launch,
        [&](parallel::Engine& engine, const core::ModelFile& file) -> absl::Status {
          if (late) {
            TANDEM_RETURN_IF_ERROR(read());
            TANDEM_RETURN_IF_ERROR(ask(file));
          }
          Watcher watcher;
          const absl::Status done = GenerateWith(engine, file, whole, std::move(question), watcher);
          interrupted = watcher.has_stopped_it();
          return frontend::InFlags(done);
        },
        [&](const core::ModelFile& file) -> absl::Status {
          TANDEM_RETURN_IF_ERROR(CheckGeneration(options.generation, file.config().context));
          return late ? absl::OkStatus() : ask(file);
        },
        0, &signals);
  }
  if (interrupted && status.ok()) DieInterrupted();
  return status;
}

}  // namespace tandem::launcher
