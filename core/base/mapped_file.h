#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "core/base/status.h"

namespace tandem::core {

/// Which file it is, and as of when: one that was written to since, or another in its place, has
/// another stamp.
struct FileStamp {
  uint64_t device = 0;
  uint64_t number = 0;  // of the inode
  int64_t bytes = 0;
  int64_t written_nanoseconds = 0;  // since 1970
  int64_t changed_nanoseconds = 0;  // its contents or its inode
};

/// A regular file mapped read-only for as long as this lives. Pages are read from disk when they
/// are touched. The file must not be shortened meanwhile (the kernel would raise SIGBUS); replace a
/// model by renaming a new file over it. Thread safety: const after Open.
class MappedFile {
 public:
  /// Errors name the path: missing, a directory, not readable, empty.
  static absl::StatusOr<MappedFile> Open(const std::string& path);

  MappedFile() = default;
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&& other) noexcept;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }
  /// As it was opened.
  const FileStamp& stamp() const { return stamp_; }

  /// Hints about a part of bytes(): single places of it will be read, so that the disk need not
  /// read what is around them; it will be read soon, so that the disk may begin; it will not be
  /// read soon, so that its pages need not count as this process's memory (they are found again
  /// when touched).
  void WillPick(std::span<const std::byte> part) const;
  void WillNeed(std::span<const std::byte> part) const;
  void Release(std::span<const std::byte> part) const;

 private:
  MappedFile(std::span<const std::byte> bytes, const FileStamp& stamp)
      : bytes_(bytes), stamp_(stamp) {}

  std::span<const std::byte> bytes_;
  FileStamp stamp_;
};

}  // namespace tandem::core
