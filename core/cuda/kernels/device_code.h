#pragma once

#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>

/// What device code needs that CUDA C++ has only as an extension of the language. The tests replace
/// this header to run kernels on a CPU (tests/cuda_emulation); nothing else is different there.
namespace tandem::core {

/// T's in the shared memory of a block, whose size the launch sets; from `first_byte` of it on, a
/// multiple of sizeof(T). T: of 4 bytes or a multiple. Nothing is set when a block begins.
template <typename T>
class SharedArray {
 public:
  __device__ explicit SharedArray(size_t first_byte) {
    extern __shared__ __align__(16) unsigned char tandem_shared_memory[];
    data_ = reinterpret_cast<T*>(tandem_shared_memory + first_byte);
  }
  __device__ T& operator[](int index) const { return data_[index]; }

 private:
  T* data_;
};

/// Launch starts a kernel while the one before it still runs, on GPUs that can. So a kernel waits
/// before it reads anything that another kernel wrote, and before it writes; until then it may read
/// weights. All threads call; the tests tell who does not. Source: CUDA C++ Programming Guide 13.0,
/// "Programmatic Dependent Launch".
__device__ inline void WaitForKernelBefore() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel may start as soon as all blocks of this one have said so.
__device__ inline void LetNextKernelStart() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
/// Both: how a kernel begins that has nothing to read ahead.
__device__ inline void BeginKernel() {
  LetNextKernelStart();
  WaitForKernelBefore();
}

/// A word that several GPUs see, while their kernels run: who has loaded a value sees all that was
/// written before it was stored, by the thread itself, and by others before a barrier of its block.
/// Source: PTX ISA 9.0, memory consistency model (release and acquire patterns in scope sys).
__device__ inline void StoreForAll(uint32_t* word, uint32_t value) {
  asm volatile("st.release.sys.global.u32 [%0], %1;" ::"l"(word), "r"(value) : "memory");
}
__device__ inline uint32_t LoadOfAll(const uint32_t* word) {
  uint32_t value;
  asm volatile("ld.acquire.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(word) : "memory");
  return value;
}
/// A thread that waits in a loop for what another kernel stores calls it in each round.
__device__ inline void PauseInLoop() {}

/// Copies kBytes (4, 8 or 16, and so aligned) from memory of the device to byte `to` of the block's
/// shared memory, at some time until WaitForCopies. Source: PTX ISA 9.0, cp.async.
template <int kBytes>
__device__ void CopyAsync(int to, const void* from) {
  extern __shared__ __align__(16) unsigned char tandem_shared_memory[];
  const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(tandem_shared_memory + to));
  if constexpr (kBytes == 16) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
  } else {
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared), "l"(from), "n"(kBytes)
                 : "memory");
  }
}

/// How a kernel reads weights: past the first-level cache; and past the second, where each byte is
/// read once, so that what is read again stays there. Source: PTX ISA 9.0, createpolicy and ld.
class WeightReader {
 public:
  __device__ explicit WeightReader(bool once) {
    if (once) {
      asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy_));
    } else {
      asm("createpolicy.fractional.L2::evict_normal.b64 %0, 1.0;" : "=l"(policy_));
    }
  }

  /// 16, 8 or 4 bytes, and so aligned.
  __device__ uint4 Load16(const void* from) const {
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v4.u32 {%0, %1, %2, %3}, [%4], %5;"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(from), "l"(policy_));
    return v;
  }
  __device__ uint2 Load8(const void* from) const {
    uint2 v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.v2.u32 {%0, %1}, [%2], %3;"
                 : "=r"(v.x), "=r"(v.y)
                 : "l"(from), "l"(policy_));
    return v;
  }
  __device__ uint32_t Load4(const void* from) const {
    uint32_t v;
    asm volatile("ld.global.nc.L1::no_allocate.L2::cache_hint.u32 %0, [%1], %2;"
                 : "=r"(v)
                 : "l"(from), "l"(policy_));
    return v;
  }
  /// As CopyAsync<16>.
  __device__ void CopyAsync16(int to, const void* from) const {
    extern __shared__ __align__(16) unsigned char tandem_shared_memory[];
    const auto shared = static_cast<uint32_t>(__cvta_generic_to_shared(tandem_shared_memory + to));
    asm volatile("cp.async.cg.shared.global.L2::cache_hint [%0], [%1], 16, %2;" ::"r"(shared),
                 "l"(from), "l"(policy_)
                 : "memory");
  }

 private:
  uint64_t policy_ = 0;
};

