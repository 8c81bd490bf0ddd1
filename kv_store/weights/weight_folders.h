#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "core/base/mutex.h"
#include "core/base/status.h"

/// Where the packed weights of a host's ranks are kept: in two folders that belong to the host's
/// agent, one in memory and one on disk.
namespace tandem::kv_store {

inline constexpr const char* kSharedMemoryFolder = "/dev/shm";
/// For the next agent of a directory whose agent has died: to take over what it left.
inline constexpr std::chrono::seconds kWeightsPatience{30};

struct WeightFolders {
  std::string memory;  // /dev/shm/tandem-weights-0123456789abcdef
  std::string disk;    // kv/HOST/weights
};
/// Those of an agent's directory, which must be there; its inode names the one in memory.
/// kUnavailable.
absl::StatusOr<WeightFolders> WeightFoldersOf(
    const std::string& agent_directory, const std::string& shared_memory = kSharedMemoryFolder);

/// Whether a folder is there, is this user's, and nobody else may enter it. kFailedPrecondition;
/// kNotFound.
absl::Status CheckWeightFolder(const std::string& folder);

/// The name of a shard's file. model: what all shards of one model and program have in common;
/// shard: the rest.
std::string WeightFileName(std::string_view model, std::string_view shard);

/// What is to be kept in a folder.
struct WeightsWish {
  std::vector<std::string> names;  // WeightFileName, of all ranks of this host
  std::vector<int64_t> bytes;      // of each
  int64_t available = 0;           // bytes of memory that are free, for a folder in memory
};
/// Makes room for those of the names that are not there yet: removes what nobody holds of other
/// models, and, as far as there is too little room, of other shards, the longest unused first, and
/// then what dead agents of other directories left in memory. A part of the file system (1/16, 64
/// MiB at least) stays free. kResourceExhausted, saying what is missing. Processes that call it for
/// the same agent at one time take turns.
absl::Status MakeRoomForWeights(const WeightFolders& folders, const std::string& folder,
                                const WeightsWish& wish);

/// The folders as their owner has them: made with it, and removed when it goes, with all that is in
/// them. Ranks that have mapped something keep that. Thread safety: none.
class OwnedWeightFolders {
 public:
  /// Of a directory that this process has locked (AgentDirectory::Lock). What an agent of that
  /// directory left whole stays, and what was not finished goes; what agents of other directories
  /// left that have died goes after `patience`, unless a rank uses it or another agent has taken it
  /// over by then. A folder that cannot be made is told in the log.
  static std::unique_ptr<OwnedWeightFolders> Make(
      const std::string& agent_directory, const std::string& shared_memory = kSharedMemoryFolder,
      std::chrono::milliseconds patience = kWeightsPatience);
  ~OwnedWeightFolders();
  OwnedWeightFolders(const OwnedWeightFolders&) = delete;
  OwnedWeightFolders& operator=(const OwnedWeightFolders&) = delete;

 private:
  struct Folder {
    std::string path;
    int file;  // that in memory is locked by it as long as its owner lives
  };

  OwnedWeightFolders() = default;
  void RemoveLater(std::vector<std::string> abandoned, std::chrono::milliseconds patience);

  std::vector<Folder> folders_;
  Mutex mutex_;
  CondVar changed_;
  bool ends_ ABSL_GUARDED_BY(mutex_) = false;
  std::thread remover_;  // of what others left; may not be there
};

}  // namespace tandem::kv_store
