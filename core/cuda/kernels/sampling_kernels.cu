#include "core/cuda/kernels/device_code.h"
#include "core/cuda/kernels/gpu_lane.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/sampling_kernels.h"

// Candidates are compared as keys: the logit's bits, so changed that they are ordered as integers
// are, before the column, so changed that the lowest is the largest. Each is another. Those of
// logits that are not finite are larger than all others.
namespace tandem::core {
namespace {

constexpr unsigned kThreads = 256;
constexpr unsigned kWarps = kThreads / kWarpThreads;
constexpr unsigned kAllLanes = 0xffffffff;
constexpr int kChunk = 1024;                 // columns that a block sorts
constexpr int64_t kPart = 4096;              // columns of which a block finds the best
constexpr uint32_t kNotFinite = 0xffffffff;  // the upper half of a key
constexpr unsigned kSumThreads = 128;

__device__ uint64_t KeyOf(float logit, int64_t column) {
  constexpr uint32_t kSign = 0x80000000;
  constexpr uint32_t kExponent = 0x7f800000;
  const uint32_t bits = logit == 0.0F ? 0 : __float_as_uint(logit);  // -0 is 0
  uint32_t order = (bits & kSign) != 0 ? ~bits : bits | kSign;
  if ((bits & kExponent) == kExponent) order = kNotFinite;
  return uint64_t{order} << 32 | ~static_cast<uint32_t>(column);
}

__device__ int64_t ColumnOf(uint64_t key) { return ~static_cast<uint32_t>(key); }

__device__ uint64_t Larger(uint64_t a, uint64_t b) { return a > b ? a : b; }

/// The largest of value(begin) to value(end - 1), in the first thread of a block; 0 if there is
/// none. shared: of kWarps.
template <typename Value>
__device__ uint64_t LargestOf(int64_t begin, int64_t end, const SharedArray<uint64_t>& shared,
                              const Value& value) {
  uint64_t largest = 0;
  for (int64_t i = begin + threadIdx.x; i < end; i += kThreads) {
    largest = Larger(largest, value(i));
  }
  for (int other = kWarpThreads / 2; other > 0; other /= 2) {
    largest = Larger(largest, __shfl_xor_sync(kAllLanes, largest, other));
  }
  const int warp = static_cast<int>(threadIdx.x / kWarpThreads);
  if (threadIdx.x % kWarpThreads == 0) shared[warp] = largest;
  __syncthreads();
  if (threadIdx.x > 0) return 0;
  for (int i = 1; i < static_cast<int>(kWarps); ++i) largest = Larger(largest, shared[i]);
  return largest;
}

/// keys: [rows, stride]: the best of each kPart columns.
__global__ void BestOfPartsKernel(LogitRows logits, const SelectedRow* rows, int64_t stride,
                                  uint64_t* keys) {
  BeginKernel();
  const SharedArray<uint64_t> shared(0);
  const float* row = logits.data + rows[blockIdx.x].row * logits.columns;
  const int64_t begin = int64_t{blockIdx.y} * kPart;
  const int64_t end = begin + kPart < logits.columns ? begin + kPart : logits.columns;
  const uint64_t best =
      LargestOf(begin, end, shared, [row](int64_t i) { return KeyOf(row[i], i); });
  if (threadIdx.x == 0) keys[blockIdx.x * stride + blockIdx.y] = best;
}

/// The best of a row's first `count` keys comes to the front.
__global__ void BestOfKeysKernel(int64_t count, int64_t stride, uint64_t* keys) {
  BeginKernel();
  const SharedArray<uint64_t> shared(0);
  uint64_t* row = keys + blockIdx.x * stride;
  const uint64_t best = LargestOf(0, count, shared, [row](int64_t i) { return row[i]; });
  if (threadIdx.x == 0) row[0] = best;
}

/// Sorts kChunk columns (Batcher's bitonic sort) and keeps the `room` best, best first. keys:
/// [rows, stride], chunk after chunk.
__global__ void SortChunksKernel(LogitRows logits, const SelectedRow* rows, int room,
                                 int64_t stride, uint64_t* keys) {
  BeginKernel();
  const SharedArray<uint64_t> shared(0);
  const float* row = logits.data + rows[blockIdx.x].row * logits.columns;
  const int64_t begin = int64_t{blockIdx.y} * kChunk;
  for (int i = static_cast<int>(threadIdx.x); i < kChunk; i += kThreads) {
    const int64_t column = begin + i;
    shared[i] = column < logits.columns ? KeyOf(row[column], column) : 0;
  }
  __syncthreads();
  for (int size = 2; size <= kChunk; size *= 2) {
    for (int distance = size / 2; distance > 0; distance /= 2) {
      for (int pair = static_cast<int>(threadIdx.x); pair < kChunk / 2; pair += kThreads) {
        const int low = 2 * pair - (pair & (distance - 1));
        const int high = low + distance;
        const uint64_t a = shared[low];
        const uint64_t b = shared[high];
        const bool falling = (low & size) == 0;
        if ((a < b) != falling) continue;
        shared[low] = b;
        shared[high] = a;
      }
      __syncthreads();
    }
  }
  uint64_t* out = keys + blockIdx.x * stride + int64_t{blockIdx.y} * room;
  for (int i = static_cast<int>(threadIdx.x); i < room; i += kThreads) out[i] = shared[i];
}

/// Sorted runs of a row's keys: each of `span` columns, of which the `room` best are kept.
struct Runs {
  int64_t columns = 0;  // of the row
  int64_t span = kChunk;
  int64_t room = 0;

