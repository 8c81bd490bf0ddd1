#include "parallel/communicators/mpi_communicator.h"

#include <mpi.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>
#include <utility>

#include "absl/functional/function_ref.h"
#include "core/base/counted.h"
#include "core/base/temporary_folder.h"
#include "core/system/host_name.h"
#include "parallel/communicators/host_collective.h"
#include "parallel/communicators/host_exchange.h"
#include "parallel/communicators/one_rank_communicator.h"
#include "parallel/communicators/shared_memory.h"
#include "parallel/communicators/start_meetings.h"

namespace tandem::parallel {
namespace {

constexpr int64_t kMpiBytes = int64_t{8} << 20;  // of a rank's shared memory, more than it takes
constexpr int kHostBytes = 256;                  // of a host name on the wire, padded with zeros

class MpiCommunicator final : public Communicator {
 public:
  /// MPI is initialized. hosts() is empty until GatherHosts.
  MpiCommunicator(int rank, int size, int64_t largest_count, TemporaryFolder folder)
      : folder_(std::move(folder)), rank_(rank), size_(size), largest_count_(largest_count) {
    hosts_.assign(static_cast<size_t>(size), core::HostName());
  }

  ~MpiCommunicator() final {
    if (!error_.ok()) {
      // Finalizing would wait for ranks that may wait for us.
      Abort(error_);
    }
    if (starting_) {
      meetings_->Finish();
      meetings_->watch().SetMode(StartWatch::Mode::kInside);
    }
    MPI_Finalize();
  }

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  const std::vector<std::string>& hosts() const override { return hosts_; }

  void BeginStart(StartWatch* watch) {
    if (watch == nullptr) return;
    meetings_ = std::make_unique<StartMeetings>(*watch, size_);
    starting_ = true;
  }

  void FinishStart() override {
    if (!starting_) return;
    starting_ = false;
    meetings_->Finish();
  }

  absl::Status GatherHosts() {
    std::array<char, kHostBytes> mine = {};
    std::strncpy(mine.data(), core::HostName().c_str(), mine.size() - 1);
    std::vector<char> all(mine.size() * static_cast<size_t>(size_));
    TANDEM_RETURN_IF_ERROR(AllGather(std::as_bytes(std::span(mine)),
                                     std::as_writable_bytes(std::span(all)), core::StepPhase{}));
    for (size_t r = 0; r < hosts_.size(); ++r) hosts_[r] = all.data() + r * mine.size();
    return absl::OkStatus();
  }

  /// Lets the ranks of each host meet in shared memory, if wanted and if all hosts can, and hosts
  /// (else all ranks) exchange sums.
  absl::Status SetUpReductions(const MpiOptions& options) {
    if (options.shared_memory && size_ > 1) {
      TANDEM_RETURN_IF_ERROR(Guarded("setting up shared memory", {},
                                     [&] { return SetUpHostCollective(options.host); }));
    }
    const MPI_Comm comm = host_ == nullptr ? MPI_COMM_WORLD : owners_comm_;
    if (comm != MPI_COMM_NULL) exchange_ = std::make_unique<HostExchange>(comm, options.exchange);
    return absl::OkStatus();
  }

  absl::Status SetPatience(const CollectivePatience& patience) override {
    if (host_ == nullptr) return absl::OkStatus();
    return Exclusively("trying ways to meet", {}, [&] {
      host_->set_patience(patience);
      return host_->ChooseStores();
    });
  }

  absl::Status AllReduceSum(std::span<int64_t> values, const core::StepPhase& phase) override {
    return AllReduce(values, SumPrecision::kExact, phase);
  }

  absl::Status AllReducePartialSums(std::span<int64_t> values,
                                    const core::StepPhase& phase) override {
    return AllReduce(values, SumPrecision::kRounded, phase);
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                         const core::StepPhase& phase) override {
    if (all.size() != mine.size() * static_cast<size_t>(size_)) {
      return Fail(Internal("all-gather of {} bytes on {}: room for {} bytes, expected {} times {}",
                           mine.size(), RankOnHost(*this, rank_), all.size(), size_, mine.size()));
    }
    if (host_ != nullptr && !several_hosts_) {
      return Exclusively("all-gather", phase, [&] { return host_->AllGather(mine, all); });
    }
    return Guarded("MPI_Allgather", phase, [&]() -> int {
      if (mine.size() <= Piece()) {
        const int count = static_cast<int>(mine.size());
        return MPI_Allgather(mine.data(), count, MPI_BYTE, all.data(), count, MPI_BYTE,
                             MPI_COMM_WORLD);
      }
      return GatherInPieces(mine, all);
    });
  }

