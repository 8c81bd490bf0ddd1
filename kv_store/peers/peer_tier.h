#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <optional>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "kv_store/agent_link/agent_codec.h"
#include "kv_store/peers/peer_calls.h"
#include "kv_store/records/tier.h"

namespace tandem::kv_store {

struct PeerTierOptions {
  std::chrono::milliseconds exists_deadline{500};    // of Where and Use; late means miss
  std::chrono::milliseconds deadline{1500};          // of Get and Put
  std::chrono::milliseconds flush_deadline{10'000};  // of Flush and Erase
  int64_t batch_bytes = int64_t{16} << 20;           // of records in one request, about
  /// Where the file of a peer lies by which it is known (PeerRegistry); told by errors of Erase.
  std::string registry_folder;
  PeerCallsOptions calls;
};

/// What the agents of other hosts keep.
///
/// Get and Where ask all of them at the same time; of those that have a record, the one that comes
/// first by rendezvous hash is asked for it, then the next. Put gives each block to one peer, of
/// those that keep copies and are up the first by rendezvous hash of the block (Thaler &
/// Ravishankar 1998), so that a host that comes or goes moves only its own share; with none that
/// keeps copies it does nothing. Flush asks those that were given something. Erase reaches
/// everybody or says whom not. Peers serve from what they have themselves, so no request is ever
/// passed on. Thread safety: as Tier.
class PeerTier : public Tier {
 public:
  struct Member {
    AgentPeer peer;
    bool keeps_copies = false;
    bool in_job = false;
  };

  PeerTier(CurveKeys keys, const PeerTierOptions& options);

  void SetPeers(const std::vector<Member>& members);
  bool knows_any() const { return known_ > 0; }
  /// Whether somebody keeps copies of what is put, if he is up.
  bool keeps_copies() const { return copying_ > 0; }
  /// Waits until these hosts can be asked, `patience` at most; whether they can.
  bool Await(const std::vector<std::string>& hosts, std::chrono::milliseconds patience);
  /// For what else is asked of them.
  PeerCalls& calls() { return calls_; }
  /// Hosts of the job that can be asked.
  std::vector<std::string> UpInJob() const;
  /// Asks all to erase something. kUnavailable, naming one, if not all have done it; `what`: as the
  /// error calls it.
  absl::Status EraseOnAll(const AgentMessage& message, std::string_view what,
                          PeerCalls::Clock::time_point deadline);

  /// kUnavailable, naming them, if none of those that keep copies is up.
  absl::Status Put(std::span<const TierRecord> records) override;
  std::vector<std::optional<FoundRecord>> Get(std::span<const RecordKey> keys) override;
  std::vector<std::optional<TierKind>> Where(std::span<const RecordKey> keys) override;
  /// Told to those that keep copies.
  void Use(std::span<const RecordKey> keys) override;
  absl::Status Flush() override;
  absl::Status Erase(std::span<const BlockHash> blocks) override;
  /// Sums over the peers that answer; hits, misses and refusals are what this host saw.
  TierStats Stats() override;
  /// What this host saw, without asking anybody.
  TierStats Counts() const;

 private:
  using Clock = PeerCalls::Clock;
  using PeerPointer = PeerCalls::PeerPointer;

  std::vector<PeerPointer> Up() const;
  std::vector<PeerPointer> Copying() const;
  /// Gives what `pending` names of the records to peers that keep copies; leaves those that were
  /// given to nobody.
  absl::Status PutRound(std::span<const TierRecord> records, std::vector<size_t>& pending,
                        Clock::time_point deadline);
  /// [keys][those that may have it, in the order in which they are to be asked]
  std::vector<std::vector<PeerPointer>> Holders(std::span<const RecordKey> keys,
                                                Clock::time_point deadline);

  const PeerTierOptions options_;
  PeerCalls calls_;
  std::atomic<size_t> known_ = 0;
  std::atomic<size_t> copying_ = 0;
  std::atomic<uint64_t> hits_ = 0;
  std::atomic<uint64_t> misses_ = 0;
  std::atomic<uint64_t> refused_ = 0;

  mutable Mutex mutex_;
  std::set<std::string> copy_hosts_ ABSL_GUARDED_BY(mutex_);  // that keep copies
  std::set<std::string> job_hosts_ ABSL_GUARDED_BY(mutex_);
  // Hosts that were given something since the last Flush.
  std::set<std::string> dirty_hosts_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tandem::kv_store