  __host__ __device__ int64_t count() const { return (columns + span - 1) / span; }
  __device__ int64_t Length(int64_t run) const {
    const int64_t left = columns - run * span;
    return left < 0 ? 0 : left < room ? left : room;
  }
};

/// Merges each two runs: a key's place is the number of those before it in both. keys: [rows,
/// stride], run after run.
__global__ void MergeRunsKernel(Runs runs, int64_t merged_room, int64_t stride,
                                const uint64_t* keys, uint64_t* merged) {
  BeginKernel();
  const int64_t index = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  const int64_t run = index / runs.room;
  const int64_t in_run = index % runs.room;
  if (in_run >= runs.Length(run)) return;
  const uint64_t* row = keys + blockIdx.x * stride;
  const uint64_t key = row[index];
  const int64_t other = run ^ 1;
  const uint64_t* theirs = row + other * runs.room;
  int64_t low = 0;
  int64_t high = runs.Length(other);
  while (low < high) {
    const int64_t middle = (low + high) / 2;
    if (theirs[middle] > key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  const int64_t place = in_run + low;
  if (place < merged_room) {
    merged[blockIdx.x * stride + run / 2 * merged_room + place] = key;
  }
}

/// keys: [rows, stride], the `kept` best of each row first.
__global__ void GiveCandidatesKernel(LogitRows logits, const SelectedRow* rows, int64_t kept,
                                     int64_t stride, const uint64_t* keys, Candidate* out) {
  BeginKernel();
  const SelectedRow of = rows[blockIdx.x];
  const int64_t i = int64_t{blockIdx.y} * kThreads + threadIdx.x;
  if (i >= of.count) return;
  const uint64_t* row = keys + blockIdx.x * stride;
  const bool failed = kept > 0 && row[0] >> 32 == kNotFinite;
  Candidate given = {0.0F, failed && i == 0 ? kFailedToken : kPaddingToken};
  if (!failed && i < kept) {
    const int64_t column = ColumnOf(row[i]);
    given = {logits.data[of.row * logits.columns + column],
             static_cast<int32_t>(logits.first_token + column)};
  }
  out[of.first + i] = given;
}

__global__ void AddBiasesKernel(const LogitChange* changes, int64_t count, float* logits) {
  BeginKernel();
  int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  const int64_t at = changes[i].at;
  if (i > 0 && changes[i - 1].at == at) return;
  float logit = logits[at];
  for (; i < count && changes[i].at == at; ++i) logit += changes[i].value;
  logits[at] = logit;
}

__global__ void PenalizeKernel(const LogitChange* changes, int64_t count, float* logits) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  logits[changes[i].at] = PenalizedLogit(logits[changes[i].at], changes[i].value);
}

__global__ void WithholdKernel(const LogitChange* changes, int64_t count, float* logits) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= count) return;
  logits[changes[i].at] = WithheldLogit(logits[changes[i].at]);
}

__global__ void KeepKernel(const int64_t* places, int64_t count, const float* logits,
                           float* values) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) values[i] = logits[places[i]];
}

