/// A stand-in for libnccl.so.2 among emulated GPUs of threads or processes of one host: what
/// core/cuda/nccl/nccl.h declares, over POSIX shared memory. It is loaded as NCCL is.
///
/// The environment: EMULATED_NCCL_VERSION (22809, or of one rank of MPI after the other:
/// 22809,22703), EMULATED_NCCL_STALL=RANK:N (of that rank the n-th collective, from 1, never ends),
/// EMULATED_NCCL_DIE=RANK:N (the rank's process ends in it), EMULATED_NCCL_CUT=RANK:N (its network
/// is cut in it), EMULATED_NCCL_HANG=RANK:N (the n-th call of that rank for a collective does not
/// come to put it into the stream), EMULATED_NCCL_UNREACHABLE=RANK:0 (it never joins) or RANK:1 (it
/// fails to). EMULATED_NCCL_DELAY=MICROSECONDS (what each collective takes at least),
/// EMULATED_NCCL_WINDOWS (0: GPUs that have none; full: no memory for them). fakeNcclInWindow
/// counts the reductions of the process that were done in windows.

#include <cuda_runtime.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <string>

#include "core/cuda/nccl/nccl.h"
#include "tests/cuda_emulation/streams.h"

namespace {

namespace nccl = tandem::core::nccl;

constexpr int kSystemError = 2;
constexpr int kInvalidArgument = 4;
constexpr int kInvalidUsage = 5;
constexpr int kRemoteError = 6;
constexpr int kMostRanks = 16;
constexpr size_t kPieceBytes = 64 * 1024;

thread_local std::string last_error;

int Fail(int result, std::string text) {
  last_error = std::move(text);
  return result;
}

/// What a rank shares with the others. A collective is done in rounds of a piece each: everyone
/// gives its own, and takes it once all have given.
struct RankMemory {
  std::atomic<int32_t> pid;
  std::atomic<int32_t> gone;  // aborted or destroyed
  std::atomic<int32_t> gpu;
  std::atomic<uint64_t> given;  // rounds
  std::atomic<uint64_t> taken;
  uint64_t call;                       // what the round belongs to: kind, type and count
  std::atomic<uint64_t> windows;       // that it has registered
  std::atomic<uint64_t> window_bytes;  // of the last
  alignas(64) std::byte piece[kPieceBytes];
};
struct WorldMemory {
  std::atomic<int32_t> joined;
  RankMemory ranks[kMostRanks];
};

/// RANK:N of a variable.
bool Meant(const char* name, int rank, uint64_t collective) {
  const char* text = std::getenv(name);  // NOLINT(concurrency-mt-unsafe): nobody sets it
  int whose = 0;
  unsigned long long number = 0;
  return text != nullptr && std::sscanf(text, "%d:%llu", &whose, &number) == 2 && whose == rank &&
         number == collective;
}

/// What one rank of MPI has of a list; the last is that of all further ones.
int OfThisRank(const char* name, int otherwise) {
  const char* at = std::getenv(name);                      // NOLINT(concurrency-mt-unsafe)
  const char* rank = std::getenv("OMPI_COMM_WORLD_RANK");  // NOLINT(concurrency-mt-unsafe)
  if (at == nullptr) return otherwise;
  for (int left = rank == nullptr ? 0 : std::atoi(rank); left > 0; --left) {
    const char* comma = std::strchr(at, ',');
    if (comma == nullptr) break;
    at = comma + 1;
  }
  return std::atoi(at);
}

struct World {
  explicit World(WorldMemory* shared) : memory(shared) {}
  ~World() { munmap(memory, sizeof(WorldMemory)); }
  World(const World&) = delete;
  World& operator=(const World&) = delete;

  RankMemory& mine() const { return memory->ranks[rank]; }
  template <typename Test>
  bool All(const Test& test) const {
    return std::all_of(memory->ranks, memory->ranks + size, test);
  }

