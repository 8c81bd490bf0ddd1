#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <map>
#include <optional>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <vector>

#include "parallel/engine/engine.h"
#include "parallel/engine/fair_share.h"
#include "parallel/schedule/restore.h"

namespace tandem::parallel {

/// What of a request stays the same wherever it is, in the queue or running.
struct RequestState {
  RequestId id = 0;
  EngineRequest request;
  int32_t limit = 0;            // answer tokens that fit
  std::vector<int32_t> tokens;  // the prompt, and the answer so far
  int32_t logits_given = 0;     // prompt positions whose logits were delivered or scored
  int32_t charged = 0;          // prompt positions that its client has been charged for
  int32_t preemptions = 0;      // so far

  int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
  int32_t token_count() const { return static_cast<int32_t>(tokens.size()); }
  /// Logits are not kept: whoever wants those of the prompt must compute it.
  bool wants_cached_pages() const {
    return request.reuse && !request.want_prompt_logits && !request.prompt_logprobs;
  }
  bool wants_prompt_rows() const { return request.want_prompt_logits || request.prompt_logprobs; }
  /// Whether the logits of a position are wanted, and were not delivered or scored before.
  bool wants_row(int32_t position) const {
    return wants_prompt_rows() && position >= next_row() && position < prompt_tokens();
  }
  /// The first position from which on that is so.
  int32_t next_row() const {
    const int32_t first = request.want_prompt_logits ? 0 : request.first_prompt_logprob - 1;
    return std::max(logits_given, first);
  }
  int32_t answered() const { return token_count() - prompt_tokens(); }
};

/// A request in the queue.
struct WaitingRequest {
  RequestState state;
  /// It waits until this running sequence has computed the beginning that both share.
  std::optional<RequestId> leader;
  int32_t leader_until = 0;   // where it has computed that
  int32_t leader_tokens = 0;  // that the leader had computed when it was last looked at
  int32_t leader_stalls = 0;  // steps since then in which it had not moved
  uint64_t leader_step = 0;   // the step when it was last looked at
  bool gave_up = false;       // no leader is waited for any more
  Restore restore;
  SpilledSequence spilled;
};

/// Tokens of prompts by client.
using TokensOfClients = std::unordered_map<uint64_t, int64_t>;

/// The requests that wait. Their order: higher priority, those that were running already, those
/// whose client would have had least with their prompts (FairShare), first come. The requests of
/// one client and priority stay in order. Thread safety: none.
class RequestQueue {
 public:
  void Add(WaitingRequest request);
  /// Takes it out; nothing if it is not here.
  std::optional<WaitingRequest> Take(RequestId id);

  /// All of them in the order of the moment when this was made. Valid until the next Add or Take.
  class Order {
   public:
    /// Null after the last.
    WaitingRequest* Next();

   private:
    friend class RequestQueue;
    using Key = std::tuple<int32_t, bool, double, RequestId>;
    std::vector<std::pair<Key, WaitingRequest*>> heap_;  // the least on top
  };
  /// `ahead`: what of running prompts is not computed yet.
  Order InOrder(const FairShare& turns, const TokensOfClients& ahead);
  /// Of the next one; there must be one.
  int32_t highest_priority() const { return priorities_.rbegin()->first; }

  /// Null if it is not here.
  WaitingRequest* Find(RequestId id);
  /// All of them, in no order.
  template <typename Visit>
  void ForEach(const Visit& visit) {
    for (auto& [id, waiting] : waiting_) visit(waiting);
  }

  size_t size() const { return waiting_.size(); }
  bool empty() const { return waiting_.empty(); }

 private:
  std::map<RequestId, WaitingRequest> waiting_;
  std::map<int32_t, size_t> priorities_;  // how many have each
};

}  // namespace tandem::parallel
