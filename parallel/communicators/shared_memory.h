#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "core/base/status.h"

namespace tandem::parallel {

/// Memory that processes of one host map together (POSIX shared memory), zero at first.
///
/// One process creates it and tells the others its name, which is random; once all have opened it,
/// the creator removes the name, so that nothing is left behind however the processes end; what one
/// left that was killed before that, the next one removes. Its pages lie on the NUMA node of
/// whoever reserves them. Movable. Thread safety: none.
class SharedMemory {
 public:
  /// Errors: kResourceExhausted or kUnavailable, with the system's reason.
  static absl::StatusOr<SharedMemory> Create(int64_t bytes);
  static absl::StatusOr<SharedMemory> Open(const std::string& name, int64_t bytes);

  SharedMemory() = default;
  SharedMemory(SharedMemory&& other) noexcept { *this = std::move(other); }
  SharedMemory& operator=(SharedMemory&& other) noexcept;
  ~SharedMemory();

  /// As others open it; at most 63 characters.
  const std::string& name() const { return name_; }
  std::byte* data() const { return data_; }
  int64_t bytes() const { return bytes_; }

  /// Makes sure that these bytes exist: writing to memory that the system cannot give would end the
  /// process. Errors: kResourceExhausted if there is no room.
  absl::Status Reserve(int64_t begin, int64_t count) const;

  /// From now on nobody can open it. Of the creator; also done by its destructor.
  void RemoveName();

 private:
  static absl::StatusOr<SharedMemory> Map(std::string name, int64_t bytes, bool create);

  std::string name_;
  bool created_ = false;  // and the name not removed yet
  int file_ = kNoFile;
  std::byte* data_ = nullptr;
  int64_t bytes_ = 0;

  static constexpr int kNoFile = -1;  // what the system gives for none
};

}  // namespace tandem::parallel
