#include "kv_store/weights/weight_folders.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/base/counted.h"
#include "core/base/errno_text.h"
#include "kv_store/base/blake2b.h"
#include "kv_store/base/file_facts.h"
#include "kv_store/base/files.h"
#include "kv_store/base/hex.h"
#include "kv_store/weights/kept_format.h"
#include "kv_store/weights/kept_weights.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kMemoryPrefix = "tandem-weights-";
constexpr int64_t kFreePart = 16;  // of a file system, one in so many
constexpr int64_t kLeastFree = int64_t{64} << 20;
constexpr size_t kModelDigits = 16;  // of a file's name

struct Space {
  int64_t free = 0;
  int64_t margin = 0;  // that is not taken
};

absl::StatusOr<Space> SpaceOf(const std::string& folder) {
  struct statvfs facts {};
  if (statvfs(folder.c_str(), &facts) != 0) {
    return Unavailable("{}: {}", folder, ErrnoText(errno));
  }
  const auto unit = static_cast<int64_t>(facts.f_frsize);
  const int64_t all = static_cast<int64_t>(facts.f_blocks) * unit;
  return Space{static_cast<int64_t>(facts.f_bavail) * unit, std::max(all / kFreePart, kLeastFree)};
}

struct KeptFile {
  std::string path;
  std::string name;
  int64_t bytes = 0;
  fs::file_time_type used;
};

/// The longest unused first.
std::vector<KeptFile> FilesIn(const std::string& folder) {
  std::vector<KeptFile> files;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    std::error_code gone;
    if (!it->is_regular_file(gone) || it->is_symlink(gone)) continue;
    KeptFile file{it->path().string(), it->path().filename().string(), 0,
                  it->last_write_time(gone)};
    file.bytes = static_cast<int64_t>(it->file_size(gone));
    if (!gone) files.push_back(std::move(file));
  }
  std::ranges::sort(files, {}, &KeptFile::used);
  return files;
}

/// What is wanted there and is missing.
int64_t MissingBytes(const std::string& folder, const WeightsWish& wish) {
  int64_t missing = 0;
  for (size_t i = 0; i < wish.names.size(); ++i) {
    if (!Exists(fmt::format("{}/{}", folder, wish.names[i]))) missing += wish.bytes[i];
  }
  return missing;
}

/// Others that do the same wait.
class Turn {
 public:
  explicit Turn(const std::string& folder)
      : file_(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)) {
    if (file_ >= 0) flock(file_, LOCK_EX);
  }
  ~Turn() {
    if (file_ >= 0) close(file_);
  }
  Turn(const Turn&) = delete;
  Turn& operator=(const Turn&) = delete;

 private:
  const int file_;
};

/// Whether nobody holds any file of a folder in memory, nor the folder.
bool IsAbandoned(const std::string& folder) {
  const auto held = [](const std::string& path, int flags) {
    const int file = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | flags);
    if (file < 0) return false;
    const bool locked = flock(file, LOCK_EX | LOCK_NB) != 0;
    close(file);
    return locked;
  };
  if (held(folder, O_DIRECTORY)) return false;
  const auto files = FilesIn(folder);
  return std::ranges::none_of(files, [&](const KeptFile& file) { return held(file.path, 0); });
}

/// What dead owners left in memory, but for one folder.
std::vector<std::string> AbandonedWeights(const std::string& shared_memory,
                                          const std::string& but) {
  std::vector<std::string> abandoned;
  std::error_code error;
  for (fs::directory_iterator it(shared_memory, error), end; !error && it != end;
       it.increment(error)) {
    const std::string path = it->path().string();
    struct stat facts {};
    if (path == but || !it->path().filename().string().starts_with(kMemoryPrefix)) continue;
    if (lstat(path.c_str(), &facts) != 0 || !S_ISDIR(facts.st_mode)) continue;
    if (facts.st_uid == geteuid() && IsAbandoned(path)) abandoned.push_back(path);
  }
  return abandoned;
}

