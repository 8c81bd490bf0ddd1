#pragma once

#include <cstdint>
#include <functional>

struct CUstream_st;

namespace tandem::cuda_emulation {

/// Sets what the order of blocks and threads follows from, for launches from now on, of all
/// threads.
///
/// What is put into a stream runs as late as it may: when somebody waits for it. So a host that
/// reads results, or changes what a copy reads, before it has waited, is found out.
void SetSeed(uint64_t seed);

/// Kernels that were launched so far.
uint64_t Launches();

/// Bytes that copies took from the device to the host so far.
uint64_t BytesToHost();

/// Launches of graphs so far.
uint64_t GraphLaunches();
/// Those on this GPU at which the graph that was launched before was not done: the host had not
/// waited for it.
uint64_t GraphLaunchesAhead(int gpu);

/// Puts work into a stream that may need other threads or processes: what `work` makes is called
/// until it gives true, and others have the emulated GPUs between two calls. A cudaError_t.
int PutPolled(CUstream_st* stream, std::function<std::function<bool()>()> work);

}  // namespace tandem::cuda_emulation
