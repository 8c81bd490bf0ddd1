#pragma once

#include <chrono>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/journal/journal.h"
#include "kv_store/journal/journal_copies.h"

namespace tandem::kv_store {

/// The copies of a state's conversations on this host and others, as the server that writes them
/// sees them: through the agent of its host. Thread safety: that of `ask`.
class CopyKeeper {
 public:
  /// Asks the agent of this host, and waits for its answer for so long.
  using Ask = std::function<absl::StatusOr<AgentMessage>(AgentMessage, std::chrono::milliseconds)>;

  CopyKeeper(const StateId& state, Ask ask) : state_(state), ask_(std::move(ask)) {}

  const StateId& state() const { return state_; }

  /// patient: hosts that do not answer yet are waited for, for a second.
  absl::StatusOr<AgentCopies> Find(bool patient) const;
  /// Where the copy on that host is then: JournalCopies::Append.
  absl::StatusOr<JournalPosition> Append(const std::string& host,
                                         std::vector<JournalEntry> entries) const;
  /// JournalCopies::Take.
  absl::Status Give(const std::string& host, JournalPart part) const;
  /// All records of the copy on that host, with where it is. kAborted if it moves on meanwhile.
  absl::StatusOr<JournalPage> ReadAll(const std::string& host) const;
  /// JournalCopies::Erase on all hosts. kUnavailable, naming one, if not all have done it.
  absl::Status Erase(const JournalPosition& at, std::span<const PlaceRange> ranges) const;
  /// A fence in place of the copy on that host. overwrite: JournalPart.
  absl::Status FenceOff(const std::string& host, const JournalPosition& at, bool overwrite) const;
  /// JournalCopies::Fence on this host.
  absl::Status Fence(const JournalPosition& at) const;

 private:
  StateId state_;
  Ask ask_;
};

}  // namespace tandem::kv_store
