#pragma once

struct CUstream_st;

namespace tandem::core {

/// CUDA's cudaStream_t, for those who do not see its headers.
using CudaStream = CUstream_st*;

}  // namespace tandem::core
