#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

#include "parallel/client_turns.h"
#include "parallel/engine.h"

namespace tandem::parallel {

/// What of a request stays the same wherever it is, in the queue or running.
struct RequestState {
  RequestId id = 0;
  EngineRequest request;
  int32_t limit = 0;            // answer tokens that fit
  std::vector<int32_t> tokens;  // the prompt, and the answer so far
  int32_t logits_given = 0;     // prompt positions whose logits were delivered
  int32_t preemptions = 0;      // so far

  int32_t prompt_tokens() const { return static_cast<int32_t>(request.prompt.size()); }
  int32_t token_count() const { return static_cast<int32_t>(tokens.size()); }
  int32_t answered() const { return token_count() - prompt_tokens(); }
};

/// A request in the queue.
struct WaitingRequest {
  RequestState state;
  /// It waits until this running sequence has computed the beginning that both share.
  std::optional<RequestId> leader;
  int32_t leader_until = 0;   // where it has computed that
  int32_t leader_tokens = 0;  // that the leader had computed when it was last looked at
  int32_t leader_stalls = 0;  // how often in a row it had not moved since
  bool gave_up = false;       // no leader is waited for any more
};

/// The requests that wait. Their order: higher priority, those that were running already, clients
/// that have been served less (ClientTurns), first come. Thread safety: none.
class RequestQueue {
 public:
  void Add(WaitingRequest request);
  /// Takes it out; nothing if it is not here.
  std::optional<WaitingRequest> Take(RequestId id);
  /// All of them, the next one first. Pointers are good until the next Add or Take.
  std::vector<WaitingRequest*> InOrder(const ClientTurns& turns);

  size_t size() const { return waiting_.size(); }
  bool empty() const { return waiting_.empty(); }

 private:
  std::map<RequestId, WaitingRequest> waiting_;
};

}  // namespace tandem::parallel
