#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>

#include "absl/functional/function_ref.h"
#include "core/base/status.h"
#include "core/model/shard.h"
#include "kv_store/base/buffer_pool.h"
#include "kv_store/pages/page_pool.h"
#include "parallel/plan/record_probe.h"
#include "parallel/plan/record_report.h"
#include "parallel/plan/step_plan.h"
#include "parallel/rank/record_options.h"
#include "parallel/rank/record_reader.h"
#include "parallel/rank/record_writer.h"

namespace tandem::parallel {

/// What a rank does with the parts of a plan that save its pages and bring them back. Copies
/// between pages and records are made in the step; all that may wait for a tier is not.
/// Thread safety: one thread executes plans; the functions given to Listen are called from others.
class RankRecords {
 public:
  struct Options {
    RecordOptions records;  // with a tier
    int32_t rank = 0;
    core::Range kv_heads;     // of the model, that the rank holds
    core::Range records_own;  // those of them that it records (RecordedKvHeads)
  };

  /// The pool must outlive it.
  RankRecords(const Options& options, const kv_store::PagePool& pool);
  ~RankRecords();

  /// Starts the threads. Called once, before the first plan. What was under way when it is
  /// destroyed is put; what it would report then is lost.
  void Listen(std::function<void(const RecordReport&)> on_report,
              std::function<void(FetchId probe, SavedTokens saved)> on_probed);

  /// Calls a function for every task in [0, tasks), on several threads or one.
  using ParallelFor =
      absl::FunctionRef<void(int64_t tasks, absl::FunctionRef<void(int64_t task)> body)>;
  /// The saves of a plan and its flush mark. Errors: those of the device.
  absl::Status Save(const StepPlan& plan, ParallelFor parallel_for);
  absl::Status Load(const BlockLoad& load) { return reader_->Load(load); }
  /// The ends and beginnings of fetches.
  void Fetch(const StepPlan& plan);
  void Probe(RecordProbe probe) { reader_->Probe(std::move(probe)); }

 private:
  absl::StatusOr<kv_store::TierRecord> Encode(const BlockSave& save, size_t group, int64_t head);
  RecordCounts counts() const;

  const Options options_;
  const kv_store::PagePool& pool_;
  kv_store::BufferPool buffers_;      // of records
  std::atomic<bool> silent_ = false;  // nobody listens any more
  std::unique_ptr<RecordWriter> writer_;
  std::unique_ptr<RecordReader> reader_;
};

}  // namespace tandem::parallel
