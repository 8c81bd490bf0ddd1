#include "core/base/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <system_error>
#include <utility>

namespace tandem::core {
namespace {

int64_t Nanoseconds(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

std::string ErrnoText(int error) { return std::generic_category().message(error); }

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::string& path) {
  // O_NONBLOCK: opening a FIFO must not wait for its writer; it means nothing for regular files.
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    const int error = errno;
    if (error == ENOENT || error == ENOTDIR) {
      return NotFound("{}: no such file; check the path", path);
    }
    return InvalidArgument("{}: cannot be opened: {}", path, ErrnoText(error));
  }
  struct stat info {};
  if (fstat(file.get(), &info) != 0) {
    return InvalidArgument("{}: cannot be examined: {}", path, ErrnoText(errno));
  }
  if (S_ISDIR(info.st_mode)) {
    return InvalidArgument("{}: is a directory, expected a file", path);
  }
  if (!S_ISREG(info.st_mode)) {
    return InvalidArgument("{}: is not a regular file, so it cannot be mapped into memory", path);
  }
  if (info.st_size == 0) return InvalidArgument("{}: is empty (0 bytes)", path);
  const auto size = static_cast<size_t>(info.st_size);
  void* data = mmap(nullptr, size, PROT_READ, MAP_SHARED, file.get(), 0);
  if (data == MAP_FAILED) {
    return ResourceExhausted("{}: {} bytes cannot be mapped into memory: {}", path, size,
                             ErrnoText(errno));
  }
  return MappedFile({static_cast<const std::byte*>(data), size},
                    {.device = info.st_dev,
                     .number = info.st_ino,
                     .bytes = info.st_size,
                     .written_nanoseconds = Nanoseconds(info.st_mtim),
                     .changed_nanoseconds = Nanoseconds(info.st_ctim)});
}

namespace {

void Advise(std::span<const std::byte> part, int advice) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(part.data()) / page * page;
  const auto end = reinterpret_cast<uintptr_t>(part.data() + part.size());
  // A failure costs speed or memory, never correctness.
  if (end <= begin) return;
  auto* const first = reinterpret_cast<void*>(begin);  // NOLINT(performance-no-int-to-ptr)
  madvise(first, end - begin, advice);
}

}  // namespace

void MappedFile::WillPick(std::span<const std::byte> part) const { Advise(part, MADV_RANDOM); }

void MappedFile::WillNeed(std::span<const std::byte> part) const { Advise(part, MADV_WILLNEED); }

void MappedFile::Release(std::span<const std::byte> part) const {
  // Where the system caches a file in huge pages, whoever touches a byte maps all of one: also what
  // was released before, beside the part. Who still reads there maps it again.
  constexpr size_t kHugePage = size_t{2} << 20;
  const std::byte* const all = bytes_.data();
  const auto begin = static_cast<size_t>(part.data() - all) / kHugePage * kHugePage;
  const auto last = static_cast<size_t>(part.data() - all) + part.size();
  const size_t end = std::min((last + kHugePage - 1) / kHugePage * kHugePage, bytes_.size());
  Advise(bytes_.subspan(begin, end - begin), MADV_DONTNEED);
}

MappedFile::~MappedFile() {
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : bytes_(std::exchange(other.bytes_, {})), stamp_(other.stamp_) {}

MappedFile& MappedFile::operator=(MappedFile&& other) noexcept {
  std::swap(bytes_, other.bytes_);
  std::swap(stamp_, other.stamp_);
  return *this;
}

}  // namespace tandem::core