/// The thread's copies since the last call are a group.
__device__ inline void CommitCopies() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits until all but the thread's last kGroups groups have arrived; others see them behind the
/// next barrier.
template <int kGroups>
__device__ void WaitForCopies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kGroups) : "memory");
}

/// Four matrices of 8 x 8 halves out of shared memory, by all 32 threads of a warp together.
/// row_at: a byte of shared memory, a multiple of 16, where row lane % 8 of matrix lane / 8 lies.
/// With transposed, a thread gets of matrix i, as the halves of words[i], rows 2 (lane % 4) and 2
/// (lane % 4) + 1 of column lane / 4; else row lane / 4 of these columns. Source: PTX ISA 9.0,
/// ldmatrix.
template <bool kTransposed>
__device__ void LoadMatrices(int row_at, uint32_t (&words)[4]) {
  extern __shared__ __align__(16) unsigned char tandem_shared_memory[];
  const auto at = static_cast<uint32_t>(__cvta_generic_to_shared(tandem_shared_memory + row_at));
  if constexpr (kTransposed) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(at)
                 : "memory");
  } else {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(words[0]), "=r"(words[1]), "=r"(words[2]), "=r"(words[3])
                 : "r"(at)
                 : "memory");
  }
}

/// c += a * b on a tensor core, by all 32 threads of a warp together: float16, sums in float32. a
/// is 16 rows x 16, b 16 x 8 columns, c 16 x 8. With row = lane / 4 and two = 2 (lane % 4), a
/// thread holds, two halves a word,
///
///     a[0], a[1]: row and row + 8, elements two and two + 1
///     a[2], a[3]: the same 8 elements further
///     b[0], b[1]: the same elements as a[0] and a[2], of column lane / 4
///     c: as MultiplyBytes32 has it
///
/// Source: PTX ISA 9.0, mma.m16n8k16.
__device__ inline void MultiplyHalves(const uint32_t (&a)[4], uint32_t b0, uint32_t b1,
                                      float (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, {%0, %1, %2, %3};"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// 2^x, nearly: for fast mode. 0 for -infinity.
__device__ inline float NearExp2(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

/// c = start + a * b on a tensor core, by all 32 threads of a warp together: signed bytes, exact
/// sums. a is 16 rows x 32, b 32 x 8 columns, c 16 x 8. With row = lane / 4 and four = lane % 4, a
/// thread holds
///
///     a[0], a[1]: row and row + 8, elements 4 four to 4 four + 3 of it, one a byte
///     a[2], a[3]: the same 16 elements further
///     b[0], b[1]: the same elements as a[0] and a[2], of column lane / 4
///     c[0], c[1]: row, columns 2 four and 2 four + 1
///     c[2], c[3]: row + 8, the same columns
///
/// Source: PTX ISA 9.0, mma.m16n8k32.
__device__ inline void MultiplyBytes32(const uint32_t (&a)[4], const uint32_t (&b)[2],
                                       int32_t start, int32_t (&c)[4]) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, "
      "%9}, {%10, %10, %10, %10};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]), "r"(start));
}

/// The same with 16 elements a row: a[0], a[1] and b as above, without the second half. Source:
/// mma.m16n8k16.
__device__ inline void MultiplyBytes16(const uint32_t (&a)[2], uint32_t b, int32_t start,
                                       int32_t (&c)[4]) {
  asm("mma.sync.aligned.m16n8k16.row.col.s32.s8.s8.s32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%7, %7, "
      "%7, %7};"
      : "=r"(c[0]), "=r"(c[1]), "=r"(c[2]), "=r"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(b), "r"(start));
}

}  // namespace tandem::core