__global__ void RestoreKernel(const int64_t* places, const float* values, int64_t count,
                              float* logits) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i < count) logits[places[i]] = values[i];
}

__global__ void SumBlocksKernel(LogitRows logits, const SummedRow* rows, SumOrder order,
                                int64_t first_column, int64_t blocks, double* out) {
  BeginKernel();
  const SharedArray<double> lanes(0);  // [kSumLanes]
  const SharedArray<float> weights(kSumLanes * sizeof(double));
  const SummedRow of = rows[blockIdx.x];
  const float* block =
      logits.data + of.row * logits.columns + first_column + int64_t{blockIdx.y} * kSumRows;
  for (int i = static_cast<int>(threadIdx.x); i < kSumRows; i += kSumThreads) {
    weights[i] = of.softmax.Weights(GpuLane::Set(block[i])).v;
  }
  __syncthreads();
  const int step = order == SumOrder::kRows ? 1 : kSumLanes;
  if (static_cast<int>(threadIdx.x) < step) {
    double sum = 0.0;
    for (int i = static_cast<int>(threadIdx.x); i < kSumRows; i += step) {
      sum += static_cast<double>(weights[i]);
    }
    lanes[static_cast<int>(threadIdx.x)] = sum;
  }
  __syncthreads();
  if (threadIdx.x > 0) return;
  for (int half = step / 2; half > 0; half /= 2) {
    for (int i = 0; i < half; ++i) {
      const double low = lanes[i];
      const double high = lanes[i + half];
      lanes[i] = low + high;
    }
  }
  out[blockIdx.x * blocks + blockIdx.y] = lanes[0];
}

__global__ void ReadPartsKernel(LogitRows logits, const LogitPart* parts, float* out) {
  BeginKernel();
  const LogitPart part = parts[blockIdx.x];
  for (int64_t i = threadIdx.x; i < part.count; i += kThreads) {
    out[part.to + i] = logits.data[part.from + i];
  }
}

/// The runs of a selection's first step.
Runs FirstRuns(int64_t columns, int32_t most) {
  return {.columns = columns, .room = most < kChunk ? most : kChunk};
}

__global__ void ChooseBestKernel(const Candidate* candidates, int64_t ranks, int64_t count,
                                 int32_t* tokens) {
  BeginKernel();
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= count) return;
  Candidate best;
  bool failed = false;
  for (int64_t rank = 0; rank < ranks; ++rank) {
    const Candidate candidate = candidates[rank * count + i];
    failed = failed || candidate.token == kFailedToken;
    if (candidate.token < 0) continue;
    const bool better = best.token == kPaddingToken || candidate.logit > best.logit ||
                        (candidate.logit == best.logit && candidate.token < best.token);
    if (better) best = candidate;
  }
  tokens[i] = failed || best.token == kPaddingToken ? -1 : best.token;
}

/// Those that each two of them are merged into.
Runs MergedRuns(const Runs& runs, int32_t most) {
  Runs merged = runs;
  merged.span *= 2;
  merged.room = most < merged.span ? most : merged.span;
  return merged;
}

/// Of each of two buffers.
int64_t KeysOfRow(int64_t columns, int32_t most) {
  if (most == 1) return (columns + kPart - 1) / kPart;
  Runs runs = FirstRuns(columns, most);
  int64_t keys = runs.count() * runs.room;
  while (runs.count() > 1) {
    runs = MergedRuns(runs, most);
    if (runs.count() * runs.room > keys) keys = runs.count() * runs.room;
  }
  return keys;
}

}  // namespace

