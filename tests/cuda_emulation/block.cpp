#include "tests/cuda_emulation/block.h"

#include <cstdio>
#include <cstdlib>
#include <map>

#include "fmt/format.h"
#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/cuda_emulation/stack_pool.h"

thread_local constinit uint3 threadIdx = {0, 0, 0};
thread_local constinit uint3 blockIdx = {0, 0, 0};
thread_local constinit dim3 blockDim = {0, 0, 0};
thread_local constinit dim3 gridDim = {0, 0, 0};

namespace tandem::cuda_emulation {
namespace {

thread_local Block* current_block = nullptr;

bool SameSite(const Site& a, const Site& b) {
  return a.line == b.line && (a.file == b.file || std::strcmp(a.file, b.file) == 0);
}

std::string Text(const Site& site) { return fmt::format("{}:{}", site.file, site.line); }

}  // namespace

void Fail(const std::string& what) {
  const Block* block = Block::CurrentOrNull();
  std::fprintf(stderr, "CUDA emulation: %s%s\n", what.c_str(),
               block == nullptr ? "" : (", in " + block->Name()).c_str());
  std::abort();
}

Block::Block(const BlockPlace& place, uint64_t seed, const std::function<void()>& thread)
    : place_(place),
      random_(seed | 1),
      thread_function_(thread),
      shared_(place.shared_bytes),
      threads_(size_t{place.threads_x} * place.threads_y * place.threads_z),
      warp_epochs_((threads_.size() + kWarp - 1) / kWarp) {}

Block& Block::Current() {
  if (current_block == nullptr) Fail("device code runs outside of a kernel");
  return *current_block;
}

Block* Block::CurrentOrNull() { return current_block; }

std::string Block::Name() const {
  const std::string thread = in_thread_ ? fmt::format(", thread {}", running_) : "";
  return fmt::format("block ({}, {}, {}) of {} threads{}", place_.x, place_.y, place_.z,
                     threads_.size(), thread);
}

void Block::Begin() {
  begun_ = true;
  const auto count = static_cast<int>(threads_.size());
  for (int i = 0; i < count; ++i) {
    threads_[static_cast<size_t>(i)].fiber = boost::context::fiber(
        std::allocator_arg, StackPool(), [this](boost::context::fiber&& scheduler) {
          scheduler_ = std::move(scheduler);
          thread_function_();
          Thread& self = threads_[static_cast<size_t>(running_)];
          if (place_.starts_early && !self.waited) {
            Fail("a thread returns that never waited for the kernel before");
          }
          if (!self.copies.done()) Fail("a thread returns with copies that it did not wait for");
          self.wait = Wait::kReturned;
          return std::move(scheduler_);
        });
    ready_.push_back(i);
  }
}

bool Block::Advance() {
  current_block = this;
  blockIdx = {place_.x, place_.y, place_.z};
  blockDim = {place_.threads_x, place_.threads_y, place_.threads_z};
  if (!begun_) Begin();
  for (const int thread : in_loops_) Release(thread);
  in_loops_.clear();
  while (!ready_.empty()) {
    // Marsaglia 2003 (xorshift).
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    const size_t pick = (random_ >> 16) % ready_.size();
    const int next = ready_[pick];
    ready_[pick] = ready_.back();
    ready_.pop_back();
    Resume(next);
  }
  if (in_loops_.empty()) {
    for (const Thread& state : threads_) {
      if (state.wait != Wait::kReturned) FailStuck();
    }
  }
  current_block = nullptr;
  return in_loops_.empty();
}

void Block::PauseInLoop() {
  threads_[static_cast<size_t>(running_)].wait = Wait::kLoop;
  in_loops_.push_back(running_);
  scheduler_ = std::move(scheduler_).resume();
}

void Block::Resume(int thread) {
  running_ = thread;
  const auto index = static_cast<unsigned>(thread);
  threadIdx = {index % place_.threads_x, index / place_.threads_x % place_.threads_y,
               index / place_.threads_x / place_.threads_y};
  boost::context::fiber& fiber = threads_[index].fiber;
  in_thread_ = true;
  fiber = std::move(fiber).resume();
  in_thread_ = false;
}

void Block::Release(int thread) {
  threads_[static_cast<size_t>(thread)].wait = Wait::kNone;
  ready_.push_back(thread);
}

void Block::SyncThreads(const Site& site) {
  ++arrived_;
  Thread& self = threads_[static_cast<size_t>(running_)];
  self.wait = Wait::kBlock;
  self.site = site;
  if (arrived_ == static_cast<int>(threads_.size())) ReleaseBlock();
  scheduler_ = std::move(scheduler_).resume();
}

void Block::ReleaseBlock() {
  const Site& first = threads_[0].site;
  for (size_t i = 0; i < threads_.size(); ++i) {
    const Site& site = threads_[i].site;
    if (!SameSite(site, first)) {
      Fail(fmt::format("threads 0 and {} meet at different barriers: {} and {}", i, Text(first),
                       Text(site)));
    }
    Release(static_cast<int>(i));
  }
  arrived_ = 0;
  ++block_epoch_;
}

void Block::MeetInWarp(Wait wait, uint32_t mask, const Site& site) {
  const int first = running_ / kWarp * kWarp;
  Thread& self = threads_[static_cast<size_t>(running_)];
  self.mask = mask;
  if ((mask >> lane() & 1) == 0) {
    Fail(fmt::format("the mask {:#x} at {} lacks the thread's own lane {}", mask, Text(site),
                     lane()));
  }
  self.wait = wait;
  self.site = site;
  if (first + kWarp - __builtin_clz(mask) > static_cast<int>(threads_.size())) {
    Fail(fmt::format("the mask {:#x} at {} names lanes that the block does not have", mask,
                     Text(site)));
  }
  bool all = true;
  for (int i = 0; i < kWarp && all; ++i) {
    if ((mask >> i & 1) == 0) continue;
    const Thread& other = threads_[static_cast<size_t>(first + i)];
    all = other.wait == wait && other.mask == mask && SameSite(other.site, site);
  }
  if (all) ReleaseWarp(first, mask);
  scheduler_ = std::move(scheduler_).resume();
}

void Block::ReleaseWarp(int first, uint32_t mask) {
  uint32_t ballot = 0;
  for (int i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) == 0) continue;
    if (threads_[static_cast<size_t>(first + i)].value != 0) ballot |= 1U << i;
  }
  for (int i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) == 0) continue;
    Thread& thread = threads_[static_cast<size_t>(first + i)];
    if (thread.wait == Wait::kBallot) {
      thread.result = ballot;
    } else if (thread.wait == Wait::kExchange) {
      if (thread.source < 0 || thread.source >= kWarp || (mask >> thread.source & 1) == 0) {
        Fail(fmt::format("the shuffle at {} reads lane {}, which the mask {:#x} lacks",
                         Text(thread.site), thread.source, mask));
      }
      thread.result = threads_[static_cast<size_t>(first + thread.source)].value;
    } else if (thread.wait == Wait::kExchangeAll) {
      for (int j = 0; j < kWarp; ++j) {
        thread.all[j] = threads_[static_cast<size_t>(first + j)].value;
      }
    }
  }
  const bool orders = threads_[static_cast<size_t>(running_)].wait == Wait::kWarp;
  if (orders && mask == 0xffffffff) ++warp_epochs_[static_cast<size_t>(first / kWarp)];
  for (int i = 0; i < kWarp; ++i) {
    if ((mask >> i & 1) != 0) Release(first + i);
  }
}

