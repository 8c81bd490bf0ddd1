#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "core/base/phase_times.h"
#include "core/base/status.h"
#include "core/model/kv_view.h"
#include "core/model/model.h"
#include "kv_store/pages/page_pool.h"
#include "parallel/communicators/communicator.h"
#include "parallel/communicators/watchdog.h"
#include "parallel/control/zmq_control.h"
#include "parallel/engine/engine.h"
#include "parallel/rank/rank_records.h"
#include "parallel/rank/rank_runner.h"
#include "parallel/rank/record_options.h"
#include "parallel/rank/spilled_pages.h"
#include "parallel/schedule/scheduler.h"

namespace tandem::parallel {

/// Once a collective is stalled, rank 0 and who started it have this long to find out which rank is
/// to blame, to tell the clients and to end the job.
inline constexpr std::chrono::seconds kStallGrace{12};

/// Choices of whoever starts the ranks; the same on all of them (checked).
struct RankOptions {
  int32_t max_running = 64;     // requests in progress at once
  int32_t max_waiting = 256;    // requests in the queue
  int32_t prefill_chunk = 512;  // prompt tokens a step
  int64_t kv_memory = 0;        // bytes of KV cache a rank; 0: chosen by free memory
  /// Bytes of a rank's host tier, where the pages of preempted requests are kept; 0: there is none.
  /// Without a value: none where the pool is in host memory itself; else a quarter of the pool, 2
  /// GiB and an eighth of what is free on the host, divided among its ranks, at most.
  std::optional<int64_t> spill_memory;
  int memory_sharers = 0;      // ranks that share this one's memory; 0: all of its host
  double memory_share = 0.25;  // of what is free, that their caches may take in all
  int64_t memory_kept = 0;     // bytes of it that each of them needs otherwise
  /// Tokens of a sequence for which max_running of them should fit into the cache, as far as memory
  /// allows; 0: the model's context, or 8192 where that is longer.
  int32_t kv_sequence_tokens = 0;
  core::KvDtype kv_dtype = core::KvDtype::kF16;
  bool speculate = false;                // draft, where requests let us
  uint64_t epoch = 0;                    // number of this life of the rank job
  std::string device = "cpu";            // for status
  bool weights_mapped = false;           // likewise
  bool spare_streams = true;             // CoordinatorOptions
  std::function<void()> on_step_thread;  // called by the thread that runs the steps, first
  std::function<void()> on_set_up;       // called once this rank has all that it needs for steps
  ZmqControlOptions control;             // where plans travel, with more than one rank
  RecordOptions records = {};            // where KV outlives the ranks; the tier is each rank's own
  /// Where this rank keeps the time of each phase, or null; must outlive the rank's part.
  core::PhaseClock* phases = nullptr;
  /// What watches this rank's collectives, or null; must outlive the rank's part. It tells the
  /// control channel first, so that clients hear which rank is to blame before the job ends.
  Watchdog* watchdog = nullptr;
};

/// What a rank needs to execute plans, and what all ranks told each other at the start.
struct RankSetup {
  SchedulerOptions scheduler;
  std::vector<RankStatus> ranks;
  std::unique_ptr<kv_store::PagePool> pool;
  std::unique_ptr<PageTraffic> traffic;
  std::unique_ptr<RankRecords> records;   // null: some rank has no tier
  std::unique_ptr<SpilledPages> spilled;  // null: there is no host tier
  std::unique_ptr<RankRunner> runner;
};

/// Sizes and allocates the KV pool, the smallest any rank can hold, and makes the runner. Called by
/// all ranks together; an error of one is an error of all and names it.
absl::StatusOr<RankSetup> SetUpRank(const RankOptions& options, Communicator& world,
                                    core::Model& model);

}  // namespace tandem::parallel
