#pragma once

#include <atomic>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"
#include "core/model/shard.h"
#include "kv_store/base/buffer_pool.h"
#include "kv_store/pages/page_pool.h"
#include "parallel/plan/record_probe.h"
#include "parallel/plan/record_report.h"
#include "parallel/plan/step_plan.h"
#include "parallel/rank/job_thread.h"
#include "parallel/rank/page_staging.h"
#include "parallel/rank/page_traffic.h"
#include "parallel/rank/record_options.h"
#include "parallel/rank/record_reader.h"
#include "parallel/rank/record_writer.h"

namespace tandem::parallel {

/// What a rank does with the parts of a plan that save its pages and bring them back.
///
/// The step only begins copies of pages to host memory; a thread makes records of them, and another
/// one puts these into the tier. Where the device computes while copies go on, pages are filled
/// from records by a thread, too; else in the step, which then has the cores to itself. Thread
/// safety: one thread executes plans; the functions given to Listen are called from others.
class RankRecords {
 public:
  struct Options {
    RecordOptions records;  // with a tier
    int32_t rank = 0;
    core::Range kv_heads;     // of the model, that the rank holds
    core::Range records_own;  // those of them that it records (RecordedKvHeads)
  };

  /// Pool and traffic must outlive it. kResourceExhausted if there is no host memory for pages on
  /// their way.
  static absl::StatusOr<std::unique_ptr<RankRecords>> Create(const Options& options,
                                                             const kv_store::PagePool& pool,
                                                             PageTraffic& traffic);
  ~RankRecords();

  /// Starts the threads. Called once, before the first plan. What was under way when it is
  /// destroyed is put; what it would report then is lost.
  void Listen(std::function<void(const RecordReport&)> on_report,
              std::function<void(FetchId probe, SavedTokens saved)> on_probed);

  /// Calls a function for every task in [0, tasks), on several threads or one.
  using ParallelFor =
      absl::FunctionRef<void(int64_t tasks, absl::FunctionRef<void(int64_t task)> body)>;
  /// The saves of a plan and its flush mark. Errors: those of the device.
  absl::Status Save(const StepPlan& plan);
  /// Whether so many saves may have to wait for copies of pages.
  bool SavesMayWait(size_t saves) const { return saves > saving_->free(); }
  /// Loads that follow each other; they fill different pages. Each fetch is reported as loaded once
  /// its pages are filled.
  absl::Status Load(std::span<const PageMove> loads, ParallelFor parallel_for);
  /// The ends and beginnings of fetches.
  void Fetch(const StepPlan& plan);
  void Probe(RecordProbe probe) { reader_->Probe(std::move(probe)); }

 private:
  RankRecords(const Options& options, const kv_store::PagePool& pool, PageTraffic& traffic,
              std::unique_ptr<PageStaging> saving, std::unique_ptr<PageStaging> loading);

  /// A block on its way to records. staged: in saving_.
  struct Saving {
    BlockSave save;
    core::BlockId staged = core::kNoBlock;
    std::vector<std::shared_ptr<core::DeviceCopy>> copies;  // [layer groups]
  };
  absl::Status BeginSave(const BlockSave& save);
  void FinishSave(const Saving& saving);
  absl::StatusOr<std::vector<kv_store::TierRecord>> RecordsOf(const Saving& saving);
  absl::StatusOr<kv_store::TierRecord> Encode(const Saving& saving, size_t group, int64_t head);

  /// A block on its way from records. staged: in loading_.
  struct Loading {
    FetchId fetch = 0;
    std::vector<core::BlockId> blocks;  // [layer groups]
    RecordReader::Fill fill;
    core::BlockId staged = core::kNoBlock;
    std::vector<std::shared_ptr<core::DeviceCopy>> copies;
  };
  void LoadBeside(std::vector<Loading> loads);
  absl::Status BeginLoad(Loading& loading);
  absl::Status FinishLoad(const Loading& loading);
  /// Ends what copies pages: what failed is told to steps by traffic_.
  bool Failed(const absl::Status& status);
  void ReportLoaded(FetchId fetch);
  RecordCounts counts() const;

  const Options options_;
  const kv_store::PagePool& pool_;
  PageTraffic& traffic_;
  const std::unique_ptr<PageStaging> saving_;
  const std::unique_ptr<PageStaging> loading_;  // null: pages are filled in the step
  std::atomic<bool> failed_ = false;
  kv_store::BufferPool buffers_;      // of records
  std::atomic<bool> silent_ = false;  // nobody listens any more
  std::unique_ptr<RecordWriter> writer_;
  std::unique_ptr<RecordReader> reader_;
  std::function<void(RecordReport)> report_;
  JobThread saver_;
  JobThread loader_;
};

}  // namespace tandem::parallel