  WorldMemory* const memory;
  std::string name;
  int rank = 0;
  int size = 1;
  std::atomic<bool> aborted = false;
  std::atomic<int> error = nccl::kSuccess;
  std::atomic<uint64_t> rounds = 0;   // of this rank, that are done
  uint64_t collectives = 0;           // that this rank has begun
  std::atomic<bool> waiting = false;  // in a collective
  uint64_t windows = 0;               // that were asked for
  const std::byte* window = nullptr;  // the last one
  size_t window_bytes = 0;
  std::atomic<uint64_t> calls = 0;
  std::atomic<bool> hangs = false;
};

std::atomic<uint64_t> in_window = 0;

struct Collective {
  bool gather = false;
  const std::byte* from = nullptr;
  std::byte* to = nullptr;
  size_t bytes = 0;  // of this rank
  int type = nccl::kUint8;
};

template <typename T>
void Add(std::byte* to, const std::byte* from, size_t bytes) {
  for (size_t i = 0; i < bytes; i += sizeof(T)) {
    T a;
    T b;
    std::memcpy(&a, to + i, sizeof(T));
    std::memcpy(&b, from + i, sizeof(T));
    a += b;
    std::memcpy(to + i, &a, sizeof(T));
  }
}

class CollectiveInStream {
 public:
  CollectiveInStream(std::shared_ptr<World> world, const Collective& collective)
      : world_(std::move(world)), collective_(collective) {}

  /// Goes on as far as the other ranks have come. True: done.
  bool Advance() {
    World& w = *world_;
    if (!begun_) {
      begun_ = true;
      w.waiting = true;
      ++w.collectives;
      if (Meant("EMULATED_NCCL_DIE", w.rank, w.collectives)) std::raise(SIGKILL);
      stalled_ = Meant("EMULATED_NCCL_STALL", w.rank, w.collectives);
      const char* delay = std::getenv("EMULATED_NCCL_DELAY");  // NOLINT: nobody sets it
      if (delay != nullptr) ready_ += std::chrono::microseconds(std::atoi(delay));
      if (Meant("EMULATED_NCCL_CUT", w.rank, w.collectives)) {
        stalled_ = true;
        w.error = kSystemError;
        w.mine().gone = 1;
      }
    }
    if (!w.aborted && std::chrono::steady_clock::now() < ready_) return false;
    while (!w.aborted && !stalled_ && offset_ < collective_.bytes) {
      const uint64_t round = w.rounds + 1;
      const size_t bytes = std::min(kPieceBytes, collective_.bytes - offset_);
      if (w.mine().given < round) {
        if (!w.All([&](const RankMemory& r) { return r.taken + 1 >= round; })) return false;
        std::memcpy(w.mine().piece, collective_.from + offset_, bytes);
        w.mine().call = Call();
        w.mine().given = round;
      }
      if (!w.All([&](const RankMemory& r) { return r.given >= round; })) return false;
      if (!w.All([&](const RankMemory& r) { return r.call == Call(); })) {
        w.error = kInvalidUsage;
        return false;
      }
      Take(bytes);
      offset_ += bytes;
      w.rounds = round;
      w.mine().taken = round;
    }
    const bool done = w.aborted || offset_ == collective_.bytes;
    if (done) w.waiting = false;
    return done;
  }

 private:
  uint64_t Call() const {
    return collective_.bytes * 32 + static_cast<uint64_t>(collective_.type) * 2 +
           (collective_.gather ? 1 : 0);
  }

  void Take(size_t bytes) {
    for (int rank = 0; rank < world_->size; ++rank) {
      const std::byte* const piece = world_->memory->ranks[rank].piece;
      std::byte* const to = collective_.to + offset_;
      if (collective_.gather) {
        std::memcpy(to + static_cast<size_t>(rank) * collective_.bytes, piece, bytes);
      } else if (rank == 0) {
        std::memcpy(to, piece, bytes);
      } else if (collective_.type == nccl::kInt64) {
        Add<int64_t>(to, piece, bytes);
      } else {
        Add<float>(to, piece, bytes);
      }
    }
  }

