#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/base/status.h"
#include "core/model/collective.h"
#include "parallel/communicators/host_collective.h"
#include "parallel/communicators/progress_board.h"

namespace tandem::parallel {

/// The world of ranks: what a forward pass asks of it (core::Collective) and what startup needs.
///
/// The rules of core::Collective hold for all operations: every rank calls the same ones in the
/// same order, from one thread at a time, and the first error sticks. Implementations: one rank,
/// threads of a process, MPI.
class Communicator : public core::Collective {
 public:
  /// Host name of every rank. [size()]
  virtual const std::vector<std::string>& hosts() const = 0;

  /// Returns when all ranks have called it.
  virtual absl::Status Barrier() = 0;

  /// Rank 0's bytes into everyone's `bytes`; the same size on all ranks.
  virtual absl::Status Broadcast(std::span<std::byte> bytes) = 0;

  /// Ends the world because of `why`: nobody waits for this rank any more. Ranks that are threads
  /// return from their calls with an error that names this rank; MPI ends all processes of the job.
  /// May be called from any thread, also while another one is in a call (a watchdog's).
  virtual void Abort(const absl::Status& why) = 0;

  /// How long ranks poll in a collective before they sleep, where they can sleep at all (MPI and
  /// the network always poll). All ranks call it together, on the processors where they stay: how
  /// they meet best is measured here too.
  virtual absl::Status SetPatience(const CollectivePatience& patience) {
    static_cast<void>(patience);
    return absl::OkStatus();
  }

  /// From now on this rank's collectives are published on `board`, which must outlive the
  /// communicator or be taken away with null. Called by the rank's own thread.
  virtual void PublishTo(ProgressBoard* board);

  /// The start of this rank is over: from now on collectives hurry. All ranks call it at the same
  /// place in the order of collectives.
  virtual void FinishStart() {}

  const std::string& host() const { return hosts()[static_cast<size_t>(rank())]; }
  /// This rank's number among the ranks of its host, from 0.
  int local_rank() const;
  /// Ranks of this host.
  int local_size() const;

 protected:
  ProgressBoard* board() const { return board_; }

 private:
  ProgressBoard* board_ = nullptr;
};

/// Rank 0's string on every rank; the others' is replaced, whatever its size.
absl::Status BroadcastString(Communicator& world, std::string& text);

/// "rank 3 on host n2", for messages.
std::string RankOnHost(const Communicator& world, int rank);

/// A phase of a step in words, for messages: "step 12, layer 3, attention".
std::string PhaseText(const core::StepPhase& phase);

}  // namespace tandem::parallel
