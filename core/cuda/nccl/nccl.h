#pragma once

#include <cstddef>
#include <cstdint>

#include "core/cuda/kernels/cuda_stream.h"

/// The part of NCCL that is called, declared here since the library is found at run time and a
/// machine may have no header of it. nccl_header.cu compares both. Source: NCCL 2.28, "NCCL API".
namespace tandem::core::nccl {

// NOLINTBEGIN: the names are NVIDIA's, without nccl

using Comm = void*;
using Window = void*;
struct UniqueId {
  char internal[128];
};

inline constexpr int kSuccess = 0;
inline constexpr int kInProgress = 7;
inline constexpr int kUint8 = 1;
inline constexpr int kInt64 = 4;
inline constexpr int kFloat32 = 7;
inline constexpr int kSum = 0;
inline constexpr int kSymmetricWindow = 1;

/// As versions are numbered since 2.9.
inline constexpr int VersionCode(int major, int minor, int patch) {
  return major * 10000 + minor * 100 + patch;
}
/// The first whose communicators need not block.
inline constexpr int kOldestVersion = VersionCode(2, 14, 0);
/// The first that lets several ranks use one GPU, where NCCL_MULTI_RANK_GPU_ENABLE is set.
inline constexpr int kSharedGpuVersion = VersionCode(2, 30, 3);

/// The first with symmetric windows.
inline constexpr int kWindowVersion = VersionCode(2, 27, 0);

/// The configuration as of kOldestVersion: later libraries take what it does not have as not set.
struct Config {
  size_t size = sizeof(Config);
  unsigned magic = 0xcafebeef;
  unsigned version = kOldestVersion;
  int blocking = 0;
};

/// The functions, by their names without nccl. All but the texts give a result.
struct Library {
  int (*GetVersion)(int*);
  int (*GetUniqueId)(UniqueId*);
  int (*CommInitRankConfig)(Comm*, int ranks, UniqueId, int rank, Config*);
  int (*CommGetAsyncError)(Comm, int*);
  int (*CommAbort)(Comm);
  int (*CommDestroy)(Comm);
  int (*AllReduce)(const void* from, void* to, size_t count, int type, int operation, Comm,
                   CudaStream);
  int (*AllGather)(const void* from, void* to, size_t count, int type, Comm, CudaStream);
  const char* (*GetErrorString)(int);
  const char* (*GetLastError)(Comm);
  // From kWindowVersion on; null: not there.
  int (*MemAlloc)(void** memory, size_t bytes);
  int (*MemFree)(void* memory);
  int (*CommWindowRegister)(Comm, void* memory, size_t bytes, Window*, int flags);
  int (*CommWindowDeregister)(Comm, Window);
};

// NOLINTEND

}  // namespace tandem::core::nccl
