#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/base/status.h"

/// Files as the stores keep them: whole or not at all, and for their owner only.
namespace tandem::kv_store {

/// Whether something has that name, if only a link that names nothing.
bool Exists(const std::string& path);
/// What may be written; as much as can be, where a file system does not say.
struct FreeSpace {
  int64_t bytes = std::numeric_limits<int64_t>::max();
  int64_t files = std::numeric_limits<int64_t>::max();
};
/// Where the path is, or would be.
FreeSpace FreeSpaceAt(const std::string& path);
/// `PATH.WORD-N`, with the first N that is free.
std::string FreeName(const std::string& path, std::string_view word);
absl::Status Rename(const std::string& from, const std::string& to);
/// With all that is in it; OK where there is nothing.
absl::Status Remove(const std::string& path);
/// Syncs the names in a folder.
absl::Status SyncFolder(const std::string& folder);
/// The folder that a path is in.
std::string FolderOf(const std::string& path);

/// A file of our own in a folder that others may have written to: opened without following a link,
/// made (mode 0600) with O_CREAT, and opened to its owner where his own mode keeps him out.
/// kFailedPrecondition for what is not ours (a link, another user's, no regular file, to write a
/// file that has several names), whose contents stay untouched; else as the system says: kNotFound,
/// kResourceExhausted, kUnavailable.
absl::StatusOr<int> OpenOwnFile(const std::string& path, int flags);
/// A lock of our own: a file that is locked (flock) as long as a process has it open.
struct OwnLock {
  int file;    // descriptor
  bool taken;  // false: another process has it, and the file says whatever that wrote into it
};
/// Opens a lock, which is made where it is not there, and takes it if nobody has it. One that has
/// several names (a hard link) is not written to: once it is taken, this name gives way to a file
/// of its own. Errors as OpenOwnFile.
absl::StatusOr<OwnLock> TakeOwnLock(const std::string& path);
/// Whether TakeOwnLock could open it, or it is not there; nothing is taken. Errors as OpenOwnFile.
absl::Status CheckOwnLock(const std::string& path);
/// A file of our own that is added to, and made where it is not there; in the place of one that has
/// several names another is begun. Errors as OpenOwnFile.
absl::StatusOr<int> OpenOwnLog(const std::string& path);
/// Whether a path and all below it, if it is there, are this user's, and no links to something;
/// what was put aside is left out. kFailedPrecondition naming the first that is not.
absl::Status CheckOwnTree(const std::string& path);

enum class FileKind { kFile, kFolder, kSocket };
/// Makes way for a file of our own: what is at the path and is none of that kind (a folder, a pipe,
/// a link that names nothing) is renamed to `ASIDE.damaged-N`, and what is one and may not be read
/// and written is opened to its owner. Whoever holds the lock of what it belongs to may call it,
/// and several processes at a time. What was done, for whoever looks after the files; empty:
/// nothing. kFailedPrecondition for another user's file, or a link to something; kUnavailable.
absl::StatusOr<std::string> MakeWay(const std::string& path, FileKind kind,
                                    const std::string& aside);
/// The same, with the path as ASIDE; it is told in the log.
absl::Status MakeWay(const std::string& path, FileKind kind);
/// The same for a folder of which all entries are to be files; what is none goes to
/// `FOLDER.NAME.damaged-N`. Logged, too.
absl::StatusOr<std::string> MakeWayInFolder(const std::string& folder);
/// Whether a name ends as those that things get that are put aside.
bool IsAside(std::string_view name);

/// A secret may be a link to where the user keeps it; any other file is our own, and a link in its
/// place is not followed. kNotFound; kUnavailable; kDataLoss if it is larger than 4096 bytes; of a
/// secret kInvalidArgument, if others may read it.
absl::StatusOr<std::string> ReadSmallFile(const std::string& path, bool secret = false);

/// A file (mode 0600) that is written under another name, or none, and gets its own when it is
/// whole. Whatever ends it earlier leaves what was there before. Thread safety: none.
class WholeFile {
 public:
  enum class Before { kReplace, kKeep };  // what has the name when it is whole

  /// Errors of all functions: kResourceExhausted where the disk is full, else kUnavailable.
  static absl::StatusOr<std::unique_ptr<WholeFile>> Create(const std::string& path);
  ~WholeFile();
  WholeFile(const WholeFile&) = delete;
  WholeFile& operator=(const WholeFile&) = delete;

  absl::Status Write(std::span<const std::byte> bytes);
  /// Gives it its name. sync: what was written outlives a loss of power.
  absl::Status Finish(bool sync = true, Before before = Before::kReplace);

 private:
  WholeFile(std::string path, int file) : path_(std::move(path)), file_(file) {}

  const std::string path_;
  const int file_;
  std::string temporary_;  // empty: it has no name yet
};
absl::Status WriteWholeFile(const std::string& path, std::string_view text, bool sync = true,
                            WholeFile::Before before = WholeFile::Before::kReplace);

}  // namespace tandem::kv_store
