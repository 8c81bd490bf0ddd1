#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/sampling/logprobs.h"
#include "core/sampling/sampler.h"
#include "parallel/plan/record_counts.h"

namespace tandem::parallel {

inline constexpr int32_t kMostLogprobs = 64;

/// A request as the engine sees it: token ids in, token ids out. Text, stop strings and templates
/// belong to frontend/.
struct EngineRequest {
  std::vector<int32_t> prompt;  // at least one token
  /// Tokens of the answer that an engine which is gone gave before, at most max_tokens. This one
  /// goes on behind them, with the tokens that it would have had; the sink gets those alone.
  std::vector<int32_t> answered = {};
  int32_t max_tokens = 0;  // 0 = run the prompt only (for logits)
  core::SamplingParams sampling;
  std::vector<int32_t> stop_tokens;  // end-of-generation tokens; not reported as output
  bool want_prompt_logits = false;   // every prompt token's logits are delivered
  /// Set: every answer token comes with its log-probability and those of this many best tokens, 0
  /// to kMostLogprobs.
  std::optional<int32_t> logprobs;
  /// The same for every prompt token from the second on. Takes no cached pages, since the logits of
  /// their tokens are not kept.
  bool prompt_logprobs = false;
  /// With prompt_logprobs: the first prompt token that has one, from 1. Logits of those before are
  /// not computed.
  int32_t first_prompt_logprob = 1;

  uint64_t tenant = 0;   // cached pages are shared only among requests of one tenant
  uint64_t client = 0;   // requests of different clients take turns
  int32_t priority = 0;  // higher ones go first
  bool reuse = true;     // take cached pages of the same prefix
  bool speculate =
      true;  // let the engine guess ahead, where it does at all; the answer is the same
  /// on_finish waits until the records of this request survive a kill -9 of every process, or until
  /// a deadline (Finish::saved says which). Tokens are not delayed.
  bool durable = false;
};

using core::TokenLogprob;
using core::TokenLogprobs;

/// Why a request took no more cached pages than it did.
enum class ReuseLimit : uint8_t {
  kNone,            // all of the prompt but its last token was there
  kNotAsked,        // the request did not want any
  kNothing,         // no block of the prompt was known
  kDiffers,         // the prompt goes on differently from what is known
  kEvicted,         // its pages were there once, and made room for others
  kLate,            // there are records of it, but they did not come in time
  kDamaged,         // records of it were missing or damaged, of some head at least
  kNoState,         // its pages are there, but not the state that stands before them
  kOtherAttention,  // what was computed of the conversation was so with another form of attention
};

/// Where reused tokens came from.
struct ReusedFrom {
  uint64_t device = 0;  // the pages were there
  uint64_t host = 0;    // records in host memory
  uint64_t disk = 0;
  uint64_t remote = 0;  // another host

  uint64_t total() const { return device + host + disk + remote; }
  ReusedFrom& operator+=(const ReusedFrom& more) {
    device += more.device;
    host += more.host;
    disk += more.disk;
    remote += more.remote;
    return *this;
  }
  bool operator==(const ReusedFrom&) const = default;

