#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "kv_store/base/block_hash.h"
#include "kv_store/records/tier.h"
#include "parallel/engine/engine.h"
#include "parallel/plan/step_plan.h"

namespace tandem::parallel {

/// What is being done to bring back the saved pages of a request in the queue.
struct Restore {
  enum class State : uint8_t {
    kUndecided,  // nothing yet
    kProbing,    // rank 0's tier is asked what there is
    kBehind,     // another request fetches the same
    kFetching,   // the ranks get the records
    kReady,      // they have them
    kOver,       // nothing is waited for
  };
  State state = State::kUndecided;
  FetchId fetch = 0;                     // of kProbing, kFetching and kReady
  kv_store::BlockHash first{};           // of kProbing and kFetching: of the first block looked for
  std::optional<int32_t> most;           // tokens; what is behind them turned out to be missing
  int32_t again = 0;                     // how often that has happened
  int32_t first_block = 0;               // of the sequence, that is the fetch's first
  std::vector<FetchBlock> blocks;        // of kFetching; of kReady: those that all ranks have
  std::vector<kv_store::TierKind> from;  // of kReady [blocks]
  int64_t bytes = 0;                     // of the fetch, on the largest rank
  std::optional<ReuseLimit> limit;       // why it was not more

  bool looking() const { return state == State::kProbing || state == State::kFetching; }
};

/// The pages of a preempted request in the ranks' host tier.
struct SpilledSequence {
  int32_t tokens = 0;                            // whose pages these are; 0: none
  std::vector<std::vector<core::BlockId>> host;  // [layer groups][blocks], kNoBlock: not needed
};

}  // namespace tandem::parallel
