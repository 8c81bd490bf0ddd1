#include "parallel/communicators/shared_memory.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <random>

#include "core/base/errno_text.h"
#include "core/base/temporary_folder.h"

namespace tandem::parallel {

absl::StatusOr<SharedMemory> SharedMemory::Create(int64_t bytes) {
  RemoveAbandoned("/dev/shm");
  std::random_device random;
  for (;;) {
    auto memory = Map(fmt::format("/tandem-{:08x}{:08x}", random(), random()), bytes, true);
    if (!memory.ok()) return memory;
    // The lock says that somebody lives who has it. Whoever removes what is abandoned may have come
    // before it.
    struct stat facts {};
    flock(memory->file_, LOCK_SH);
    if (fstat(memory->file_, &facts) != 0 || facts.st_nlink > 0) return memory;
  }
}

absl::StatusOr<SharedMemory> SharedMemory::Open(const std::string& name, int64_t bytes) {
  return Map(name, bytes, false);
}

absl::StatusOr<SharedMemory> SharedMemory::Map(std::string name, int64_t bytes, bool create) {
  const auto failed = [&](const char* what) {
    return Unavailable("shared memory {} of {} bytes: {}: {}", name, bytes, what, ErrnoText(errno));
  };
  const int flags = O_RDWR | O_CLOEXEC | (create ? O_CREAT | O_EXCL : 0);
  SharedMemory memory;
  memory.file_ = shm_open(name.c_str(), flags, 0600);
  if (memory.file_ == kNoFile) return failed("shm_open");
  memory.name_ = name;
  memory.created_ = create;
  if (create && ftruncate(memory.file_, bytes) != 0) return failed("ftruncate");
  void* data = mmap(nullptr, static_cast<size_t>(bytes), PROT_READ | PROT_WRITE, MAP_SHARED,
                    memory.file_, 0);
  if (data == MAP_FAILED) return failed("mmap");
  memory.data_ = static_cast<std::byte*>(data);
  memory.bytes_ = bytes;
  return memory;
}

SharedMemory& SharedMemory::operator=(SharedMemory&& other) noexcept {
  std::swap(name_, other.name_);
  std::swap(created_, other.created_);
  std::swap(file_, other.file_);
  std::swap(data_, other.data_);
  std::swap(bytes_, other.bytes_);
  return *this;
}

SharedMemory::~SharedMemory() {
  RemoveName();
  if (data_ != nullptr) munmap(data_, static_cast<size_t>(bytes_));
  if (file_ != kNoFile) close(file_);
}

absl::Status SharedMemory::Reserve(int64_t begin, int64_t count) const {
  const int error = posix_fallocate(file_, begin, count);
  if (error == 0) return absl::OkStatus();
  return ResourceExhausted("shared memory {}: no room for {} bytes: {}; make /dev/shm larger",
                           name_, count, ErrnoText(error));
}

void SharedMemory::RemoveName() {
  if (!created_) return;
  shm_unlink(name_.c_str());
  created_ = false;
}

}  // namespace tandem::parallel
