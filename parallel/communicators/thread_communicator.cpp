#include "parallel/communicators/thread_communicator.h"

#include <algorithm>
#include <array>
#include <random>
#include <string_view>
#include <thread>
#include <utility>

#include "absl/functional/function_ref.h"
#include "core/base/counted.h"
#include "core/base/mutex.h"
#include "core/system/host_name.h"

namespace tandem::parallel {
namespace {

/// What all ranks must agree on when they meet.
struct Operation {
  std::string_view name;
  size_t elements = 0;
  core::StepPhase phase;

  bool SameAs(const Operation& other) const {
    return name == other.name && elements == other.elements && phase.step == other.phase.step &&
           phase.layer == other.phase.layer && phase.kind == other.phase.kind;
  }
  std::string Text() const {
    return fmt::format("{} of {} elements in {}", name, elements, PhaseText(phase));
  }
};

/// Where the threads meet, one operation after the other.
///
/// Invariants: two slots alternate. A slot is filled while its collective gathers, and read by its
/// ranks after it is complete; it is reset only by the first arrival two collectives later, when
/// all ranks have arrived at the one between and so have read it. Thread safety: all methods.
class ThreadWorld {
 public:
  struct Slot {
    Operation operation;
    int first_rank = 0;
    std::vector<int64_t> sums;     // all-reduce
    std::vector<std::byte> bytes;  // all-gather: [ranks, mine]; broadcast: rank 0's
  };

  ThreadWorld(int ranks, ThreadWorldOptions options)
      : ranks_(ranks), options_(std::move(options)), places_(static_cast<size_t>(ranks)) {
    if (options_.hosts.empty()) options_.hosts.assign(static_cast<size_t>(ranks), core::HostName());
  }

  const ThreadWorldOptions& options() const { return options_; }
  int ranks() const { return ranks_; }

  /// Meets the other ranks. `contribute` puts this rank's part into the slot; `collect` takes the
  /// result once everyone has contributed. Both run under the lock.
  absl::Status Meet(int rank, const Operation& operation, absl::FunctionRef<void(Slot&)> contribute,
                    absl::FunctionRef<void(const Slot&)> collect) {
    const MutexLock lock(mutex_);
    if (!error_.ok()) return error_;
    const uint64_t collective = completed_;
    Slot& slot = slots_[collective % 2];
    Place& place = places_[static_cast<size_t>(rank)];
    place.last = operation;
    if (arrived_ == 0) {
      slot.operation = operation;
      slot.first_rank = rank;
      slot.sums.clear();
    } else if (!operation.SameAs(slot.operation)) {
      Fail(Internal("{} asks for {}, but {} asks for {}: ranks must do the same steps", Name(rank),
                    operation.Text(), Name(slot.first_rank), slot.operation.Text()));
      return error_;
    }
    contribute(slot);
    place.arrived = true;
    if (++arrived_ == ranks()) {
      arrived_ = 0;
      for (Place& each : places_) each.arrived = false;
      ++completed_;
      changed_.NotifyAll();
    } else {
      WaitFor(collective);
    }
    // A collective that completed counts, even if the world has ended since.
    if (completed_ == collective) return error_;
    collect(slot);
    return absl::OkStatus();
  }

  /// The first error sticks and wakes every waiter.
  void End(const absl::Status& why) {
    const MutexLock lock(mutex_);
    Fail(why);
  }

  std::string Name(int rank) const {
    return fmt::format("rank {} on host {}", rank, options_.hosts[static_cast<size_t>(rank)]);
  }

 private:
  struct Place {
    bool arrived = false;  // at the collective that gathers now
    Operation last;
  };

  bool Gathers(uint64_t collective) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    return completed_ == collective && error_.ok();
  }

  void WaitFor(uint64_t collective) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    const auto deadline = std::chrono::steady_clock::now() + options_.timeout;
    while (Gathers(collective)) {
      if (options_.timeout.count() == 0) {
        changed_.Wait(mutex_);
      } else if (!changed_.WaitUntil(mutex_, deadline)) {
        break;
      }
    }
    if (Gathers(collective)) Fail(absl::DeadlineExceededError(Missing(collective)));
  }

  void Fail(const absl::Status& why) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    if (!error_.ok() || why.ok()) return;
    error_ = why;
    changed_.NotifyAll();
  }

  std::string Missing(uint64_t collective) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    std::string missing;
    for (int rank = 0; rank < ranks(); ++rank) {
      const Place& place = places_[static_cast<size_t>(rank)];
      if (place.arrived) continue;
      missing += fmt::format("{}{} (last seen: {})", missing.empty() ? "" : ", ", Name(rank),
                             place.last.name.empty() ? "never" : place.last.Text());
    }
    return fmt::format("{} waits since {} ms for {}", slots_[collective % 2].operation.Text(),
                       options_.timeout.count(), missing);
  }

  const int ranks_;
  ThreadWorldOptions options_;
  Mutex mutex_;
  CondVar changed_;
  std::vector<Place> places_ ABSL_GUARDED_BY(mutex_);  // [ranks]
  std::array<Slot, 2> slots_ ABSL_GUARDED_BY(mutex_);
  uint64_t completed_ ABSL_GUARDED_BY(mutex_) = 0;  // collectives
  int arrived_ ABSL_GUARDED_BY(mutex_) = 0;         // ranks at the collective that gathers now
  absl::Status error_ ABSL_GUARDED_BY(mutex_);
};