  absl::Status Barrier() override {
    return Guarded("MPI_Barrier", {}, [] { return MPI_Barrier(MPI_COMM_WORLD); });
  }

  absl::Status Broadcast(std::span<std::byte> bytes) override {
    return Guarded("MPI_Bcast", {}, [&]() -> int {
      for (size_t begin = 0; begin < bytes.size(); begin += Piece()) {
        const int count = static_cast<int>(std::min(Piece(), bytes.size() - begin));
        const int code = MPI_Bcast(bytes.data() + begin, count, MPI_BYTE, 0, MPI_COMM_WORLD);
        if (code != MPI_SUCCESS) return code;
      }
      return MPI_SUCCESS;
    });
  }

  void Abort(const absl::Status& why) override {
    std::fprintf(stderr, "tandem: %s ends the job: %s\n", RankOnHost(*this, rank_).c_str(),
                 Message(why).c_str());
    std::fflush(stderr);
    MPI_Abort(MPI_COMM_WORLD, 1);
  }

 private:
  size_t Piece() const { return static_cast<size_t>(largest_count_); }

  /// Pieces of everyone's part arrive side by side and are put where they belong.
  int GatherInPieces(std::span<const std::byte> mine, std::span<std::byte> all) {
    std::vector<std::byte> pieces;
    for (size_t begin = 0; begin < mine.size(); begin += Piece()) {
      const size_t count = std::min(Piece(), mine.size() - begin);
      pieces.resize(count * static_cast<size_t>(size_));
      const int code =
          MPI_Allgather(mine.data() + begin, static_cast<int>(count), MPI_BYTE, pieces.data(),
                        static_cast<int>(count), MPI_BYTE, MPI_COMM_WORLD);
      if (code != MPI_SUCCESS) return code;
      for (size_t r = 0; r < static_cast<size_t>(size_); ++r) {
        std::memcpy(all.data() + r * mine.size() + begin, pieces.data() + r * count, count);
      }
    }
    return MPI_SUCCESS;
  }

  absl::Status AllReduce(std::span<int64_t> values, SumPrecision precision,
                         const core::StepPhase& phase) {
    return Exclusively("all-reduce", phase, [&]() -> absl::Status {
      const auto between_hosts = [&](std::span<int64_t> sums) {
        absl::Status status = exchange_->AllReduceSum(sums, precision);
        if (status.ok()) return status;
        return absl::Status(status.code(),
                            fmt::format("all-reduce on {} in {}: {}", RankOnHost(*this, rank_),
                                        PhaseText(phase), Message(status)));
      };
      if (host_ == nullptr) return between_hosts(values);
      if (!several_hosts_) return host_->AllReduceSum(values);
      return host_->AllReduceSum(values, owners_, between_hosts);
    });
  }

  /// Returns MPI's code. Without memory it partial sums all as it was, and says so.
  int SetUpHostCollective(const HostCollectiveOptions& options) {
    MPI_Comm host_comm = MPI_COMM_NULL;
    if (const int code = MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank_,
                                             MPI_INFO_NULL, &host_comm);
        code != MPI_SUCCESS) {
      return code;
    }
    int local_rank = 0;
    int local_size = 0;
    MPI_Comm_rank(host_comm, &local_rank);
    MPI_Comm_size(host_comm, &local_size);

    absl::StatusOr<SharedMemory> memory = ShareMemory(host_comm, local_rank, local_size, options);
    // The world's: can all, the fewest and (negative) the most ranks of a host.
    int facts[3] = {memory.ok() ? 1 : 0, local_size, -local_size};
    int code = MPI_Allreduce(MPI_IN_PLACE, facts, 3, MPI_INT, MPI_MIN, MPI_COMM_WORLD);
    if (code == MPI_SUCCESS) code = MPI_Comm_free(&host_comm);
    if (!memory.ok()) {
      spdlog::warn("{}: {}; the ranks meet by MPI instead", RankOnHost(*this, rank_),
                   Message(memory.status()));
    }
    const bool all_can = facts[0] == 1;
    const int most_ranks_of_a_host = -facts[2];
    if (code != MPI_SUCCESS || !all_can || most_ranks_of_a_host == 1) return code;
    memory->RemoveName();

    owners_ = facts[1];
    several_hosts_ = local_size < size_;
    if (several_hosts_) {
      const int color = local_rank < owners_ ? local_rank : MPI_UNDEFINED;
      code = MPI_Comm_split(MPI_COMM_WORLD, color, rank_, &owners_comm_);
      if (code != MPI_SUCCESS) return code;
    }
    memory_ = std::move(memory).value();
    host_ = std::make_unique<HostCollective>(memory_.data(), local_rank, local_size, options);
    return MPI_SUCCESS;
  }

