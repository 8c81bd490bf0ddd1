#pragma once

#include <cuda_runtime.h>

#include <cstddef>

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

}  // namespace tandem::core
