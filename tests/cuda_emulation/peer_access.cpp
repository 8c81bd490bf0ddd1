// What the emulated runtime knows of memory that several GPUs, and several processes, touch.

#include <unistd.h>

#include "tests/cuda_emulation/cuda_runtime.h"
#include "tests/cuda_emulation/device_buffers.h"
#include "tests/cuda_emulation/gpus.h"

using tandem::cuda_emulation::CurrentGpu;
using tandem::cuda_emulation::SharedBuffer;
using tandem::cuda_emulation::TheGpus;

namespace {

bool Reach(int gpu, int other) {
  const int without = TheGpus().without_peers;
  return gpu != without && other != without;
}

}  // namespace

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  const int count = TheGpus().count;
  if (device < 0 || device >= count || peer < 0 || peer >= count) return cudaErrorInvalidDevice;
  *can = device != peer && Reach(device, peer) ? 1 : 0;
  return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned flags) {
  if (const int error = tandem::cuda_emulation::NextCall(); error != 0) {
    return static_cast<cudaError_t>(error);
  }
  if (flags != 0) return cudaErrorInvalidValue;
  int can = 0;
  if (const cudaError_t error = cudaDeviceCanAccessPeer(&can, CurrentGpu(), peer);
      error != cudaSuccess) {
    return error;
  }
  if (can == 0) return cudaErrorPeerAccessUnsupported;
  return tandem::cuda_emulation::LetReach(CurrentGpu(), peer) ? cudaSuccess
                                                              : cudaErrorPeerAccessAlreadyEnabled;
}

cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* memory) {
  if (const int error = tandem::cuda_emulation::NextCall(); error != 0) {
    return static_cast<cudaError_t>(error);
  }
  *handle = {};
  SharedBuffer shared;
  static_assert(sizeof(shared) <= sizeof(handle->reserved));
  if (!tandem::cuda_emulation::ShareBuffer(memory, shared)) return cudaErrorInvalidValue;
  std::memcpy(handle->reserved, &shared, sizeof(shared));
  return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void** memory, cudaIpcMemHandle_t handle, unsigned flags) {
  if (const int error = tandem::cuda_emulation::NextCall(); error != 0) {
    return static_cast<cudaError_t>(error);
  }
  *memory = nullptr;
  if (flags != cudaIpcMemLazyEnablePeerAccess) return cudaErrorInvalidValue;
  SharedBuffer shared;
  std::memcpy(&shared, handle.reserved, sizeof(shared));
  if (shared.process == getpid()) return cudaErrorDeviceUninitialized;  // as CUDA has it
  if (!TheGpus().opens_handles) return cudaErrorMapBufferObjectFailed;
  if (shared.gpu != CurrentGpu() && !Reach(CurrentGpu(), shared.gpu)) {
    return cudaErrorPeerAccessUnsupported;
  }
  *memory = tandem::cuda_emulation::MapBuffer(shared, CurrentGpu());
  return *memory == nullptr ? cudaErrorMapBufferObjectFailed : cudaSuccess;
}

cudaError_t cudaIpcCloseMemHandle(void* memory) {
  if (const int error = tandem::cuda_emulation::NextCall(); error != 0) {
    return static_cast<cudaError_t>(error);
  }
  return tandem::cuda_emulation::FreeBuffer(memory) ? cudaSuccess : cudaErrorInvalidValue;
}