int64_t SelectionKeys(int64_t columns, int32_t most) { return 2 * KeysOfRow(columns, most); }

void LaunchSelectCandidates(CudaStream stream, const LogitRows& logits, const SelectedRow* rows,
                            int64_t count, int32_t most, uint64_t* keys, Candidate* out) {
  const int64_t stride = KeysOfRow(logits.columns, most);
  const unsigned grid_rows = Blocks(count, 1);
  int64_t kept = logits.columns < most ? logits.columns : most;
  if (most == 1) {
    constexpr size_t kShared = kWarps * sizeof(uint64_t);
    const unsigned parts = Blocks(logits.columns, kPart);
    Launch(stream, {grid_rows, parts}, kThreads, kShared, BestOfPartsKernel, logits, rows, stride,
           keys);
    if (parts > 1) {
      Launch(stream, grid_rows, kThreads, kShared, BestOfKeysKernel, int64_t{parts}, stride, keys);
    }
  } else {
    Runs runs = FirstRuns(logits.columns, most);
    uint64_t* merged = keys + count * stride;
    Launch(stream, {grid_rows, Blocks(runs.count(), 1)}, kThreads, kChunk * sizeof(uint64_t),
           SortChunksKernel, logits, rows, static_cast<int>(runs.room), stride, keys);
    while (runs.count() > 1) {
      const Runs next = MergedRuns(runs, most);
      Launch(stream, {grid_rows, Blocks(runs.count() * runs.room, kThreads)}, kThreads, 0,
             MergeRunsKernel, runs, next.room, stride, static_cast<const uint64_t*>(keys), merged);
      runs = next;
      uint64_t* const other = keys;
      keys = merged;
      merged = other;
    }
  }
  Launch(stream, {grid_rows, Blocks(most, kThreads)}, kThreads, 0, GiveCandidatesKernel, logits,
         rows, kept, stride, static_cast<const uint64_t*>(keys), out);
}

void LaunchChooseBest(CudaStream stream, const Candidate* candidates, int64_t ranks, int64_t count,
                      int32_t* tokens) {
  Launch(stream, Blocks(count, kThreads), kThreads, 0, ChooseBestKernel, candidates, ranks, count,
         tokens);
}

void LaunchAddBiases(CudaStream stream, const LogitChange* changes, int64_t count, float* logits) {
  Launch(stream, Blocks(count, kThreads), kThreads, 0, AddBiasesKernel, changes, count, logits);
}

void LaunchPenalize(CudaStream stream, const LogitChange* changes, int64_t count, float* logits) {
  Launch(stream, Blocks(count, kThreads), kThreads, 0, PenalizeKernel, changes, count, logits);
}

void LaunchWithhold(CudaStream stream, const LogitChange* changes, int64_t count, float* logits) {
  Launch(stream, Blocks(count, kThreads), kThreads, 0, WithholdKernel, changes, count, logits);
}

void LaunchKeep(CudaStream stream, const int64_t* places, int64_t count, const float* logits,
                float* values) {
  Launch(stream, Blocks(count, kThreads), kThreads, 0, KeepKernel, places, count, logits, values);
}

void LaunchRestore(CudaStream stream, const int64_t* places, const float* values, int64_t count,
                   float* logits) {
  Launch(stream, Blocks(count, kThreads), kThreads, 0, RestoreKernel, places, values, count,
         logits);
}

void LaunchSumBlocks(CudaStream stream, const LogitRows& logits, const SummedRow* rows,
                     int64_t count, SumOrder order, int64_t first_column, int64_t blocks,
                     double* out) {
  Launch(stream, {Blocks(count, 1), Blocks(blocks, 1)}, kSumThreads,
         kSumLanes * sizeof(double) + kSumRows * sizeof(float), SumBlocksKernel, logits, rows,
         order, first_column, blocks, out);
}

void LaunchReadParts(CudaStream stream, const LogitRows& logits, const LogitPart* parts,
                     int64_t count, float* out) {
  Launch(stream, Blocks(count, 1), kThreads, 0, ReadPartsKernel, logits, parts, out);
}

}  // namespace tandem::core
