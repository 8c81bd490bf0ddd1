#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/base/arena.h"
#include "core/base/status.h"
#include "kv_store/weights/kept_format.h"
#include "kv_store/weights/weight_region.h"

namespace tandem::kv_store {

/// The packed weights of one shard, in a file that outlives the process: found there, or packed by
/// this process and left there for the next one.
///
/// A file gets its name once it is whole, and never changes afterwards. What is found is checked
/// byte by byte before it is used; what is damaged, cut short, another program's or another user's,
/// or no file, is removed with one line of log, and the weights are packed anew. As long as this
/// object lives it holds the file (flock, shared), so that nobody removes it to make room. Thread
/// safety: none.
class KeptWeights final : public core::PackedMemory {
 public:
  struct Options {
    std::string path;               // of the file; its folder is our own (weight_folders.h)
    std::string key;                // all that the bytes depend on
    std::vector<int64_t> matrices;  // the bytes of each that will be taken, in any order
    /// The folder is in memory, so that weights are used where they lie there. Else this process
    /// has them in memory of its own, too, and what it packed is written behind its back.
    bool in_memory = true;
    bool may_copy = false;     // there is memory for a copy, where a file gets no huge pages
    bool may_collapse = true;  // false: as on a system that makes no huge pages of files (tests)
    RunTasks run;
  };

  /// kResourceExhausted where there is no room, or the folder is gone: then nothing is kept.
  static absl::StatusOr<std::unique_ptr<KeptWeights>> Open(Options options);
  ~KeptWeights() override;
  KeptWeights(const KeptWeights&) = delete;
  KeptWeights& operator=(const KeptWeights&) = delete;

  absl::StatusOr<Place> Take(std::string_view name, int64_t bytes) override;
  /// All matrices have been taken, and packed where they were not found. Errors, of what was found:
  /// kDataLoss, it has others. Of what was packed: why it is not kept; it can be used all the same.
  absl::Status Finish();

  /// Whether the weights were found.
  bool found() const { return found_; }
  /// Waits until the file has its name, or cannot get one; for tests.
  absl::Status AwaitWritten();

  /// Of a file of those matrices.
  static int64_t FileBytes(std::string_view key, const std::vector<int64_t>& matrices);

 private:
  explicit KeptWeights(Options options) : options_(std::move(options)) {}
  /// kNotFound where there is none; else, saying so, why it is not to be believed.
  absl::Status OpenFound();
  absl::Status ReadFound();
  absl::Status CheckPieces();
  absl::Status ReadHead(int64_t file_bytes);
  absl::Status Begin();
  /// To huge pages, one way or another.
  void FindHugePages();
  absl::Status WriteFile();
  absl::Status GiveName();
  std::span<const std::byte> Piece(int64_t piece) const;

  const Options options_;
  int file_ = -1;
  std::string temporary_;  // of a file that has a name before it is whole; empty: none
  bool found_ = false;
  KeptHead head_;
  KeptIndex index_;
  size_t next_ = 0;  // of the matrices that were found
  WeightRegion region_;
  std::atomic<bool> stop_ = false;
  absl::Status written_;
  std::thread writer_;  // of a file that is not in memory; sets written_
};

/// Removes such a file unless somebody holds it; whether it is gone by that.
bool RemoveUnlessHeld(const std::string& path);

}  // namespace tandem::kv_store
