#include "frontend/chat/perplexity.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <utility>

#include "core/base/counted.h"
#include "core/base/mutex.h"

namespace tandem::frontend {
namespace {

/// A chunk that the engine has.
struct Chunk {
  parallel::RequestId id = 0;
  std::vector<float> logprobs;
  std::optional<parallel::Finish> finish;
};

/// What sinks fill and the caller waits for. Both own it: the sinks may outlive the call where the
/// engine dies.
struct Box {
  Mutex mutex;
  CondVar changed;
  std::map<int64_t, Chunk> chunks ABSL_GUARDED_BY(mutex);
};

parallel::EngineRequest RequestOf(const PerplexityTask& task, int64_t chunk) {
  const PerplexityCut& cut = task.cut;
  const auto begin = static_cast<size_t>(chunk * cut.stride.value_or(cut.context));
  const auto tokens = task.tokens.subspan(begin, static_cast<size_t>(cut.chunk_tokens()));
  parallel::EngineRequest request;
  request.prompt.assign(tokens.begin(), tokens.end());
  if (task.start_token && !cut.stride) request.prompt.front() = *task.start_token;
  request.prompt_logprobs = true;
  request.first_prompt_logprob = static_cast<int32_t>(cut.first_counted());
  request.reuse = false;
  return request;
}

absl::Status SubmitChunk(parallel::Engine& engine, const PerplexityTask& task, int64_t chunk,
                         const std::shared_ptr<Box>& box) {
  {
    const MutexLock lock(box->mutex);
    box->chunks[chunk] = {};
  }
  parallel::EngineSink sink;
  sink.on_logprobs = [box, chunk](int64_t, std::span<const parallel::TokenLogprobs> logprobs) {
    const MutexLock lock(box->mutex);
    std::vector<float>& all = box->chunks[chunk].logprobs;
    for (const parallel::TokenLogprobs& of_token : logprobs) all.push_back(of_token.chosen.logprob);
  };
  sink.on_finish = [box, chunk](const parallel::Finish& finish) {
    const MutexLock lock(box->mutex);
    box->chunks[chunk].finish = finish;
    box->changed.NotifyOne();
  };
  TANDEM_ASSIGN_OR_RETURN(const parallel::RequestId id,
                          engine.Submit(RequestOf(task, chunk), std::move(sink)));
  const MutexLock lock(box->mutex);
  box->chunks[chunk].id = id;
  return absl::OkStatus();
}

/// Takes a chunk out once it is done.
Chunk WaitFor(Box& box, int64_t chunk) {
  const MutexLock lock(box.mutex);
  while (!box.chunks[chunk].finish) box.changed.Wait(box.mutex);
  Chunk done = std::move(box.chunks[chunk]);
  box.chunks.erase(chunk);
  return done;
}

absl::Status CheckChunk(const Chunk& done, const PerplexityCut& cut) {
  const parallel::Finish& finish = *done.finish;
  if (finish.reason == parallel::FinishReason::kFailed) return finish.status;
  const int64_t expected = cut.chunk_tokens() - cut.first_counted();
  if (std::ssize(done.logprobs) == expected) return absl::OkStatus();
  return Internal("{} came with log-probabilities, expected {}",
                  Counted(std::ssize(done.logprobs), "token"), expected);
}

}  // namespace

int64_t PerplexityCut::ChunksOf(int64_t tokens) const {
  if (!stride) return tokens / context;
  return std::max<int64_t>(0, (tokens - chunk_tokens() + *stride - 1) / *stride);
}

absl::Status PerplexityCut::Check(int64_t model_context) const {
  if (chunk_tokens() > model_context) {
    return OutOfRange("--context {}{}: a chunk has {}, but the context of the model holds {}",
                      context, stride ? fmt::format(" with --stride {}", *stride) : "",
                      Counted(chunk_tokens(), "token"), model_context);
  }
  if (first_counted() < 1) {
    return InvalidArgument(
        "--stride {}: a chunk has {} (--context {}, and half of the stride), and as many as the "
        "stride count in each, behind one at least: give a shorter stride",
        *stride, Counted(chunk_tokens(), "token"), context);
  }
  if (first_counted() < chunk_tokens()) return absl::OkStatus();
  return InvalidArgument("--context {}: no token of such a chunk counts: give 3 at least", context);
}

void PerplexitySum::Add(float logprob) {
  const double surprise = -double{logprob};
  ++count_;
  sum_ += surprise;
  squares_ += surprise * surprise;
}

double PerplexitySum::perplexity() const { return std::exp(mean()); }

std::optional<double> PerplexitySum::error() const {
  const double variance = squares_ / static_cast<double>(count_) - mean() * mean();
  if (count_ < 2 || !(variance > 0)) return std::nullopt;
  return std::sqrt(variance / static_cast<double>(count_ - 1)) * perplexity();
}

absl::StatusOr<PerplexitySum> MeasurePerplexity(parallel::Engine& engine,
                                                const PerplexityTask& task,
                                                const PerplexityProgress& progress) {
  int64_t chunks = task.cut.ChunksOf(std::ssize(task.tokens));
  if (task.most_chunks) chunks = std::min(chunks, *task.most_chunks);
  const auto box = std::make_shared<Box>();
  PerplexitySum sum;
  absl::Status status;
  int64_t submitted = 0;
  for (int64_t chunk = 0; chunk < chunks && status.ok(); ++chunk) {
    while (status.ok() && submitted < std::min(chunks, chunk + task.together)) {
      status = SubmitChunk(engine, task, submitted, box);
      if (status.ok()) ++submitted;
    }
    if (!status.ok()) break;
    const Chunk done = WaitFor(*box, chunk);
    status = CheckChunk(done, task.cut);
    if (!status.ok()) {
      status = absl::Status(status.code(), fmt::format("chunk {}: {}", chunk + 1, Message(status)));
      break;
    }
    for (const float logprob : done.logprobs) sum.Add(logprob);
    if (progress) progress(chunk + 1, chunks, sum);
  }
  if (status.ok()) return sum;
  std::vector<parallel::RequestId> open;
  {
    const MutexLock lock(box->mutex);
    for (const auto& [chunk, state] : box->chunks) {
      if (state.id != 0 && !state.finish) open.push_back(state.id);
    }
  }
  for (const parallel::RequestId id : open) engine.Cancel(id);
  return status;
}

}  // namespace tandem::frontend
