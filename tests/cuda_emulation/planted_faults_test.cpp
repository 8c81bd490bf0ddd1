#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/cuda/kernels/device_code.h"
#include "tests/cuda_emulation/gpus.h"
#include "tests/cuda_emulation/streams.h"

/// Each kernel here does something wrong, and the emulation says what.
namespace tandem::core {
namespace {

class Stream {
 public:
  Stream() { cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking); }
  ~Stream() { cudaStreamDestroy(stream_); }
  template <typename... Parameters, typename... Arguments>
  cudaError_t Put(dim3 grid, unsigned threads, size_t shared_bytes, void (*kernel)(Parameters...),
                  Arguments... arguments) {
    cudaLaunchConfig_t config;
    config.gridDim = grid;
    config.blockDim = threads;
    config.dynamicSmemBytes = shared_bytes;
    config.stream = stream_;
    return cudaLaunchKernelEx(&config, kernel, arguments...);
  }
  template <typename... Parameters, typename... Arguments>
  void Run(dim3 grid, unsigned threads, size_t shared_bytes, void (*kernel)(Parameters...),
           Arguments... arguments) {
    ASSERT_EQ(Put(grid, threads, shared_bytes, kernel, arguments...), cudaSuccess);
    cudaStreamSynchronize(stream_);
  }
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

template <typename T>
class Buffer {
 public:
  explicit Buffer(size_t count) : count_(count) {
    void* data = nullptr;
    cudaMalloc(&data, count * sizeof(T));
    data_ = static_cast<T*>(data);
  }
  ~Buffer() { cudaFree(data_); }
  T* data() const { return data_; }
  std::vector<T> Read(const Stream& stream) const {
    std::vector<T> values(count_);
    cudaMemcpyAsync(values.data(), data_, count_ * sizeof(T), cudaMemcpyDeviceToHost, stream.get());
    cudaStreamSynchronize(stream.get());
    return values;
  }