  /// Of the first so many tokens: pages that were there come before those of records.
  ReusedFrom OfFirst(uint64_t tokens) const {
    ReusedFrom first = *this;
    for (uint64_t* part : {&first.remote, &first.disk, &first.host, &first.device}) {
      const uint64_t more = first.total() > tokens ? first.total() - tokens : 0;
      *part -= std::min(*part, more);
    }
    return first;
  }
};

enum class FinishReason : uint8_t { kStop, kLength, kCancelled, kFailed };

struct Usage {
  int32_t prompt_tokens = 0;  // the whole input: template, start token and reused tokens included
  int32_t completion_tokens = 0;
  int32_t reused_tokens = 0;    // of the prompt, from cached pages or records
  ReusedFrom reused_from = {};  // the same
  int32_t computed_tokens = 0;  // forward passes of tokens: prompt, answer, guesses, and again
                                // after a preemption
  ReuseLimit reuse_limit = ReuseLimit::kNothing;
  int32_t preemptions = 0;      // times its pages were taken away for others
  int32_t drafted_tokens = 0;   // guessed ahead
  int32_t accepted_tokens = 0;  // guessed right
  double queue_seconds = 0;
  double prefill_seconds = 0;
  double decode_seconds = 0;
};

struct Finish {
  FinishReason reason = FinishReason::kStop;
  /// Set when kFailed: what went wrong, naming rank and host where it was one.
  absl::Status status = {};
  bool engine_died = false;  // with kFailed: all of the engine's requests end so
  Usage usage = {};
  /// Only of durable requests: all records are where they survive the processes. False if they did
  /// not get there in time, or if the request was cancelled or failed.
  bool saved = false;
};

struct EngineNotice {
  uint64_t number = 0;  // from 1, ascending; the same for all requests that hear of the same thing
  std::string text;
};

/// Receives what a request produces, in order, from the engine's own thread; must return quickly
/// and not call the engine.
struct EngineSink {
  /// The request left the queue: what comes of it is computed from now on. Once, or never where it
  /// ends before.
  std::function<void()> on_admitted = nullptr;
  std::function<void(std::span<const int32_t> tokens)> on_tokens;
  /// logits: [vocab] of prompt position `position`, ascending. Only with want_prompt_logits.
  std::function<void(int64_t position, std::span<const float> logits)> on_logits;
  /// Of the tokens from `position` on, ascending. Comes before on_tokens for the same answer
  /// tokens. Only with logprobs.
  std::function<void(int64_t position, std::span<const TokenLogprobs> logprobs)> on_logprobs =
      nullptr;
  /// Something that whoever waits should know; the answer goes on.
  std::function<void(const EngineNotice& notice)> on_notice = nullptr;
  std::function<void(const Finish& finish)> on_finish;  // exactly once, last
};

using RequestId = uint64_t;

struct RankStatus {
  int rank = 0;
  std::string host;
  int64_t weight_bytes = 0;
  bool weights_mapped = false;  // at its start they were there, packed; else it read the model
  std::string device;
  /// In reductions over the ranks, the wait for the slowest included; not those that devices do
  /// among themselves.
  uint64_t reduce_nanoseconds = 0;
};

/// The host tier of the rank whose blocks are largest: the pages of preempted requests. Without
/// one, nothing but zeros.
struct HostTierStatus {
  int64_t bytes_limit = 0;
  int64_t bytes = 0;            // now
  uint64_t spilled = 0;         // requests whose pages were copied there
  uint64_t spilled_bytes = 0;   // the same
  uint64_t returned = 0;        // requests whose pages came back
  uint64_t returned_bytes = 0;  // the same
  bool operator==(const HostTierStatus&) const = default;
};

/// How often ranks were started again, where they are (RecoveringEngine). Else nothing but zeros.
struct RecoveryStatus {
  struct Restart {
    uint64_t epoch = 0;       // that began
    std::string reason = {};  // why the one before had ended
    double seconds = 0;       // from its end until requests went on
  };
  bool supervised = false;
  uint64_t epoch = 0;              // the life of the rank job that runs now, or ran last
  bool down = false;               // no ranks are there now; then `reason` says why
  double down_seconds = 0;         // for so long
  std::string reason = {};         // of the last end
  uint64_t restarts = 0;           // that came to their end
  double lost_seconds = 0;         // in all of them
  std::vector<Restart> last = {};  // the newest ones, oldest first
};

struct EngineStatus {
  std::vector<RankStatus> ranks;
  RecoveryStatus recovery = {};  // known to whoever starts ranks; does not travel from them
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t context = 0;  // tokens of a request: prompt and answer, as its KV has room
  int64_t blocks_total = 0;
  int64_t blocks_used = 0;      // by running requests
  int64_t blocks_cached = 0;    // besides: kept for whoever comes with the same prefix
  uint64_t prompt_tokens = 0;   // of all requests that ran, and
  uint64_t reused_tokens = 0;   // those of them that came from cached pages or records
  ReusedFrom reused_from = {};  // the same
  bool keeps_records = false;   // all ranks have a tier
  RecordCounts records = {};    // of all ranks, as far as they have told
  uint64_t late_fetches = 0;    // fetches that were given up
  uint64_t not_durable = 0;     // durable requests that ended without
  uint64_t preemptions = 0;
  HostTierStatus host_tier = {};
  uint64_t drafted_tokens = 0;
  uint64_t accepted_tokens = 0;
  uint64_t steps = 0;
  uint64_t tokens_generated = 0;
  uint64_t tokens_prefilled = 0;
  double tokens_per_second = 0;  // generated, over the last ten seconds
};

/// The ranks after a change of their number.
struct EngineScale {
  int ranks = 0;
  uint64_t epoch = 0;
  double seconds = 0;  // that it took
};

/// The engine as the frontend sees it: the coordinator of this process, or one reached over ZeroMQ.
/// Nobody above knows which. Thread safety: all methods may be called from any thread.
class Engine {
 public:
  virtual ~Engine() = default;

  /// Takes a request; the sink is called from now on. kInvalidArgument (bad token, empty prompt),
  /// kOutOfRange (longer than the context), kResourceExhausted (queue full), kUnavailable (the
  /// engine is dead, saying which rank and host).
  virtual absl::StatusOr<RequestId> Submit(EngineRequest request, EngineSink sink) = 0;

  /// Ends a request within a step; its sink gets on_finish with kCancelled. Unknown or ended ids
  /// are ignored.
  virtual void Cancel(RequestId id) = 0;

  virtual absl::StatusOr<EngineStatus> Status() = 0;

  /// OK while the engine can answer; otherwise why not. The first error sticks, but kUnknown: the
  /// engine is gone, and either the reason replaces this status, or the engine comes back. So long
  /// nobody's requests fail.
  virtual absl::Status Health() = 0;

  using ScaleDone = std::function<void(const absl::StatusOr<EngineScale>& scale)>;
  /// Changes the number of ranks while requests go on. `done` is called once, perhaps at once, by
  /// whichever thread. kInvalidArgument: the model cannot be cut so; kResourceExhausted: another
  /// change is under way; kUnavailable: this engine's ranks cannot change, or the new ones did not
  /// start, and the old ones go on.
  virtual void Scale(int /*ranks*/, const ScaleDone& done) {
    done(
        Unavailable("the number of ranks cannot change here: start the server with tandem serve "
                    "-n N --elastic"));
  }
};

}  // namespace tandem::parallel
