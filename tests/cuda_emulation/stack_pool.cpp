#include "tests/cuda_emulation/stack_pool.h"

#include <sys/mman.h>

#include <new>
#include <vector>

namespace tandem::cuda_emulation {
namespace {

constexpr size_t kPage = 4096;
constexpr size_t kStackBytes = 64 * 1024;

class Stacks {
 public:
  ~Stacks() {
    for (void* low : free_) munmap(low, kStackBytes);
  }
  void* Take() {
    if (!free_.empty()) {
      void* low = free_.back();
      free_.pop_back();
      return low;
    }
    void* low =
        mmap(nullptr, kStackBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (low == MAP_FAILED || mprotect(low, kPage, PROT_NONE) != 0) throw std::bad_alloc();
    return low;
  }
  void Give(void* low) { free_.push_back(low); }

 private:
  std::vector<void*> free_;
};

thread_local Stacks stacks;

}  // namespace

boost::context::stack_context StackPool::allocate() {
  boost::context::stack_context stack;
  stack.size = kStackBytes;
  stack.sp = static_cast<char*>(stacks.Take()) + kStackBytes;
  return stack;
}

void StackPool::deallocate(boost::context::stack_context& stack) noexcept {
  stacks.Give(static_cast<char*>(stack.sp) - kStackBytes);
}

}  // namespace tandem::cuda_emulation