 private:
  T* data_ = nullptr;
  size_t count_;
};

/// Sums a value of each thread, right if `barriers`.
__global__ void SumThreads(int* out, bool first_barrier, bool last_barrier) {
  const SharedArray<int> values(0);
  const int thread = static_cast<int>(threadIdx.x);
  values[thread] = thread;
  if (first_barrier) __syncthreads();
  if (thread == 0) {
    int sum = 0;
    for (int i = 0; i < static_cast<int>(blockDim.x); ++i) sum += values[i];
    out[blockIdx.x] = sum;
  }
  if (last_barrier) __syncthreads();
  values[thread] = -thread;
}

TEST(CudaEmulation, RunsWhatIsRight) {
  Stream stream;
  const Buffer<int> out(3);
  stream.Run(3, 96, 96 * sizeof(int), SumThreads, out.data(), true, true);
  EXPECT_EQ(out.Read(stream), (std::vector<int>(3, 95 * 96 / 2)));
}

TEST(CudaEmulationDeathTest, FindsAMissingBarrierBeforeARead) {
  Stream stream;
  const Buffer<int> out(1);
  EXPECT_DEATH(stream.Run(1, 96, 96 * sizeof(int), SumThreads, out.data(), false, true),
               "(never written|race in shared memory: thread [0-9]+ reads)");
}

TEST(CudaEmulationDeathTest, FindsARaceBetweenAReadAndALaterWrite) {
  Stream stream;
  const Buffer<int> out(1);
  EXPECT_DEATH(stream.Run(1, 96, 96 * sizeof(int), SumThreads, out.data(), true, false),
               "race in shared memory: thread [0-9]+ (reads|writes) word [0-9]+, which thread");
}

/// Each lane passes a value to the next through shared memory.
__global__ void PassOn(int* out, bool warp_barrier) {
  const SharedArray<int> values(0);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const int first = static_cast<int>(threadIdx.x) - lane;
  values[first + lane] = lane;
  if (warp_barrier) __syncwarp();
  out[first + lane] = values[first + (lane + 1) % 32];
}

TEST(CudaEmulation, AWarpIsOrderedByItsOwnBarrier) {
  Stream stream;
  const Buffer<int> out(64);
  stream.Run(1, 64, 64 * sizeof(int), PassOn, out.data(), true);
  EXPECT_EQ(out.Read(stream)[33], 2);
}

TEST(CudaEmulationDeathTest, FindsAMissingBarrierOfAWarp) {
  Stream stream;
  const Buffer<int> out(64);
  EXPECT_DEATH(stream.Run(1, 64, 64 * sizeof(int), PassOn, out.data(), false),
               "(never written|race in shared memory)");
}

/// out[i] = the number of threads that came before, which follows from the order alone.
__global__ void CountBefore(int* out, int* counter) {
  out[blockIdx.x * blockDim.x + threadIdx.x] = atomicAdd(counter, 1);
}

TEST(CudaEmulation, TheOrderOfThreadsAndBlocksFollowsFromTheSeed) {
  Stream stream;
  std::vector<std::vector<int>> orders;
  for (const uint64_t seed : {1, 2, 3}) {
    cuda_emulation::SetSeed(seed);
    const Buffer<int> counter(1);
    const Buffer<int> out(128);
    cudaMemsetAsync(counter.data(), 0, sizeof(int), stream.get());
    stream.Run(4, 32, 0, CountBefore, out.data(), counter.data());
    orders.push_back(out.Read(stream));
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_NE(orders[1], orders[2]);
}

__global__ void ReadAt(const int* from, int index, int* out) { *out = from[index]; }
__global__ void WriteAt(int* to, int index) { to[index] = 7; }

TEST(CudaEmulationDeathTest, FindsAReadBehindTheEnd) {
  Stream stream;
  const Buffer<int> from(100);  // 400 bytes; 48 more make the beginning aligned
  const Buffer<int> out(1);
  EXPECT_DEATH(stream.Run(1, 1, 0, ReadAt, from.data(), 112, out.data()),
               "access 48 bytes behind the end of a buffer of 400 bytes, in block .0, 0, 0. of 1 "
               "threads, thread 0");
}

TEST(CudaEmulationDeathTest, FindsAReadBeforeTheBeginning) {
  Stream stream;
  const Buffer<int> from(1024);
  const Buffer<int> out(1);
  EXPECT_DEATH(stream.Run(1, 1, 0, ReadAt, from.data(), -1, out.data()),
               "access 4 bytes before the beginning of a buffer of 4096 bytes");
}

TEST(CudaEmulationDeathTest, FindsAWriteIntoWhatAlignmentLeftOver) {
  Stream stream;
  EXPECT_DEATH(
      {
        const Buffer<int> to(100);
        stream.Run(1, 1, 0, WriteAt, to.data(), 101);
      },
      "wrote 4 bytes behind the end of a buffer of 400 bytes");
}

TEST(CudaEmulation, WhatWasNeverWrittenIsNotANumber) {
  Stream stream;
  const Buffer<float> floats(5);
  for (const float value : floats.Read(stream)) EXPECT_TRUE(std::isnan(value));
}

__global__ void ReadShared(int* out, int index) {
  const SharedArray<int> values(0);
  *out = values[index];
}

TEST(CudaEmulationDeathTest, FindsReadsOfSharedMemoryThatIsNotSetOrNotThere) {
  Stream stream;
  const Buffer<int> out(1);
  EXPECT_DEATH(stream.Run(1, 1, 16, ReadShared, out.data(), 3), "word 3 .*never written");
  EXPECT_DEATH(stream.Run(1, 1, 16, ReadShared, out.data(), 4), "read of word 4 of 4 words");
}

__global__ void DivergentBarrier() {
  if (threadIdx.x < 40) __syncthreads();
}

TEST(CudaEmulationDeathTest, FindsABarrierThatSomeThreadsDoNotReach) {
  Stream stream;
  EXPECT_DEATH(stream.Run(1, 64, 0, DivergentBarrier),
               "divergence: .* 24 of 64 threads have returned, 40 of 64 threads wait for the block "
               "at .*planted_faults_test.cpp:[0-9]+, in block");
}

__global__ void DifferentBarriers() {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}

TEST(CudaEmulationDeathTest, FindsDifferentBarriersThatMeet) {
  Stream stream;
  EXPECT_DEATH(stream.Run(1, 64, 0, DifferentBarriers), "meet at different barriers");
}

__global__ void DivergentShuffle(int* out) {
  if (threadIdx.x == 5) return;
  out[threadIdx.x] = __shfl_xor_sync(0xffffffff, static_cast<int>(threadIdx.x), 1);
}
__global__ void ShuffleFromOutside(int* out) {
  if (threadIdx.x >= 16) return;
  out[threadIdx.x] = __shfl_xor_sync(0xffff, static_cast<int>(threadIdx.x), 16);
}

TEST(CudaEmulationDeathTest, FindsAShuffleThatSomeLanesDoNotReach) {
  Stream stream;
  const Buffer<int> out(32);
  EXPECT_DEATH(stream.Run(1, 32, 0, DivergentShuffle, out.data()),
               "divergence: .* 1 of 32 threads have returned, 31 of 32 threads wait for the lanes "
               "0xffffffff");
  EXPECT_DEATH(stream.Run(1, 32, 0, ShuffleFromOutside, out.data()),
               "reads lane [0-9]+, which the mask 0xffff lacks");
}

__global__ void Shuffles(int* out) {
  const int lane = static_cast<int>(threadIdx.x) % 32;
  int* mine = out + 5 * threadIdx.x;
  mine[0] = __shfl_sync(0xffffffff, lane, 3, 16);
  mine[1] = __shfl_down_sync(0xffffffff, lane, 8, 16);
  mine[2] = __shfl_xor_sync(0xffffffff, lane, 5);
  mine[3] = static_cast<int>(__ballot_sync(0xffffffff, lane % 3 == 0));
  mine[4] = __any_sync(0xffffffff, lane == 7) + 2 * __all_sync(0xffffffff, lane != 7);
}

TEST(CudaEmulation, ShufflesAndVotesGiveWhatCudaGives) {
  Stream stream;
  const Buffer<int> out(5 * 64);
  stream.Run(1, 64, 0, Shuffles, out.data());
  const std::vector<int> values = out.Read(stream);
  for (int thread = 0; thread < 64; ++thread) {
    const int lane = thread % 32;
    const int* mine = values.data() + 5 * thread;
    EXPECT_EQ(mine[0], lane / 16 * 16 + 3);
    EXPECT_EQ(mine[1], lane % 16 < 8 ? lane + 8 : lane);
    EXPECT_EQ(mine[2], lane ^ 5);
    EXPECT_EQ(mine[3], 0x49249249);
    EXPECT_EQ(mine[4], 1);
  }
}

/// a: [16, 32] and b: [8, 32] bytes, of which kElements are used; c: [16, 8] = 5 + a * b.
template <int kElements>
__global__ void MultiplyOnce(const int8_t* a, const int8_t* b, int* c) {
  const int lane = static_cast<int>(threadIdx.x);
  const auto word = [lane](const int8_t* rows, int row, int half) {
    uint32_t four;
    std::memcpy(&four, rows + 32 * row + 16 * half + 4 * (lane % 4), sizeof(four));
    return four;
  };
  const int row = lane / 4;
  int* mine = c + 8 * row + 2 * (lane % 4);
  int32_t sums[4];
  if constexpr (kElements == 32) {
    const uint32_t of_a[4] = {word(a, row, 0), word(a, row + 8, 0), word(a, row, 1),
                              word(a, row + 8, 1)};
    const uint32_t of_b[2] = {word(b, row, 0), word(b, row, 1)};
    MultiplyBytes32(of_a, of_b, 5, sums);
  } else {
    const uint32_t of_a[2] = {word(a, row, 0), word(a, row + 8, 0)};
    MultiplyBytes16(of_a, word(b, row, 0), 5, sums);
  }
  mine[0] = sums[0];
  mine[1] = sums[1];
  mine[64] = sums[2];
  mine[65] = sums[3];
}

TEST(CudaEmulation, TensorCoresMultiplyMatrices) {
  for (const int elements : {16, 32}) {
    Stream stream;
    const Buffer<int8_t> a(16 * 32);
    const Buffer<int8_t> b(8 * 32);
    const Buffer<int> c(16 * 8);
    std::vector<int8_t> bytes(24 * 32);
    for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<int8_t>(i * i * 37 + i * 11);
    cudaMemcpyAsync(a.data(), bytes.data(), 16 * 32, cudaMemcpyHostToDevice, stream.get());
    cudaMemcpyAsync(b.data(), bytes.data() + 16 * 32, 8 * 32, cudaMemcpyHostToDevice, stream.get());
    stream.Run(1, 32, 0, elements == 32 ? MultiplyOnce<32> : MultiplyOnce<16>, a.data(), b.data(),
               c.data());
    const std::vector<int> found = c.Read(stream);
    for (int row = 0; row < 16; ++row) {
      for (int column = 0; column < 8; ++column) {
        int sum = 5;
        for (int i = 0; i < elements; ++i) {
          sum += bytes[static_cast<size_t>(32 * row + i)] *
                 bytes[static_cast<size_t>(32 * (16 + column) + i)];
        }
        EXPECT_EQ(found[static_cast<size_t>(8 * row + column)], sum) << row << " " << column;
      }
    }
  }
}

/// Threads copy one word each, and read that of their neighbour, right if `waits` and `meets`.
__global__ void CopyWords(const int* from, bool waits, bool meets, int* to) {
  BeginKernel();
  const int thread = static_cast<int>(threadIdx.x);
  const int neighbour = (thread + 1) % static_cast<int>(blockDim.x);
  const SharedArray<int> words(0);
  CopyAsync<4>(4 * thread, from + thread);
  CommitCopies();
  if (waits) WaitForCopies<0>();
  if (meets) __syncthreads();
  to[thread] = words[neighbour];
  WaitForCopies<0>();
}

TEST(CudaEmulation, CopiesArriveInSharedMemory) {
  Stream stream;
  const Buffer<int> from(64);
  const Buffer<int> to(64);
  std::vector<int> values(64);
  std::iota(values.begin(), values.end(), 100);
  cudaMemcpyAsync(from.data(), values.data(), 256, cudaMemcpyHostToDevice, stream.get());
  stream.Run(1, 64, 256, CopyWords, from.data(), true, true, to.data());
  std::rotate(values.begin(), values.begin() + 1, values.end());
  EXPECT_EQ(to.Read(stream), values);
}

TEST(CudaEmulationDeathTest, FindsACopyThatIsReadBeforeItArrives) {
  Stream stream;
  const Buffer<int> from(64);
  const Buffer<int> to(64);
  EXPECT_DEATH(stream.Run(1, 64, 256, CopyWords, from.data(), false, true, to.data()),
               "race in shared memory");
}

TEST(CudaEmulationDeathTest, FindsACopyThatIsReadWithoutABarrier) {
  Stream stream;
  const Buffer<int> from(64);
  const Buffer<int> to(64);
  EXPECT_DEATH(stream.Run(1, 64, 256, CopyWords, from.data(), true, false, to.data()),
               "race in shared memory|which was never written");
}

__global__ void CopyAndLeave(const int* from) {
  CopyAsync<4>(0, from);
  CommitCopies();
}

TEST(CudaEmulationDeathTest, FindsACopyThatIsLeftBehind) {
  Stream stream;
  const Buffer<int> from(1);
  EXPECT_DEATH(stream.Run(1, 1, 4, CopyAndLeave, from.data()),
               "a thread returns with copies that it did not wait for");
}

__global__ void MisalignedCopy(const int* from) { CopyAsync<16>(0, from + 1); }

TEST(CudaEmulationDeathTest, FindsACopyThatIsNotAligned) {
  Stream stream;
  const Buffer<int> from(8);
  EXPECT_DEATH(stream.Run(1, 1, 16, MisalignedCopy, from.data()), "is not aligned");
}

/// to = what stands after `skipped` words, by a copy and by a read.
__global__ void ReadWeights(const unsigned* from, int skipped, bool copies, bool waits, uint4* to) {
  const WeightReader reader(true);
  if (copies) reader.CopyAsync16(0, from + skipped);
  CommitCopies();
  if (waits) WaitForCopies<0>();
  to[0] = copies ? SharedArray<uint4>(0)[0] : reader.Load16(from + skipped);
  WaitForCopies<0>();
}

TEST(CudaEmulationDeathTest, FindsWeightsThatAreReadWrongly) {
  Stream stream;
  const Buffer<unsigned> from(8);
  const Buffer<uint4> to(1);
  cudaMemsetAsync(from.data(), 7, 32, stream.get());
  const auto read = [&](int skipped, bool copies, bool waits) {
    stream.Run(1, 1, 16, ReadWeights, from.data(), skipped, copies, waits, to.data());
    return to.Read(stream)[0].w;
  };
  EXPECT_EQ(read(4, false, true), 0x07070707U);
  EXPECT_EQ(read(4, true, true), 0x07070707U);
  EXPECT_NE(read(4, true, false), 0x07070707U);
  EXPECT_DEATH(read(2, false, true), "a read of 16 bytes is not aligned");
  EXPECT_DEATH(read(2, true, true), "a copy of 16 bytes .* is not aligned");
}

__global__ void WaitsWhere(bool waits) {
  if (waits || threadIdx.x > 0) WaitForKernelBefore();
}

TEST(CudaEmulationDeathTest, FindsAThreadThatDoesNotWaitForTheKernelBefore) {
  cudaLaunchAttribute early = {};
  early.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  early.val.programmaticStreamSerializationAllowed = 1;
  Stream stream;
  cudaLaunchConfig_t config;
  config.gridDim = 1;
  config.blockDim = 32;
  config.stream = stream.get();
  config.attrs = &early;
  config.numAttrs = 1;
  const auto run = [&](bool waits) {
    cudaLaunchKernelEx(&config, WaitsWhere, waits);
    cudaStreamSynchronize(stream.get());
  };
  run(true);
  EXPECT_DEATH(run(false), "a thread returns that never waited for the kernel before");
}

TEST(CudaEmulation, DotsOfBytesAreSigned) {
  EXPECT_EQ(__dp4a(0x01ff807f, 0x02027f80, 5), 5 + 2 - 2 - 128 * 127 - 128 * 127);
}

TEST(CudaEmulationDeathTest, FindsAHostThatTouchesMemoryOfTheDevice) {
  const Buffer<int> values(10);
  EXPECT_DEATH(values.data()[3] = 1, "the host touches memory of the device: access of byte 12");
}

TEST(CudaEmulation, StreamsRunAsLateAsTheyMay) {
  Stream stream;
  void* pinned = nullptr;
  ASSERT_EQ(cudaMallocHost(&pinned, sizeof(int)), cudaSuccess);
  auto* value = static_cast<int*>(pinned);
  const Buffer<int> to(1);
  *value = 1;
  cudaMemcpyAsync(to.data(), value, sizeof(int), cudaMemcpyHostToDevice, stream.get());
  *value = 2;  // too early
  EXPECT_EQ(to.Read(stream), std::vector<int>{2});
  EXPECT_EQ(cudaFreeHost(pinned), cudaSuccess);
}

TEST(CudaEmulation, AStreamWaitsForTheEventOfAnother) {
  Stream first;
  Stream second;
  const Buffer<int> values(1);
  cudaEvent_t event = nullptr;
  cudaEventCreateWithFlags(&event, cudaEventDisableTiming);
  ASSERT_EQ(first.Put(1, 1, 0, WriteAt, values.data(), 0), cudaSuccess);
  cudaEventRecord(event, first.get());
  cudaStreamWaitEvent(second.get(), event);
  EXPECT_EQ(values.Read(second), std::vector<int>{7});
  cudaEventDestroy(event);
}

TEST(CudaEmulation, RefusesLaunchesThatNoGpuTakes) {
  Stream stream;
  const Buffer<int> values(1);
  EXPECT_EQ(stream.Put(0, 1, 0, WriteAt, values.data(), 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(stream.Put(1, 1025, 0, WriteAt, values.data(), 0), cudaErrorInvalidConfiguration);
  EXPECT_EQ(stream.Put(1, 1, 100 << 10, WriteAt, values.data(), 0), cudaErrorInvalidValue);
  void* memory = nullptr;
  EXPECT_EQ(cudaMalloc(&memory, size_t{1} << 50), cudaErrorMemoryAllocation);
}

/// Of compute capability 8.6, 8.9 and 12.0.
class SmallGpu : public ::testing::Test {
 protected:
  ~SmallGpu() override { cuda_emulation::SetGpus({}); }
  static void BecomeSmall() { cuda_emulation::SetGpus({.shared_bytes = kSharedBytes}); }
  static constexpr int kSharedBytes = 99 << 10;
};

TEST_F(SmallGpu, RefusesKernelsThatAskForMoreSharedMemory) {
  Stream stream;
  const Buffer<int> values(1);
  const auto allow = [](int bytes) {
    return cudaFuncSetAttribute(WriteAt, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
  };
  const auto put = [&](size_t bytes) { return stream.Put(1, 1, bytes, WriteAt, values.data(), 0); };
  ASSERT_EQ(allow(kSharedBytes + 1), cudaSuccess);
  EXPECT_EQ(put(kSharedBytes + 1), cudaSuccess);
  BecomeSmall();
  EXPECT_EQ(put(kSharedBytes + 1), cudaErrorInvalidValue);
  EXPECT_EQ(allow(kSharedBytes + 1), cudaErrorInvalidValue);
  EXPECT_EQ(allow(kSharedBytes), cudaSuccess);
  EXPECT_EQ(put(kSharedBytes), cudaSuccess);
}

class TwoGpus : public ::testing::Test {
 protected:
  TwoGpus() { cuda_emulation::SetGpus({.count = 2}); }
  ~TwoGpus() override {
    cudaSetDevice(0);
    cuda_emulation::SetGpus({});
  }
};

TEST_F(TwoGpus, RefuseLaunchesFromAThreadThatUsesAnother) {
  Stream stream;
  const Buffer<int> values(1);
  EXPECT_EQ(cudaSetDevice(2), cudaErrorInvalidDevice);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  EXPECT_EQ(stream.Put(1, 1, 0, WriteAt, values.data(), 0), cudaErrorInvalidResourceHandle);
}

using TwoGpusDeathTest = TwoGpus;
TEST_F(TwoGpusDeathTest, TellWhoTouchesMemoryOfAnother) {
  const Buffer<int> values(1);
  ASSERT_EQ(cudaSetDevice(1), cudaSuccess);
  Stream stream;
  EXPECT_DEATH(stream.Run(1, 1, 0, WriteAt, values.data(), 0), "byte 0 of a buffer of 4 bytes");
}

}  // namespace
}  // namespace tandem::core
