#include "tests/cuda_emulation/shared_memory.h"

#include "fmt/format.h"
#include "tests/cuda_emulation/block.h"
#include "tests/cuda_emulation/device_buffers.h"

namespace tandem::cuda_emulation {
namespace {

constexpr int kWarp = 32;

/// Whether nothing orders what `before` did with what `now` does.
bool Races(const Moment& before, const Moment& now) {
  if (before.thread < 0 || before.thread == now.thread) return false;
  if (before.block_epoch != now.block_epoch) return false;
  return before.thread / kWarp != now.thread / kWarp || before.warp_epoch == now.warp_epoch;
}

[[noreturn]] void FailRace(const char* now_does, const Moment& now, const char* before_did,
                           const Moment& before, size_t word) {
  Fail(fmt::format(
      "race in shared memory: thread {} {} word {}, which thread {} {} without a barrier between",
      now.thread, now_does, word, before.thread, before_did));
}

}  // namespace

SharedMemory::SharedMemory(size_t bytes)
    : words_((bytes + sizeof(uint32_t) - 1) / sizeof(uint32_t), kPoison), shadow_(words_.size()) {}

void SharedMemory::CheckRead(size_t word, size_t words, const Moment& now) {
  for (size_t i = word; i < word + words; ++i) {
    if (i >= words_.size()) {
      Fail(fmt::format("read of word {} of {} words of shared memory", i, words_.size()));
    }
    Word& shadow = shadow_[i];
    if (shadow.writer.thread < 0) {
      Fail(fmt::format("read of word {} of shared memory, which was never written", i));
    }
    if (Races(shadow.writer, now)) FailRace("reads", now, "wrote", shadow.writer, i);
    if (shadow.readers[0].thread != now.thread) shadow.readers[1] = shadow.readers[0];
    shadow.readers[0] = now;
  }
}

void SharedMemory::CheckWrite(size_t word, size_t words, const Moment& now) {
  for (size_t i = word; i < word + words; ++i) {
    if (i >= words_.size()) {
      Fail(fmt::format("write of word {} of {} words of shared memory", i, words_.size()));
    }
    Word& shadow = shadow_[i];
    if (Races(shadow.writer, now)) FailRace("writes", now, "wrote", shadow.writer, i);
    for (const Moment& reader : shadow.readers) {
      if (Races(reader, now)) FailRace("writes", now, "read", reader, i);
    }
    shadow.writer = now;
  }
}

}  // namespace tandem::cuda_emulation
