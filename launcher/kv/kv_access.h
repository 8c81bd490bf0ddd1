#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "core/base/status.h"
#include "frontend/conversations/conversation_store.h"
#include "kv_store/agent/agent_server.h"
#include "kv_store/base/encrypted_box.h"
#include "kv_store/records/stored_names.h"
#include "kv_store/records/tier.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// The KV that a state directory keeps on this host, for the commands of `tandem kv`.
///
/// Where an agent runs, everything goes through it. Where none does, this process is the agent as
/// long as this object lives: it keeps others out and serves who comes meanwhile. Not an agent of
/// its own process, which would keep the flags of this command for a server that begins later; and
/// without limits, so that looking never makes room. Thread safety: none.
class KvAccess {
 public:
  enum class Purpose {
    kLook,
    kMend,  // a database that is damaged as a whole is begun anew
    kPut,   // what is not there is made
  };
  /// kInvalidArgument for a wrong directory or key file; kNotFound where no KV is kept for this
  /// host; kFailedPrecondition where it was made with another key; kDataLoss where the database is
  /// damaged as a whole; else what the agent says.
  static absl::StatusOr<std::unique_ptr<KvAccess>> Open(const StateOptions& state, Purpose purpose);
  ~KvAccess();
  KvAccess(const KvAccess&) = delete;
  KvAccess& operator=(const KvAccess&) = delete;

  /// What is kept, under its stored names.
  kv_store::ListableTier& tier() { return *tier_; }
  const kv_store::StoredNames& names() const { return names_; }
  const kv_store::EncryptedBox* box() const { return box_.get(); }
  const std::string& path() const { return path_; }  // of this host's KV
  /// Those of the directory, without what cannot be read; also while a server has them.
  const frontend::FoundConversations& conversations() const { return conversations_; }
  /// Hosts that keep KV in the same directory, or whose agents this host's knows.
  const std::vector<std::string>& other_hosts() const { return other_hosts_; }
  /// Why a damaged database was begun anew; empty: it was not.
  const std::string& began_anew() const { return began_anew_; }
  /// Whether others may be changing what is kept.
  bool shared() const { return server_ == nullptr; }
  /// kUnavailable if the agent went away meanwhile.
  absl::Status CheckAlive();

 private:
  KvAccess(std::unique_ptr<kv_store::EncryptedBox> box, std::string path)
      : box_(std::move(box)), names_(box_.get()), path_(std::move(path)) {}

  absl::Status ReadConversations(const StateOptions& state);
  absl::Status FindOtherHosts(Purpose purpose);
  absl::Status Reach(Purpose purpose);
  absl::Status OpenAlone(kv_store::AgentDirectory directory, Purpose purpose);
  absl::Status CheckKey();

  const std::unique_ptr<kv_store::EncryptedBox> box_;
  const kv_store::StoredNames names_;
  const std::string path_;
  frontend::FoundConversations conversations_;
  std::vector<std::string> other_hosts_;
  std::string began_anew_;
  std::unique_ptr<kv_store::ListableTier> tier_;
  std::unique_ptr<kv_store::AgentServer> server_;  // while this process is the agent
};

}  // namespace tandem::launcher
