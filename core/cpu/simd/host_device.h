#pragma once

/// Before functions that kernels of a GPU call too, written once for both (docs/numerics.md, rule
/// 5).
#ifdef __CUDACC__
#define TANDEM_HOST_DEVICE __host__ __device__
#else
#define TANDEM_HOST_DEVICE
#endif
