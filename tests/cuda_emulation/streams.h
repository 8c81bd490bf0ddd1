#pragma once

#include <cstdint>

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

}  // namespace tandem::cuda_emulation
