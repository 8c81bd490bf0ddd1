#include "kv_store/base/buffer_pool.h"

#include <utility>

#include "core/base/mutex.h"

namespace tandem::kv_store {

struct BufferPool::State {
  explicit State(size_t most) : most_bytes(most) {}

  const size_t most_bytes;
  Mutex mutex;
  std::vector<std::vector<std::byte>> unused ABSL_GUARDED_BY(mutex);
  size_t bytes ABSL_GUARDED_BY(mutex) = 0;  // of unused
};

BufferPool::BufferPool(size_t most_bytes) : state_(std::make_shared<State>(most_bytes)) {}

std::vector<std::byte> BufferPool::Take() {
  const MutexLock lock(state_->mutex);
  if (state_->unused.empty()) return {};
  std::vector<std::byte> memory = std::move(state_->unused.back());
  state_->unused.pop_back();
  state_->bytes -= memory.capacity();
  return memory;
}

SharedBytes BufferPool::Share(std::vector<std::byte> bytes) {
  const auto give_back = [pool = std::weak_ptr(state_)](std::vector<std::byte>* done) {
    const std::unique_ptr<std::vector<std::byte>> owned(done);
    const std::shared_ptr<State> state = pool.lock();
    if (state == nullptr) return;
    const MutexLock lock(state->mutex);
    if (state->bytes + done->capacity() > state->most_bytes) return;
    state->bytes += done->capacity();
    state->unused.push_back(std::move(*done));
  };
  const std::shared_ptr<std::vector<std::byte>> owner(new std::vector<std::byte>(std::move(bytes)),
                                                      give_back);
  return {*owner, owner};
}

}  // namespace tandem::kv_store
