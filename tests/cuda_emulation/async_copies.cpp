#include "tests/cuda_emulation/async_copies.h"

#include <cstdint>
#include <cstring>

#include "fmt/format.h"
#include "tests/cuda_emulation/block.h"
#include "tests/cuda_emulation/device_buffers.h"

namespace tandem::cuda_emulation {
namespace {

/// Checks that the running thread may write there.
std::byte* Checked(size_t to, size_t bytes) {
  Block& block = Block::Current();
  block.shared().CheckWrite(to / 4, bytes / 4, block.moment());
  return block.shared().data() + to;
}

}  // namespace

void AsyncCopies::Put(size_t to, const void* from, size_t bytes) {
  if (to % bytes != 0 || reinterpret_cast<uintptr_t>(from) % bytes != 0) {
    Fail(fmt::format("a copy of {} bytes to byte {} of shared memory is not aligned", bytes, to));
  }
  std::byte* place = Checked(to, bytes);
  for (size_t i = 0; i < bytes; i += sizeof(kPoison)) {
    std::memcpy(place + i, &kPoison, sizeof(kPoison));
  }
  open_.push_back({to, from, bytes});
}

void AsyncCopies::Commit() {
  groups_.push_back(std::move(open_));
  open_.clear();
}

void AsyncCopies::Wait(size_t groups) {
  for (; groups_.size() > groups; groups_.pop_front()) {
    for (const Copy& copy : groups_.front()) {
      std::memcpy(Checked(copy.to, copy.bytes), copy.from, copy.bytes);
    }
  }
}

}  // namespace tandem::cuda_emulation
