#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "core/base/status.h"
#include "kv_store/pages/page_pool.h"
#include "parallel/plan/record_report.h"
#include "parallel/plan/step_plan.h"
#include "parallel/rank/job_thread.h"
#include "parallel/rank/page_traffic.h"

namespace tandem::parallel {

/// A rank's host tier: the pages of preempted sequences, in host memory that its device copies to
/// and from while steps go on. The coordinator says which block lies where.
/// Thread safety: one thread executes plans; the function given to Listen is called from another.
class SpilledPages {
 public:
  /// blocks: [layer groups] of the host tier. Pool and traffic must outlive it. kResourceExhausted
  /// if the memory cannot be had.
  static absl::StatusOr<std::unique_ptr<SpilledPages>> Create(const kv_store::PagePool& pool,
                                                              const std::vector<int64_t>& blocks,
                                                              PageTraffic& traffic);
  ~SpilledPages();

  /// Who hears of pages that have come back. Called once, before the first plan.
  void Listen(std::function<void(const RecordReport&)> on_report) {
    on_report_ = std::move(on_report);
  }

  /// Begin the copies; they come after those that began before. Errors: those of the device.
  absl::Status Spill(const PageSpill& spill);
  absl::Status Return(const PageReturn& back);

 private:
  SpilledPages(const kv_store::PagePool& pool, kv_store::PagePool host, PageTraffic& traffic)
      : pool_(pool), host_(std::move(host)), traffic_(traffic) {}
  /// Copies that were begun, with their blocks.
  struct Begun {
    std::vector<SpilledBlock> blocks;
    std::vector<std::shared_ptr<core::DeviceCopy>> copies;  // [blocks]
  };
  absl::StatusOr<std::shared_ptr<Begun>> Begin(core::CopyDirection direction,
                                               std::vector<SpilledBlock> blocks);
  /// Waits for copies; false where the device failed, which steps then hear.
  bool Finish(const Begun& begun);

  const kv_store::PagePool& pool_;
  const kv_store::PagePool host_;
  PageTraffic& traffic_;
  std::atomic<bool> silent_ = false;
  std::function<void(const RecordReport&)> on_report_;
  JobThread spills_;
  JobThread returns_;
};

}  // namespace tandem::parallel