  /// Memory that the ranks of `host_comm` map, each with its own slots reserved. An MPI error here
  /// shows again in the agreement that follows.
  absl::StatusOr<SharedMemory> ShareMemory(MPI_Comm host_comm, int local_rank, int local_size,
                                           const HostCollectiveOptions& options) {
    const int64_t bytes = HostCollective::BytesNeeded(local_size, options);
    absl::StatusOr<SharedMemory> memory =
        Unavailable("the first rank of this host could not create shared memory");
    if (local_rank == 0) {
      memory = SharedMemory::Create(bytes);
      if (memory.ok()) {
        const int64_t places = HostCollective::SlotsOf(0, local_size, options).begin;
        if (absl::Status room = memory->Reserve(0, places); !room.ok()) memory = std::move(room);
      }
    }
    std::array<char, 64> name = {};
    if (memory.ok()) std::strncpy(name.data(), memory->name().c_str(), name.size() - 1);
    if (MPI_Bcast(name.data(), static_cast<int>(name.size()), MPI_CHAR, 0, host_comm) !=
        MPI_SUCCESS) {
      return Unavailable("MPI_Bcast failed");
    }
    if (local_rank != 0 && name[0] != 0) memory = SharedMemory::Open(name.data(), bytes);
    TANDEM_RETURN_IF_ERROR(memory.status());
    const HostCollective::Part slots = HostCollective::SlotsOf(local_rank, local_size, options);
    TANDEM_RETURN_IF_ERROR(memory->Reserve(slots.begin, slots.count));
    return memory;
  }

  absl::Status Guarded(std::string_view name, const core::StepPhase& phase,
                       absl::FunctionRef<int()> call) {
    return Exclusively(name, phase, [&] {
      const int code = call();
      return code == MPI_SUCCESS ? absl::OkStatus() : MpiError(name, phase, code);
    });
  }

  absl::Status Exclusively(std::string_view name, const core::StepPhase& phase,
                           absl::FunctionRef<absl::Status()> call) {
    if (busy_.test_and_set(std::memory_order_acquire)) {
      return Internal("{} on {}: another thread is in a collective; one at a time may call", name,
                      RankOnHost(*this, rank_));
    }
    absl::Status status = error_;
    if (status.ok()) {
      ProgressMark mark(board(), rank_, phase);
      status = starting_ ? AfterMeeting(phase, call) : call();
      if (!status.ok()) status = Fail(std::move(status));
    }
    busy_.clear(std::memory_order_release);
    return status;
  }

  absl::Status AfterMeeting(const core::StepPhase& phase, absl::FunctionRef<absl::Status()> call) {
    const MutexLock lock(meetings_->mutex());
    if (const int code = meetings_->Meet(); code != MPI_SUCCESS) {
      return MpiError("MPI_Ibarrier", phase, code);
    }
    meetings_->watch().SetMode(StartWatch::Mode::kInside);
    absl::Status status = call();
    meetings_->watch().SetMode(StartWatch::Mode::kWorking);
    return status;
  }

  absl::Status MpiError(std::string_view name, const core::StepPhase& phase, int code) const {
    std::array<char, MPI_MAX_ERROR_STRING> text = {};
    int length = 0;
    MPI_Error_string(code, text.data(), &length);
    return Unavailable("{} failed on {} in {}: {}", name, RankOnHost(*this, rank_),
                       PhaseText(phase), text.data());
  }

  /// The first error sticks.
  absl::Status Fail(absl::Status error) {
    if (error_.ok()) error_ = std::move(error);
    return error_;
  }

