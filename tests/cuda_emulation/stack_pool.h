#pragma once

#include <boost/context/stack_context.hpp>

namespace tandem::cuda_emulation {

/// Stacks of fibers, kept by each host thread for its next block. Below each is a page that faults.
struct StackPool {
  boost::context::stack_context allocate();
  void deallocate(boost::context::stack_context& stack) noexcept;
};

}  // namespace tandem::cuda_emulation