void Block::SyncWarp(uint32_t mask, const Site& site) { MeetInWarp(Wait::kWarp, mask, site); }

uint64_t Block::Exchange(uint32_t mask, uint64_t value, int source, const Site& site) {
  const auto self = static_cast<size_t>(running_);
  threads_[self].value = value;
  threads_[self].source = source;
  MeetInWarp(Wait::kExchange, mask, site);
  return threads_[self].result;
}

uint32_t Block::Ballot(uint32_t mask, bool predicate, const Site& site) {
  const auto self = static_cast<size_t>(running_);
  threads_[self].value = predicate ? 1 : 0;
  MeetInWarp(Wait::kBallot, mask, site);
  return static_cast<uint32_t>(threads_[self].result);
}

void Block::ExchangeAll(uint64_t value, uint64_t (&all)[kWarp], const Site& site) {
  Thread& self = threads_[static_cast<size_t>(running_)];
  self.value = value;
  self.all = all;
  MeetInWarp(Wait::kExchangeAll, 0xffffffff, site);
}

void Block::FailStuck() const {
  std::map<std::string, int> places;
  for (const Thread& thread : threads_) {
    if (thread.wait == Wait::kReturned) {
      ++places["have returned"];
    } else if (thread.wait == Wait::kBlock) {
      ++places["wait for the block at " + Text(thread.site)];
    } else {
      ++places[fmt::format("wait for the lanes {:#x} of their warp at {}", thread.mask,
                           Text(thread.site))];
    }
  }
  std::string text = "divergence: a rendezvous waits for threads that do not come:";
  const char* separator = " ";
  for (const auto& [place, count] : places) {
    text += fmt::format("{}{} of {} threads {}", separator, count, threads_.size(), place);
    separator = ", ";
  }
  Fail(text);
}

}  // namespace tandem::cuda_emulation