  const std::shared_ptr<World> world_;
  const Collective collective_;
  bool begun_ = false;
  bool stalled_ = false;
  std::chrono::steady_clock::time_point ready_ = std::chrono::steady_clock::now();
  size_t offset_ = 0;
};

/// What a caller holds.
struct Comm {
  std::shared_ptr<World> world;
};
World& WorldOf(nccl::Comm comm) { return *static_cast<Comm*>(comm)->world; }

int Put(nccl::Comm comm, const Collective& collective, CUstream_st* stream) {
  World& called = WorldOf(comm);
  if (called.aborted) return Fail(kInvalidUsage, "the communicator was aborted");
  if (Meant("EMULATED_NCCL_HANG", called.rank, ++called.calls)) {
    called.hangs = true;
    return nccl::kInProgress;
  }
  const int error = tandem::cuda_emulation::PutPolled(
      stream, [world = static_cast<Comm*>(comm)->world, collective]() -> std::function<bool()> {
        auto work = std::make_shared<CollectiveInStream>(world, collective);
        return [work] { return work->Advance(); };
      });
  return error == 0 ? nccl::kSuccess : Fail(1, "the stream takes nothing");
}

size_t SizeOf(int type) {
  return type == nccl::kInt64 ? 8 : type == nccl::kFloat32 ? 4 : type == nccl::kUint8 ? 1 : 0;
}

int Leave(nccl::Comm comm, bool aborted) {
  World& world = WorldOf(comm);
  if (aborted) world.aborted = true;
  world.mine().gone = 1;
  shm_unlink(world.name.c_str());
  delete static_cast<Comm*>(comm);
  return nccl::kSuccess;
}

}  // namespace

