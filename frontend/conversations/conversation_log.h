#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "frontend/conversations/conversation_delta.h"
#include "kv_store/base/block_hash.h"

namespace tandem::frontend {

/// How things stand with what outlives the process.
struct ConversationLogStatus {
  std::string directory;
  bool encrypted = false;
  int64_t conversations = 0;        // on disk
  int64_t unreadable = 0;           // on disk, and of a newer program, or not even to be told apart
  int64_t damaged = 0;              // turns of them are lost, and nobody has asked for them by name
  int64_t unwritten_changes = 0;    // in memory only, until there is room
  int64_t unfinished_erasures = 0;  // deleted or left behind, with bytes that are still there
  struct Copied {
    std::string host;              // that keeps the copy; empty: none does now
    int64_t uncopied_changes = 0;  // that are on disk here only
  };
  std::optional<Copied> copied = std::nullopt;  // nothing: no copy is asked for
  std::string damage;   // found at the start, or done to the files since; empty: nothing
  std::string trouble;  // why changes do not reach the disk; empty: they do
};

/// Where conversations go to outlive the process. Thread safety: all functions from any thread;
/// changes happen in the order of the calls.
class ConversationLog {
 public:
  /// Told once, from a thread of the log; must return quickly.
  using Done = std::function<void(absl::Status)>;

  virtual ~ConversationLog() = default;

  /// A turn of a conversation, which begins with it where it is not there or is damaged.
  /// `left_behind`: blocks whose KV nobody needs from this turn on, as in EraseKv. Done is told OK
  /// once the turn outlives a kill -9 and a loss of power; otherwise why it does not yet. What was
  /// not written is kept and tried again.
  virtual void Append(const ConversationName& name, ConversationDelta delta,
                      std::vector<kv_store::BlockHash> left_behind, Done done) = 0;
  /// Destroys the KV of these blocks. Nobody waits for it; it is tried until it is done, by the
  /// next process if need be.
  virtual void EraseKv(std::vector<kv_store::BlockHash> blocks) = 0;
  /// Destroys a conversation, and the KV of these blocks. Done is told OK once no file holds any of
  /// it; otherwise why some still do. That too is tried again, by the next process if need be.
  virtual void Erase(const ConversationName& name, std::vector<kv_store::BlockHash> blocks,
                     Done done) = 0;

  /// kFailedPrecondition if there is a conversation of that name that a newer program has written,
  /// saying what to do: nothing may be appended to it before it is erased.
  virtual absl::Status CheckReadable(const ConversationName& name) = 0;
  /// What is kept of a damaged conversation whose name could not be read; nothing if there is none
  /// of that name, or somebody has taken it before.
  virtual std::optional<Conversation> TakeDamaged(const ConversationName& name) = 0;

  virtual ConversationLogStatus Status() = 0;
};

}  // namespace tandem::frontend
