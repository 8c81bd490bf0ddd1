/// Holds core/cuda/nccl/nccl.h against NVIDIA's header, where there is one.
#if __has_include(<nccl.h>)
#include <nccl.h>

#include "core/cuda/nccl/nccl.h"

namespace tandem::core::nccl {
namespace {

static_assert(kSuccess == ncclSuccess);
static_assert(kInProgress == ncclInProgress);
static_assert(kUint8 == ncclUint8);
static_assert(kInt64 == ncclInt64);
static_assert(kFloat32 == ncclFloat32);
static_assert(kSum == ncclSum);
static_assert(VersionCode(NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH) == NCCL_VERSION_CODE);
static_assert(sizeof(UniqueId) == sizeof(ncclUniqueId));
static_assert(offsetof(Config, magic) == offsetof(ncclConfig_t, magic));
static_assert(offsetof(Config, version) == offsetof(ncclConfig_t, version));
static_assert(offsetof(Config, blocking) == offsetof(ncclConfig_t, blocking));
static_assert(sizeof(Config) <= sizeof(ncclConfig_t));

/// That a function of the library takes what ours is called with: each parameter of the same size.
template <typename... Ours, typename... Theirs>
constexpr bool SameSizes(int (*)(Ours...), ncclResult_t (*)(Theirs...)) {
  if constexpr (sizeof...(Ours) != sizeof...(Theirs)) {
    return false;
  } else {
    return ((sizeof(Ours) == sizeof(Theirs)) && ...);
  }
}
template <typename... Ours, typename... Theirs>
constexpr bool SameSizes(const char* (*)(Ours...), const char* (*)(Theirs...)) {
  return sizeof...(Ours) == sizeof...(Theirs);
}
constexpr Library kNone = {};
static_assert(SameSizes(kNone.GetVersion, decltype (&ncclGetVersion)(nullptr)));
static_assert(SameSizes(kNone.GetUniqueId, decltype (&ncclGetUniqueId)(nullptr)));
static_assert(SameSizes(kNone.CommInitRankConfig, decltype (&ncclCommInitRankConfig)(nullptr)));
static_assert(SameSizes(kNone.CommGetAsyncError, decltype (&ncclCommGetAsyncError)(nullptr)));
static_assert(SameSizes(kNone.CommAbort, decltype (&ncclCommAbort)(nullptr)));
static_assert(SameSizes(kNone.CommDestroy, decltype (&ncclCommDestroy)(nullptr)));
static_assert(SameSizes(kNone.AllReduce, decltype (&ncclAllReduce)(nullptr)));
static_assert(SameSizes(kNone.AllGather, decltype (&ncclAllGather)(nullptr)));
static_assert(SameSizes(kNone.GetErrorString, decltype (&ncclGetErrorString)(nullptr)));
static_assert(SameSizes(kNone.GetLastError, decltype (&ncclGetLastError)(nullptr)));
#if NCCL_VERSION_CODE >= NCCL_VERSION(2, 27, 0)
static_assert(kSymmetricWindow == NCCL_WIN_COLL_SYMMETRIC);
static_assert(sizeof(Window) == sizeof(ncclWindow_t));
static_assert(SameSizes(kNone.MemAlloc, decltype (&ncclMemAlloc)(nullptr)));
static_assert(SameSizes(kNone.MemFree, decltype (&ncclMemFree)(nullptr)));
static_assert(SameSizes(kNone.CommWindowRegister, decltype (&ncclCommWindowRegister)(nullptr)));
static_assert(SameSizes(kNone.CommWindowDeregister, decltype (&ncclCommWindowDeregister)(nullptr)));
#endif

}  // namespace
}  // namespace tandem::core::nccl
#endif
