#pragma once

#include <string>

#include "core/base/status.h"

namespace tandem::launcher {

/// A library (preload/loopback_only.c) that, preloaded into mpirun, has it listen on loopback
/// addresses only. It is part of this program, and given out as a file without a name.
class LoopbackPreload {
 public:
  static absl::StatusOr<LoopbackPreload> Make();
  LoopbackPreload(LoopbackPreload&& other) noexcept : fd_(other.fd_) { other.fd_ = -1; }
  LoopbackPreload& operator=(LoopbackPreload&&) = delete;
  ~LoopbackPreload();

  /// For LD_PRELOAD of a child that has inherited the descriptor.
  std::string path() const { return fmt::format("/proc/self/fd/{}", fd_); }

 private:
  explicit LoopbackPreload(int fd) : fd_(fd) {}

  int fd_;
};

}  // namespace tandem::launcher
