#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/model/attention_text.h"
#include "core/system/standard_output.h"
#include "core/system/text_file.h"
#include "frontend/chat/perplexity.h"
#include "frontend/tokenizer/tokenizer.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/json_output.h"
#include "launcher/commands/text_side.h"
#include "launcher/job/progress_display.h"
#include "launcher/options/cleanup_signals.h"
#include "launcher/supervision/with_engine.h"

namespace tandem::launcher {
namespace {

using frontend::PerplexityCut;
using frontend::PerplexitySum;
using nlohmann::ordered_json;

/// The tokens of the text, and the token that stands before them.
struct Input {
  std::vector<int32_t> tokens;
  std::optional<int32_t> start_token;
};

/// Errors name the file, and the flags where these are wrong for the model or the text.
absl::StatusOr<Input> ReadInput(const PerplexityOptions& options, const PerplexityCut& cut,
                                const core::ModelFile& file) {
  TANDEM_RETURN_IF_ERROR(cut.Check(file.config().context));
  TANDEM_ASSIGN_OR_RETURN(std::string text, ReadTextFile(options.file));
  TANDEM_RETURN_IF_ERROR(CheckInputText(text, options.file));
  // As llama.cpp reads a file: a newline at its very end is none of the text.
  if (text.ends_with('\n')) text.pop_back();
  TANDEM_ASSIGN_OR_RETURN(const auto tokenizer, frontend::LoadTokenizer(file.gguf()));
  Input input;
  TANDEM_ASSIGN_OR_RETURN(input.tokens, tokenizer->Encode(text, {.special = false, .bos = true}));
  const frontend::Vocabulary& vocabulary = tokenizer->vocabulary();
  if (vocabulary.add_bos()) input.start_token = vocabulary.bos();
  const int64_t least = cut.least_tokens();
  if (std::ssize(input.tokens) >= least) return input;
  return InvalidArgument(
      "{}: it has {}, two chunks of {} take {} at least: give a longer text or a shorter --context",
      options.file, Counted(std::ssize(input.tokens), "token"), cut.chunk_tokens(), least);
}

/// How far it is, on standard error: a bar on a terminal, else the perplexity after each chunk.
class Progress {
 public:
  Progress() : terminal_(isatty(STDERR_FILENO) != 0), begin_(std::chrono::steady_clock::now()) {}
  ~Progress() {
    if (open_line_) std::fputs("\n", stderr);
  }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  double seconds() const {
    return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin_).count();
  }
  void Show(int64_t chunk, int64_t chunks, double perplexity) {
    if (terminal_) {
      const auto left = static_cast<int64_t>(seconds() * static_cast<double>(chunks - chunk) /
                                             static_cast<double>(chunk));
      bar_.Show(static_cast<double>(chunk) / static_cast<double>(chunks),
                fmt::format("perplexity {:.4f} after {} of {}, {} left", perplexity, chunk,
                            Counted(chunks, "chunk"), Counted(left, "second")));
      return;
    }
    constexpr int64_t kInALine = 8;
    open_line_ = chunk % kInALine != 0 && chunk != chunks;
    fmt::print(stderr, "[{}]{:.4f}{}", chunk, perplexity, open_line_ ? "," : ",\n");
  }

 private:
  const bool terminal_;
  const std::chrono::steady_clock::time_point begin_;
  ProgressDisplay bar_;
  bool open_line_ = false;
};

/// What was found.
struct Found {
  PerplexitySum sum;
  std::vector<double> after_chunks;  // the perplexity, up to each
  double seconds = 0;
  int64_t computed = 0;  // tokens
};

ordered_json FoundJson(const Found& found, const Input& input, const PerplexityCut& cut,
                       const core::AttentionForm& attention) {
  const auto number_or_null = [](const auto& value) {
    return value ? ordered_json(*value) : ordered_json(nullptr);
  };
  return {{"perplexity", found.sum.perplexity()},
          {"error", number_or_null(found.sum.error())},
          {"mean_logprob", -found.sum.mean()},
          {"text_tokens", input.tokens.size()},
          {"counted_tokens", found.sum.count()},
          {"chunks", found.after_chunks.size()},
          {"chunk_tokens", cut.chunk_tokens()},
          {"context", cut.context},
          {"stride", number_or_null(cut.stride)},
          {"attention", core::AttentionText(attention)},
          {"after_chunks", found.after_chunks},
          {"timings",
           {{"seconds", found.seconds},
            {"tokens_per_second", static_cast<double>(found.computed) / found.seconds}}}};
}

void PrintFound(const Found& found, const PerplexityCut& cut) {
  PrintOutput("perplexity {:.4f}", found.sum.perplexity());
  if (const auto error = found.sum.error()) PrintOutput(" +/- {:.5f}", *error);
  const auto chunks = std::ssize(found.after_chunks);
  PrintOutput("\n{} counted, in {} of {}; {:.0f} tokens a second\n",
              Counted(found.sum.count(), "token"), Counted(chunks, "chunk"), cut.chunk_tokens(),
              static_cast<double>(found.computed) / found.seconds);
}

absl::Status Measure(parallel::Engine& engine, const PerplexityOptions& options,
                     const PerplexityCut& cut, const Input& input,
                     const core::AttentionForm& attention) {
  // A step has the tokens of several chunks, where they are short; the next ones wait for it.
  const int64_t chunk = cut.chunk_tokens();
  const int64_t of_two_steps = (2 * int64_t{options.model.prefill_chunk} + chunk - 1) / chunk;
  const int64_t together = std::min<int64_t>(1 + of_two_steps, options.model.max_running);
  Found found;
  {
    Progress progress;
    TANDEM_ASSIGN_OR_RETURN(
        found.sum,
        frontend::MeasurePerplexity(engine,
                                    {.tokens = input.tokens,
                                     .cut = cut,
                                     .most_chunks = options.chunks,
                                     .start_token = input.start_token,
                                     .together = static_cast<int32_t>(together)},
                                    [&](int64_t done, int64_t chunks, const PerplexitySum& sum) {
                                      found.after_chunks.push_back(sum.perplexity());
                                      progress.Show(done, chunks, sum.perplexity());
                                    }));
    found.seconds = progress.seconds();
  }
  found.computed = std::ssize(found.after_chunks) * chunk;
  if (options.json) {
    PrintJson(FoundJson(found, input, cut, attention));
  } else {
    PrintFound(found, cut);
  }
  return FlushOutput();
}

}  // namespace

absl::Status Perplexity(const PerplexityOptions& options) {
  const PerplexityCut cut{.context = options.context, .stride = options.stride};
  Input input;
  CleanupSignals signals;
  return WithEngine(
      options.model, options.launch,
      [&](parallel::Engine& engine, const core::ModelFile& file) {
        return Measure(engine, options, cut, input, file.config().attention);
      },
      [&](const core::ModelFile& file) -> absl::Status {
        TANDEM_ASSIGN_OR_RETURN(input, ReadInput(options, cut, file));
        return absl::OkStatus();
      },
      0, &signals);
}

}  // namespace tandem::launcher