// NOLINTBEGIN: the names are NVIDIA's
extern "C" {

int ncclGetVersion(int* version) {
  *version = OfThisRank("EMULATED_NCCL_VERSION", 22809);
  return nccl::kSuccess;
}

int ncclGetUniqueId(nccl::UniqueId* id) {
  static std::atomic<int> number = 0;
  *id = {};
  std::snprintf(id->internal, sizeof(id->internal), "/tandem-fake-nccl-%d-%d", getpid(), ++number);
  const int file = shm_open(id->internal, O_CREAT | O_EXCL | O_RDWR, 0600);
  if (file < 0) return Fail(kSystemError, std::strerror(errno));
  const int sized = ftruncate(file, sizeof(WorldMemory));
  close(file);
  return sized == 0 ? nccl::kSuccess : Fail(kSystemError, std::strerror(errno));
}

int ncclCommInitRankConfig(nccl::Comm* comm, int ranks, nccl::UniqueId id, int rank,
                           nccl::Config* config) {
  *comm = nullptr;
  if (config->magic != 0xcafebeef || config->size < sizeof(nccl::Config) || config->blocking != 0 ||
      ranks > kMostRanks || rank < 0 || rank >= ranks) {
    return Fail(kInvalidArgument, "a configuration that is none");
  }
  if (Meant("EMULATED_NCCL_UNREACHABLE", rank, 1)) {
    return Fail(kSystemError,
                "socketStartConnect: Connect to 10.0.0.1<40000> failed : No route to host");
  }
  const int file = shm_open(id.internal, O_RDWR, 0);
  if (file < 0) return Fail(kSystemError, std::strerror(errno));
  void* const shared =
      mmap(nullptr, sizeof(WorldMemory), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (shared == MAP_FAILED) return Fail(kSystemError, std::strerror(errno));
  auto world = std::make_shared<World>(static_cast<WorldMemory*>(shared));
  world->name = id.internal;
  world->rank = rank;
  world->size = ranks;
  int gpu = 0;
  cudaGetDevice(&gpu);
  world->mine().gpu = gpu;
  world->mine().pid = getpid();
  if (!Meant("EMULATED_NCCL_UNREACHABLE", rank, 0)) ++world->memory->joined;
  *comm = new Comm{std::move(world)};
  return nccl::kInProgress;
}

int ncclCommGetAsyncError(nccl::Comm comm, int* error) {
  World& world = WorldOf(comm);
  *error = world.error;
  if (*error != nccl::kSuccess) {
    last_error = *error == kSystemError ? "socketProgress: Connection closed by remote peer"
                                        : "ranks called different collectives";
    return nccl::kSuccess;
  }
  if (world.hangs) {
    *error = nccl::kInProgress;
    return nccl::kSuccess;
  }
  // A window is there once all ranks have asked for it.
  if (!world.All([&](const RankMemory& r) { return r.windows >= world.windows; })) {
    *error = nccl::kInProgress;
    return nccl::kSuccess;
  }
  if (world.windows > 0 && !world.All([&](const RankMemory& r) {
        return r.window_bytes == world.mine().window_bytes;
      })) {
    last_error = "windows of different sizes";
    *error = kInvalidUsage;
    return nccl::kSuccess;
  }
  // Who has given all that is waited for may leave.
  const bool left = world.waiting && !world.All([&](const RankMemory& r) {
    return r.given > world.rounds || (r.gone == 0 && (kill(r.pid, 0) == 0 || errno != ESRCH));
  });
  if (left) {
    last_error = "a rank has left";
    *error = kRemoteError;
  } else if (world.memory->joined < world.size) {
    *error = nccl::kInProgress;
  } else {
    shm_unlink(world.name.c_str());
    for (int rank = 0; rank < world.size; ++rank) {
      if (rank == world.rank || world.memory->ranks[rank].gpu != world.mine().gpu) continue;
      const char* shared = std::getenv("NCCL_MULTI_RANK_GPU_ENABLE");
      int version = 0;
      ncclGetVersion(&version);
      if (version >= nccl::kSharedGpuVersion && shared != nullptr && *shared == '1') continue;
      last_error = "Duplicate GPU detected";
      *error = kInvalidUsage;
    }
  }
  return nccl::kSuccess;
}

int ncclCommAbort(nccl::Comm comm) { return Leave(comm, true); }
int ncclCommDestroy(nccl::Comm comm) { return Leave(comm, false); }

int ncclAllReduce(const void* from, void* to, size_t count, int type, int operation,
                  nccl::Comm comm, CUstream_st* stream) {
  if (operation != nccl::kSum || (type != nccl::kInt64 && type != nccl::kFloat32)) {
    return Fail(kInvalidArgument, "sums of int64 and float32 alone are known here");
  }
  const auto* const begin = static_cast<const std::byte*>(from);
  const World& world = WorldOf(comm);
  if (world.window != nullptr && begin >= world.window &&
      begin + count * SizeOf(type) <= world.window + world.window_bytes) {
    ++in_window;
  }
  return Put(comm,
             {false, static_cast<const std::byte*>(from), static_cast<std::byte*>(to),
              count * SizeOf(type), type},
             stream);
}

int ncclAllGather(const void* from, void* to, size_t count, int type, nccl::Comm comm,
                  CUstream_st* stream) {
  return Put(comm,
             {true, static_cast<const std::byte*>(from), static_cast<std::byte*>(to),
              count * SizeOf(type), type},
             stream);
}

int ncclMemAlloc(void** memory, size_t bytes) {
  const char* windows = std::getenv("EMULATED_NCCL_WINDOWS");
  if (windows != nullptr && std::strcmp(windows, "full") == 0) return Fail(1, "out of memory");
  return cudaMalloc(memory, bytes) == cudaSuccess ? nccl::kSuccess : Fail(1, "out of memory");
}

int ncclMemFree(void* memory) {
  return cudaFree(memory) == cudaSuccess ? nccl::kSuccess : Fail(1, "no such memory");
}

int ncclCommWindowRegister(nccl::Comm comm, void* memory, size_t bytes, nccl::Window* window,
                           int flags) {
  if (flags != nccl::kSymmetricWindow) return Fail(kInvalidArgument, "a flag that is none");
  World& world = WorldOf(comm);
  const char* windows = std::getenv("EMULATED_NCCL_WINDOWS");
  *window = nullptr;
  if (windows == nullptr || std::strcmp(windows, "0") != 0) {
    *window = memory;
    world.window = static_cast<const std::byte*>(memory);
    world.window_bytes = bytes;
  }
  world.mine().window_bytes = bytes;
  world.mine().windows = ++world.windows;
  return nccl::kInProgress;
}

int ncclCommWindowDeregister(nccl::Comm comm, nccl::Window window) {
  World& world = WorldOf(comm);
  if (window != world.window || window == nullptr) return Fail(kInvalidArgument, "no such window");
  world.window = nullptr;
  return nccl::kSuccess;
}

uint64_t fakeNcclInWindow() { return in_window; }

const char* ncclGetErrorString(int result) {
  switch (result) {
    case nccl::kSuccess:
      return "no error";
    case kSystemError:
      return "unhandled system error";
    case kInvalidArgument:
      return "invalid argument";
    case kInvalidUsage:
      return "invalid usage";
    case kRemoteError:
      return "remote process exited or there was a network error";
    default:
      return "unknown result code";
  }
}

const char* ncclGetLastError(nccl::Comm) { return last_error.c_str(); }

}  // extern "C"
// NOLINTEND
