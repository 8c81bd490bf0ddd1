#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <thread>
#include <unordered_map>
#include <variant>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"
#include "core/model/shard.h"
#include "kv_store/pages/page_pool.h"
#include "kv_store/records/record.h"
#include "kv_store/records/tier.h"
#include "parallel/plan/record_probe.h"
#include "parallel/plan/step_plan.h"

namespace tandem::parallel {

/// Gets records from a rank's tier into host memory, on a thread of its own, and keeps them until a
/// plan loads them or the fetch ends. What it has is checked whole (kv_store::CheckRecord).
/// Thread safety: all methods.
class RecordReader {
 public:
  struct Options {
    kv_store::Fingerprint fingerprint{};
    core::Range kv_heads;  // of the model, that the rank holds
    /// A fetch has got what there was, or has ended meanwhile. [blocks from the front that are
    /// whole]
    std::function<void(FetchId fetch, std::vector<kv_store::TierKind> from)> on_fetched;
    /// What FindSaved gave.
    std::function<void(FetchId probe, SavedTokens saved)> on_probed;
  };
  struct Counts {
    uint64_t fetched = 0;
    uint64_t damaged = 0;
  };

  /// Both functions are called from the reader's thread. Tier and pool must outlive the reader.
  RecordReader(kv_store::Tier& tier, const kv_store::PagePool& pool, Options options);
  ~RecordReader();
  RecordReader(const RecordReader&) = delete;
  RecordReader& operator=(const RecordReader&) = delete;

  /// Ends the thread; what was asked for and not done is never answered. Called by one thread.
  void Stop();

  void Fetch(BlockFetch fetch);
  /// Drops a fetch, whether it was done or not.
  void End(FetchId fetch);
  /// Fills pages of a block with the records of another one.
  using Fill = std::function<absl::Status(const kv_store::PagePool& pool,
                                          std::span<const core::BlockId> blocks)>;
  /// What fills the pages that a plan loads: blocks [layer groups], kNoBlock where load.blocks has
  /// it. It may be called when the fetch has ended. kInternal if no such block was reported as
  /// whole.
  absl::StatusOr<Fill> Find(const BlockLoad& load);
  void Probe(RecordProbe probe);

  Counts counts() const;
  /// Fetches that have not ended.
  size_t open_fetches() const;

 private:
  /// A fetch under way or done. The records are the reader thread's until `done`.
  struct Fetched {
    std::vector<FetchBlock> blocks;
    /// [blocks from the front that are whole][layer groups asked for, ascending, x kv_heads]
    std::vector<std::vector<kv_store::FoundRecord>> records;
    bool done ABSL_GUARDED_BY(&RecordReader::mutex_) = false;
    bool ended ABSL_GUARDED_BY(&RecordReader::mutex_) = false;
  };
  struct FetchJob {
    FetchId id = 0;
    std::shared_ptr<Fetched> fetched;
  };
  using Job = std::variant<FetchJob, RecordProbe>;

  void Run();
  /// The records of some neighbouring blocks of a fetch.
  struct Part {
    size_t blocks = 0;
    std::vector<kv_store::RecordName> names;
    std::vector<std::optional<kv_store::FoundRecord>> found;  // [names]
  };

  void Do(const FetchJob& job);
  Part Get(const Fetched& fetched, size_t first_block, size_t blocks);
  /// Checks a part and takes it in, behind the blocks that are there; false if not all are whole.
  bool Take(Part part, Fetched& fetched);
  absl::Status FillFrom(const Fetched& fetched, size_t index, const kv_store::PagePool& pool,
                        std::span<const core::BlockId> blocks) const;
  kv_store::RecordName NameOf(const FetchBlock& block, int32_t group, int64_t rank_head) const;

  kv_store::Tier& tier_;
  const kv_store::PagePool& pool_;
  const Options options_;

  mutable Mutex mutex_;
  CondVar changed_;
  std::deque<Job> jobs_ ABSL_GUARDED_BY(mutex_);
  std::unordered_map<FetchId, std::shared_ptr<Fetched>> fetches_ ABSL_GUARDED_BY(mutex_);
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Counts counts_ ABSL_GUARDED_BY(mutex_);

  std::thread thread_;
};

}  // namespace tandem::parallel
