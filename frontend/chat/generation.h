#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"
#include "core/sampling/sampler.h"
#include "frontend/chat/text_model.h"
#include "frontend/text/stop_strings.h"
#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// How an answer is to be made, in terms of text.
struct GenerationParams {
  std::optional<int64_t> max_tokens;  // none: the rest of the context
  /// Its seed, min_tokens and end_tokens are ignored: those below count.
  core::SamplingParams sampling;
  std::optional<uint64_t> seed;           // none: drawn where the answer is sampled
  std::vector<std::string> stop;          // not part of the answer
  std::vector<int32_t> stop_tokens = {};  // end the answer, besides the model's own
  bool ignore_eos = false;                // the model's own do not; nor strings in place of them
  /// Of the answer, which end tokens and stop strings do not end (CheckMinTokens).
  int32_t min_tokens = 0;
  /// Set: every token comes with its log-probability and those of this many best ones.
  std::optional<int32_t> logprobs = {};
  int32_t priority = 0;   // higher ones go first
  bool reuse = true;      // take what was computed before for the same beginning
  bool speculate = true;  // let the engine guess ahead; the answer is the same
};

/// "none", "not_asked", "nothing_known", "differs", "evicted", "late", "damaged", "no_state"
/// or "other_attention".
std::string_view ReuseLimitName(parallel::ReuseLimit limit);

/// "stop", "length", "cancelled", or "failed".
std::string_view FinishReasonName(parallel::FinishReason reason);

/// A finished answer.
struct Answer {
  parallel::FinishReason reason = parallel::FinishReason::kStop;
  std::string text;
  std::vector<int32_t> tokens;                  // filled by Generate only
  std::optional<uint64_t> seed;                 // set where the answer was sampled
  parallel::Usage usage;                        // completion_tokens: those that `text` was made of
  std::optional<std::string> stop_string = {};  // set where one of them ended it
};

/// That an answer may have its min_tokens: that they are neither above max_tokens nor more than a
/// prompt of `prompt` tokens leaves of the model's context. kInvalidArgument.
absl::Status CheckMinTokens(const GenerationParams& params, int64_t context, int64_t prompt);

/// What the engine is asked for: checks the prompt and parameters against the model, fills in the
/// rest of the context as the default of max_tokens and draws a seed where one is needed.
/// kInvalidArgument (a token outside the vocabulary, an empty prompt, or as of CheckMinTokens),
/// kOutOfRange (a prompt longer than the context).
absl::StatusOr<parallel::EngineRequest> MakeEngineRequest(const TextModel& model,
                                                          std::vector<int32_t> prompt,
                                                          const GenerationParams& params);

/// The text side of one answer: tokens come in, text that can be shown goes out. Text that may be
/// the beginning of a stop string is held back until that is decided; a stop string itself is never
/// delivered, and ends the answer, unless it is complete within the first `min_tokens` tokens.
/// Thread safety: one thread.
class AnswerWriter {
 public:
  AnswerWriter(std::unique_ptr<TextStream> stream, std::vector<std::string> stop,
               int32_t min_tokens = 0);

  /// The new text to deliver: whole UTF-8 characters, possibly none. Tokens after a stop string are
  /// ignored.
  std::string Append(std::span<const int32_t> tokens);
  /// The rest at the end of the answer. Held-back text that became no stop string comes out. A stop
  /// string may still be completed here.
  std::string Finish();

  /// True once a stop string was found: the engine should be told to end the request.
  bool stopped() const { return stop_.matched(); }
  /// Everything delivered so far.
  const std::string& text() const { return text_; }
  /// Tokens taken, those of a stop string included.
  int32_t tokens() const { return static_cast<int32_t>(taken_.size()); }

  /// Tokens that stand for exactly the first `text_bytes` bytes of text(): all of them, unless a
  /// stop string or an unfinished character cut into the last ones.
  struct Certain {
    std::span<const int32_t> tokens;
    size_t text_bytes = 0;
  };
  Certain certain() const;

  /// The answer's outcome once the engine has finished: a stop string wins over the engine's own
  /// reason. Call Finish() before.
  Answer Result(const parallel::Finish& finish) const;

 private:
  /// Passes text of the last token on.
  std::string Push(const std::string& text) { return stop_.Push(text, tokens() > min_tokens_); }

  std::unique_ptr<TextStream> stream_;
  StopStrings stop_;
  int32_t min_tokens_;
  std::string text_;
  std::vector<int32_t> taken_;

  /// The first `tokens` tokens stand for the first `bytes` bytes.
  struct Boundary {
    size_t tokens = 0;
    size_t bytes = 0;
  };
  /// Within text_: the last one known. Behind it: those of text that is held back.
  std::deque<Boundary> boundaries_{Boundary{}};
  size_t stream_bytes_ = 0;  // that came out of stream_
};

struct GenerateCallbacks {
  /// From the calling thread; false ends the answer. May be empty.
  std::function<bool(std::string_view text)> on_text;
  /// From the engine's thread; set: every prompt token's logits are delivered.
  std::function<void(int64_t position, std::span<const float> logits)> on_logits;
  /// From the engine's thread; with `logprobs` in the parameters: of answer tokens, in order.
  std::function<void(std::span<const parallel::TokenLogprobs> logprobs)> on_logprobs = nullptr;
};

/// One answer, waited for: what `tandem generate` does. stop strings of `params` only. Errors are
/// those of MakeEngineRequest and of the engine.
absl::StatusOr<Answer> Generate(parallel::Engine& engine, const TextModel& model,
                                std::vector<int32_t> prompt, const GenerationParams& params,
                                const GenerateCallbacks& callbacks);

}  // namespace tandem::frontend