  const TemporaryFolder folder_;  // of MPI's shared memory
  const int rank_;
  const int size_;
  const int64_t largest_count_;
  std::vector<std::string> hosts_;
  std::unique_ptr<StartMeetings> meetings_;  // null: ranks do not look after each other
  bool starting_ = false;
  std::atomic_flag busy_;
  absl::Status error_;  // guarded by busy_
  // Set once, before the first collective of others.
  SharedMemory memory_;
  std::unique_ptr<HostCollective> host_;  // null: all goes by MPI
  bool several_hosts_ = false;
  int owners_ = 1;                          // ranks of each host that reduce a slice between hosts
  MPI_Comm owners_comm_ = MPI_COMM_NULL;    // those of one slice; null on the others
  std::unique_ptr<HostExchange> exchange_;  // of the owners, or of all ranks; null on the others
};

absl::Status CheckSize(int found, bool started_by_mpi, const MpiOptions& options) {
  if (!options.expected_ranks.has_value() || *options.expected_ranks == found) {
    return absl::OkStatus();
  }
  if (!started_by_mpi) {
    return FailedPrecondition(
        "{} asked for, but this process was started alone; start it as `mpirun -n {} tandem ...`",
        Counted(*options.expected_ranks, "rank was", "ranks were"), *options.expected_ranks);
  }
  return FailedPrecondition(
      "{} asked for, but the MPI world has {}; start it as `mpirun -n {} tandem ...`",
      Counted(*options.expected_ranks, "rank was", "ranks were"), found, *options.expected_ranks);
}

/// Whether all ranks are on this host, as far as Open MPI's mpirun has said so.
bool OneHost() {
  const char* here = std::getenv("OMPI_COMM_WORLD_LOCAL_SIZE");
  const char* all = std::getenv("OMPI_COMM_WORLD_SIZE");
  return here != nullptr && all != nullptr && std::string_view(here) == all;
}

/// Sets what Open MPI goes by, where the user has not.
absl::StatusOr<TemporaryFolder> PrepareOpenMpi() {
  // Open MPI polls while it waits. It shall offer its processor to others meanwhile: measured on
  // idle processors that costs nothing, and without it ranks that share processors stall each
  // other.
  // NOLINTBEGIN(concurrency-mt-unsafe): no thread of ours reads it meanwhile
  setenv("OMPI_MCA_mpi_yield_when_idle", "1", 0);
  // Ranks of one host need no network, and then open no port.
  if (OneHost()) setenv("OMPI_MCA_btl", "self,vader", 0);
  // Its shared memory lies in a folder of ours: what killed ranks leave is found by that.
  constexpr const char* kFolder = "OMPI_MCA_btl_vader_backing_directory";
  if (std::getenv(kFolder) != nullptr) return TemporaryFolder();
  TANDEM_ASSIGN_OR_RETURN(TemporaryFolder folder,
                          TemporaryFolder::Make("rank", {"/dev/shm", TemporaryPlace()}, kMpiBytes));
  setenv(kFolder, folder.path().c_str(), 0);
  // NOLINTEND(concurrency-mt-unsafe)
  return folder;
}

}  // namespace

bool StartedByMpi() {
  for (const char* name : {"OMPI_COMM_WORLD_SIZE", "PMIX_RANK", "PMI_RANK"}) {
    if (std::getenv(name) != nullptr) return true;
  }
  return false;
}

int StartedRank() {
  for (const char* name : {"OMPI_COMM_WORLD_RANK", "PMIX_RANK", "PMI_RANK"}) {
    int rank = 0;
    const std::string_view value = std::getenv(name) != nullptr ? std::getenv(name) : "";
    const char* const end = value.data() + value.size();
    if (std::from_chars(value.data(), end, rank).ec == std::errc() && rank >= 0) return rank;
  }
  return 0;
}

absl::StatusOr<std::unique_ptr<Communicator>> CreateWorld(const MpiOptions& options) {
  if (!StartedByMpi()) {
    TANDEM_RETURN_IF_ERROR(CheckSize(1, false, options));
    return std::make_unique<OneRankCommunicator>();
  }
  TANDEM_ASSIGN_OR_RETURN(TemporaryFolder folder, PrepareOpenMpi());
  // Until all have joined, a rank sees of the others only who is stopped beside it.
  if (options.start_watch != nullptr) options.start_watch->SetMode(StartWatch::Mode::kInside);
  int provided = 0;
  // Serialized, not funneled: the step loop's thread calls after the main thread has started up.
  // Open MPI takes no locks for either.
  if (MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided) != MPI_SUCCESS ||
      provided < MPI_THREAD_SERIALIZED) {
    return Internal("MPI_Init_thread on host {} failed or gave thread level {}, needed {}",
                    core::HostName(), provided, static_cast<int>(MPI_THREAD_SERIALIZED));
  }
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  int rank = 0;
  int size = 0;
  MPI_Comm_rank(MPI_COMM_WORLD, &rank);
  MPI_Comm_size(MPI_COMM_WORLD, &size);
  auto world =
      std::make_unique<MpiCommunicator>(rank, size, options.largest_count, std::move(folder));
  if (options.start_watch != nullptr) options.start_watch->SetMode(StartWatch::Mode::kWorking);
  TANDEM_RETURN_IF_ERROR(CheckSize(size, true, options));
  world->BeginStart(options.start_watch);
  TANDEM_RETURN_IF_ERROR(world->GatherHosts());
  TANDEM_RETURN_IF_ERROR(world->SetUpReductions(options));
  return world;
}

}  // namespace tandem::parallel