/// The bytes that are free by that.
int64_t RemoveAbandonedWeights(const std::vector<std::string>& folders) {
  int64_t bytes = 0;
  for (const std::string& folder : folders) {
    if (!IsAbandoned(folder)) continue;
    const std::vector<KeptFile> files = FilesIn(folder);
    if (!Remove(folder).ok()) continue;
    spdlog::info("{}: removed, since its owner died", folder);
    for (const KeptFile& file : files) bytes += file.bytes;
  }
  return bytes;
}

/// Makes a folder for this user alone, where it is not there, and opens it.
absl::StatusOr<int> OpenFolder(const std::string& path) {
  if (mkdir(path.c_str(), S_IRWXU) != 0 && errno != EEXIST) {
    return Unavailable("{}: {}", path, ErrnoText(errno));
  }
  TANDEM_RETURN_IF_ERROR(CheckWeightFolder(path));
  const int folder = open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
  if (folder < 0) return Unavailable("{}: {}", path, ErrnoText(errno));
  return folder;
}

bool IsNamed(int folder, const std::string& path) {
  const auto ours = FactsOfOpen(folder, path);
  const auto there = FactsAt(path);
  return ours.ok() && there.ok() && ours->IsSameFile(*there);
}

/// The same, locked.
absl::StatusOr<int> TakeFolder(const std::string& path) {
  while (true) {
    TANDEM_ASSIGN_OR_RETURN(const int folder, OpenFolder(path));
    if (flock(folder, LOCK_EX | LOCK_NB) != 0) {
      close(folder);
      return Unavailable("{}: another process has it", path);
    }
    // Whoever removes what is abandoned may have come before the lock.
    if (IsNamed(folder, path)) return folder;
    close(folder);
  }
}

void RemoveUnfinished(const std::string& folder) {
  for (const KeptFile& file : FilesIn(folder)) {
    if (file.name.starts_with(kUnfinishedWeights)) RemoveUnlessHeld(file.path);
  }
}

}  // namespace

absl::StatusOr<WeightFolders> WeightFoldersOf(const std::string& agent_directory,
                                              const std::string& shared_memory) {
  TANDEM_ASSIGN_OR_RETURN(const FileFacts facts, FactsAt(agent_directory));
  const std::array<uint64_t, 2> which = {facts.device, facts.number};
  const auto hash = Blake2b<std::array<uint8_t, 16>>(std::as_bytes(std::span(which)));
  return WeightFolders{.memory = fmt::format("{}/{}{}", shared_memory, kMemoryPrefix,
                                             Hex(std::span(hash).first(hash.size() / 2))),
                       .disk = agent_directory + "/weights"};
}

