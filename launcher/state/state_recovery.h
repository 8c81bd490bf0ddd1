#pragma once

#include <optional>
#include <string>

#include "core/base/status.h"
#include "frontend/conversations/conversation_store.h"
#include "kv_store/agent_link/copy_keeper.h"

/// Which conversations a state directory goes on with, where other hosts may have copies of them,
/// or may have gone on with a copy. Nothing is ever overwritten: what is not gone on with is put
/// aside.
namespace tandem::launcher {

/// `--recover`.
struct RecoverChoice {
  bool own = false;                        // what the directory has, or nothing
  std::optional<kv_store::StateId> state;  // these conversations
  std::string host;                        // from the copy on this host; empty: the best one
  bool none() const { return !own && !state; }
};
/// Of "", "own", "ID" or "ID@HOST". kInvalidArgument.
absl::StatusOr<RecoverChoice> ParseRecoverChoice(const std::string& text);

/// Makes `folder` (DIR/conversations), which is not there, of a copy that a host keeps: that which
/// was chosen, or the only one that there is. Whether there was one. kFailedPrecondition, saying
/// what to choose from, if it is not clear which, or if its server still writes to it.
absl::StatusOr<bool> AdoptCopy(const kv_store::CopyKeeper::Ask& ask, const RecoverChoice& choice,
                               const std::string& folder);

/// kFailedPrecondition, saying what to do, if a copy has what this store has not: somebody went on
/// with it. overrule: it was chosen to go on with the store; then such copies are put aside.
absl::Status CheckNobodyWentOn(const kv_store::CopyKeeper& keeper, bool overrule,
                               frontend::ConversationStore& store);

/// Takes what the store has lost from the copy that has most of it, if there is one that nobody
/// else went on with; brings `found` up to date.
absl::Status TakeFromCopies(const kv_store::CopyKeeper& keeper, frontend::ConversationStore& store,
                            frontend::FoundConversations& found);

/// Whether another state was chosen than that of the store, or a copy that has more.
absl::StatusOr<bool> ChoseAnother(const kv_store::CopyKeeper& keeper, const RecoverChoice& choice,
                                  const kv_store::JournalPosition& own);

}  // namespace tandem::launcher
