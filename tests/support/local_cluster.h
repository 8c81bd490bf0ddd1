#pragma once

#include <functional>
#include <memory>
#include <thread>
#include <vector>

#include "core/model/model.h"
#include "parallel/communicators/communicator.h"
#include "parallel/communicators/thread_communicator.h"
#include "parallel/coordinator/run_rank.h"

namespace tandem::testing {

/// An engine whose ranks are threads of this process.
class LocalCluster {
 public:
  struct Options {
    int ranks = 1;
    parallel::RankOptions rank;
    parallel::ThreadWorldOptions world;
    std::vector<core::PhaseClock*> phases;  // [ranks]; empty: none
    bool zmq = false;                       // plans travel over ZeroMQ instead of a queue
    /// Makes a rank's model; called on the rank's thread.
    std::function<std::unique_ptr<core::Model>(int rank)> model;
    /// Joins the devices of all ranks; called on the threads of all of them. Null: they are not.
    std::function<std::unique_ptr<parallel::Communicator>(parallel::Communicator& world,
                                                          core::Model& model)>
        link;
  };

  /// Starts all ranks; the first error is the status.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(Options options);
  /// Stops the engine and joins the followers.
  ~LocalCluster();

  parallel::Coordinator& engine() { return *engine_; }
  /// Stops the engine; what each follower returned. [ranks - 1]
  std::vector<absl::Status> Stop();

 private:
  LocalCluster() = default;

  std::vector<std::unique_ptr<parallel::Communicator>> worlds_;
  std::vector<std::unique_ptr<core::Model>> models_;
  std::vector<std::unique_ptr<parallel::Communicator>> linked_;
  std::vector<absl::Status> statuses_;  // [ranks]
  std::vector<std::thread> followers_;
  std::unique_ptr<parallel::Coordinator> engine_;
};

}  // namespace tandem::testing