class ThreadCommunicator final : public Communicator {
 public:
  ThreadCommunicator(std::shared_ptr<ThreadWorld> world, int rank)
      : world_(std::move(world)),
        rank_(rank),
        random_(world_->options().disturbance_seed * 1000003 + static_cast<uint64_t>(rank)) {}

  ~ThreadCommunicator() override {
    world_->End(
        Unavailable("{} has left its world of {}", world_->Name(rank_), Counted(size(), "rank")));
  }

  int rank() const override { return rank_; }
  int size() const override { return world_->ranks(); }
  const std::vector<std::string>& hosts() const override { return world_->options().hosts; }

  absl::Status AllReduceSum(std::span<int64_t> values, const core::StepPhase& phase) override {
    return Meet(
        {"all-reduce", values.size(), phase},
        [&](ThreadWorld::Slot& slot) {
          slot.sums.resize(values.size());
          for (size_t i = 0; i < values.size(); ++i) slot.sums[i] += values[i];
        },
        [&](const ThreadWorld::Slot& slot) {
          std::copy(slot.sums.begin(), slot.sums.end(), values.begin());
        });
  }

  absl::Status AllGather(std::span<const std::byte> mine, std::span<std::byte> all,
                         const core::StepPhase& phase) override {
    if (all.size() != mine.size() * static_cast<size_t>(size())) {
      world_->End(Internal("all-gather of {} bytes on {}: room for {} bytes, expected {} times {}",
                           mine.size(), world_->Name(rank_), all.size(), size(), mine.size()));
    }
    return Meet(
        {"all-gather", mine.size(), phase},
        [&](ThreadWorld::Slot& slot) {
          slot.bytes.resize(all.size());
          const auto place = static_cast<std::ptrdiff_t>(mine.size()) * rank_;
          std::copy(mine.begin(), mine.end(), slot.bytes.begin() + place);
        },
        [&](const ThreadWorld::Slot& slot) {
          std::copy(slot.bytes.begin(), slot.bytes.end(), all.begin());
        });
  }

  absl::Status Barrier() override {
    return Meet(
        {"barrier", 0, {}}, [](ThreadWorld::Slot&) {}, [](const ThreadWorld::Slot&) {});
  }

  absl::Status Broadcast(std::span<std::byte> bytes) override {
    return Meet(
        {"broadcast", bytes.size(), {}},
        [&](ThreadWorld::Slot& slot) {
          if (rank_ == 0) slot.bytes.assign(bytes.begin(), bytes.end());
        },
        [&](const ThreadWorld::Slot& slot) {
          std::copy(slot.bytes.begin(), slot.bytes.end(), bytes.begin());
        });
  }

  void Abort(const absl::Status& why) override {
    world_->End(absl::Status(
        why.code(), fmt::format("{} ended the world: {}", world_->Name(rank_), Message(why))));
  }

 private:
  absl::Status Meet(const Operation& operation, absl::FunctionRef<void(ThreadWorld::Slot&)> give,
                    absl::FunctionRef<void(const ThreadWorld::Slot&)> take) {
    Disturb();
    ProgressMark mark(board(), rank_, operation.phase);
    absl::Status status = world_->Meet(rank_, operation, give, take);
    Disturb();
    return status;
  }

  void Disturb() {
    const auto most = world_->options().disturbance.count();
    if (most == 0) return;
    std::uniform_int_distribution<int64_t> delay(0, most);
    std::this_thread::sleep_for(std::chrono::microseconds(delay(random_)));
  }

  std::shared_ptr<ThreadWorld> world_;
  int rank_;
  std::mt19937_64 random_;
};

}  // namespace

std::vector<std::unique_ptr<Communicator>> MakeThreadWorld(int ranks, ThreadWorldOptions options) {
  auto world = std::make_shared<ThreadWorld>(ranks, std::move(options));
  std::vector<std::unique_ptr<Communicator>> communicators;
  communicators.reserve(static_cast<size_t>(ranks));
  for (int rank = 0; rank < ranks; ++rank) {
    communicators.push_back(std::make_unique<ThreadCommunicator>(world, rank));
  }
  return communicators;
}

}  // namespace tandem::parallel
