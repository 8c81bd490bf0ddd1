#include "tests/cuda_emulation/grid.h"

#include <algorithm>
#include <mutex>
#include <numeric>
#include <set>

namespace tandem::cuda_emulation {
namespace {

/// Kernels that are known to wait for others.
struct WaitingKernels {
  std::mutex mutex;
  std::set<const void*> kernels;
};

WaitingKernels& TheWaitingKernels() {
  static auto* const kernels = new WaitingKernels;
  return *kernels;
}

bool Waits(const void* kernel) {
  WaitingKernels& known = TheWaitingKernels();
  const std::lock_guard lock(known.mutex);
  return known.kernels.contains(kernel);
}

void NoteThatWaits(const void* kernel) {
  WaitingKernels& known = TheWaitingKernels();
  const std::lock_guard lock(known.mutex);
  known.kernels.insert(kernel);
}

}  // namespace

Grid::Grid(const cudaLaunchConfig_t& config, const void* kernel, bool starts_early, uint64_t seed,
           const std::function<void()>& thread, int gpu)
    : grid_(config.gridDim),
      block_(config.blockDim),
      shared_bytes_(config.dynamicSmemBytes),
      kernel_(kernel),
      starts_early_(starts_early),
      seed_(seed),
      thread_(thread),
      gpu_(gpu) {}

std::unique_ptr<Block> Grid::Make(size_t index) const {
  const BlockPlace place = {static_cast<unsigned>(index % grid_.x),
                            static_cast<unsigned>(index / grid_.x % grid_.y),
                            static_cast<unsigned>(index / grid_.x / grid_.y),
                            block_.x,
                            block_.y,
                            block_.z,
                            shared_bytes_,
                            starts_early_};
  return std::make_unique<Block>(place, seed_ + index * 0x9E3779B97F4A7C15, thread_);
}

bool Grid::Advance() {
  if (owner_ == std::thread::id()) {
    owner_ = std::this_thread::get_id();
    const size_t blocks = size_t{grid_.x} * grid_.y * grid_.z;
    order_.resize(blocks);
    in_order_ = Waits(kernel_);
    if (in_order_) {
      std::iota(order_.begin(), order_.end(), size_t{0});
    } else {
      // A step that shares no factor with the number of blocks comes to all of them.
      size_t step = seed_ % blocks;
      while (std::gcd(step, blocks) != 1) ++step;
      size_t index = (seed_ >> 20) % blocks;
      for (size_t& place : order_) {
        place = index;
        index = (index + step) % blocks;
      }
    }
  }
  if (owner_ != std::this_thread::get_id()) return false;
  const bool done = AdvanceBlocks();
  // A kernel that waits is at work: its GPU's memory stays open.
  if (done) {
    at_work_.reset();
  } else if (!at_work_.has_value()) {
    at_work_.emplace(gpu_);
  }
  return done;
}

bool Grid::AdvanceBlocks() {
  gridDim = grid_;
  while (true) {
    if (first_waiting_ != nullptr && first_waiting_->Advance()) first_waiting_.reset();
    if (current_ == nullptr) {
      if (next_ == order_.size()) return first_waiting_ == nullptr;
      current_ = Make(order_[next_++]);
    }
    if (current_->Advance()) {
      current_.reset();
    } else if (in_order_) {
      return false;
    } else {
      in_order_ = true;
      NoteThatWaits(kernel_);
      std::sort(order_.begin() + static_cast<ptrdiff_t>(next_), order_.end());
      first_waiting_ = std::move(current_);
    }
  }
}

}  // namespace tandem::cuda_emulation