absl::Status CheckWeightFolder(const std::string& folder) {
  struct stat facts {};
  if (lstat(folder.c_str(), &facts) != 0) return NotFound("{}: {}", folder, ErrnoText(errno));
  if (!S_ISDIR(facts.st_mode)) return FailedPrecondition("{}: it is no folder", folder);
  if (facts.st_uid != geteuid()) {
    return FailedPrecondition("{}: it belongs to user {}, not to {}", folder, facts.st_uid,
                              geteuid());
  }
  if ((facts.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return FailedPrecondition("{}: others may enter it (mode {:04o})", folder,
                              facts.st_mode & 07777U);
  }
  return absl::OkStatus();
}

std::string WeightFileName(std::string_view model, std::string_view shard) {
  const auto digits = [](std::string_view text) {
    const auto hash = Blake2b<std::array<uint8_t, 16>>(std::as_bytes(std::span(text)));
    return Hex(std::span(hash).first(kModelDigits / 2));
  };
  return fmt::format("{}-{}", digits(model), digits(shard));
}

absl::Status MakeRoomForWeights(const WeightFolders& folders, const std::string& folder,
                                const WeightsWish& wish) {
  TANDEM_RETURN_IF_ERROR(CheckWeightFolder(folder));
  const Turn turn(folders.disk);
  const auto wanted = [&](const KeptFile& file) {
    return std::ranges::find(wish.names, file.name) != wish.names.end();
  };
  const auto same_model = [&](const KeptFile& file) {
    return !wish.names.empty() && file.name.substr(0, kModelDigits) ==
                                      std::string_view(wish.names.front()).substr(0, kModelDigits);
  };
  std::vector<KeptFile> others;
  for (KeptFile& file : FilesIn(folder)) {
    if (wanted(file) || (!same_model(file) && RemoveUnlessHeld(file.path))) continue;
    others.push_back(std::move(file));
  }
  const bool in_memory = folder == folders.memory;
  const int64_t missing = MissingBytes(folder, wish);
  int64_t regained = 0;  // of memory that is shared with all else
  while (true) {
    TANDEM_ASSIGN_OR_RETURN(const Space space, SpaceOf(folder));
    const int64_t free = in_memory ? std::min(space.free, wish.available + regained) : space.free;
    if (missing == 0 || missing + space.margin <= free) return absl::OkStatus();
    const auto next = std::ranges::find_if(
        others, [](const KeptFile& file) { return RemoveUnlessHeld(file.path); });
    if (next == others.end()) {
      const int64_t left =
          in_memory ? RemoveAbandonedWeights(AbandonedWeights(
                          fs::path(folders.memory).parent_path().string(), folders.memory))
                    : 0;
      regained += left;
      if (left > 0) continue;
      return ResourceExhausted("{}: {} are wanted besides {} that stay free, and {} are free",
                               folder, SizeText(missing), SizeText(space.margin), SizeText(free));
    }
    regained += next->bytes;
    others.erase(others.begin(), next + 1);
  }
}

std::unique_ptr<OwnedWeightFolders> OwnedWeightFolders::Make(const std::string& agent_directory,
                                                             const std::string& shared_memory,
                                                             std::chrono::milliseconds patience) {
  std::unique_ptr<OwnedWeightFolders> owned(new OwnedWeightFolders);
  const auto folders = WeightFoldersOf(agent_directory, shared_memory);
  if (!folders.ok()) {
    spdlog::warn("no weights are kept: {}", Message(folders.status()));
    return owned;
  }
  owned->RemoveLater(AbandonedWeights(shared_memory, folders->memory), patience);
  const auto own = [&](const std::string& path, absl::StatusOr<int> opened) {
    if (!opened.ok())
      return spdlog::warn("no weights are kept there: {}", Message(opened.status()));
    RemoveUnfinished(path);
    owned->folders_.push_back({path, *opened});
  };
  own(folders->memory, TakeFolder(folders->memory));
  const absl::Status clear = MakeWay(folders->disk, FileKind::kFolder);
  own(folders->disk, clear.ok() ? OpenFolder(folders->disk) : clear);
  return owned;
}

void OwnedWeightFolders::RemoveLater(std::vector<std::string> abandoned,
                                     std::chrono::milliseconds patience) {
  if (abandoned.empty()) return;
  const auto due = std::chrono::steady_clock::now() + patience;
  remover_ = std::thread([this, due, abandoned = std::move(abandoned)] {
    {
      const MutexLock lock(mutex_);
      while (!ends_ && std::chrono::steady_clock::now() < due) changed_.WaitUntil(mutex_, due);
      if (ends_) return;
    }
    RemoveAbandonedWeights(abandoned);
  });
}

OwnedWeightFolders::~OwnedWeightFolders() {
  {
    const MutexLock lock(mutex_);
    ends_ = true;
    changed_.NotifyAll();
  }
  if (remover_.joinable()) remover_.join();
  for (const Folder& folder : folders_) {
    // Where the agent's directory was replaced, this may be the folder of the next agent.
    const absl::Status gone =
        IsNamed(folder.file, folder.path) ? Remove(folder.path) : absl::OkStatus();
    if (!gone.ok()) spdlog::warn("{}", Message(gone));
    close(folder.file);
  }
}

}  // namespace tandem::kv_store
