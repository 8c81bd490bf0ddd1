#include "launcher/job/rank_job.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <chrono>
#include <cstdlib>
#include <thread>

#include "core/base/descriptor_limit.h"
#include "core/device/device.h"
#include "core/system/host_name.h"
#include "core/transformer/transformer.h"
#include "launcher/job/agent_introductions.h"
#include "launcher/job/job_hosts.h"
#include "launcher/job/progress_display.h"
#include "launcher/job/rank_weights.h"
#include "launcher/option_tables/rank_command.h"
#include "launcher/options/reported.h"
#include "launcher/options/stop_signals.h"
#include "launcher/options/version.h"
#include "launcher/state/host_kv.h"
#include "launcher/state/state_directory.h"
#include "parallel/communicators/agree_on_status.h"
#include "parallel/communicators/mpi_communicator.h"
#include "parallel/communicators/watchdog.h"
#include "parallel/coordinator/run_rank.h"
#include "parallel/links/linked_communicator.h"
#include "parallel/placement/cache_memory.h"
#include "parallel/placement/cpu_placement.h"
#include "parallel/placement/gpu_division.h"
#include "parallel/placement/gpu_memory.h"
#include "parallel/placement/gpu_placement.h"
#include "parallel/placement/world_check.h"
#include "parallel/sharding/shard_plan.h"
#include "parallel/start/start_watch.h"

namespace tandem::launcher {
namespace {

using parallel::Communicator;
using parallel::StartPhase;
using parallel::StartWatch;

/// Binding is a matter of speed: where the system refuses, that is told and no more.
void Bind(const parallel::CpuSet& cpus) {
  if (cpus.empty()) return;
  if (const absl::Status status = parallel::BindThisThread(cpus); !status.ok()) {
    spdlog::warn("{}", Message(status));
  }
}

core::CpuOptions CpuOptionsOf(const ModelChoices& choices,
                              const parallel::CpuPlacement& placement) {
  core::CpuOptions cpu{.isa = choices.isa, .activations = choices.activations};
  cpu.threads = placement.threads;
  if (!placement.may_poll) cpu.spin_microseconds = 0;
  if (!placement.thread_cpus.empty()) {
    cpu.on_thread_start = [thread_cpus = placement.thread_cpus](int worker) {
      Bind(thread_cpus[static_cast<size_t>(worker)]);
    };
  }
  return cpu;
}

/// Ranks wait for each other as threads wait for work: without polling where they have no
/// processors of their own.
parallel::CollectivePatience PatienceOf(const parallel::CpuPlacement& placement) {
  if (placement.may_poll) return {};
  return {.spin = std::chrono::microseconds(0)};
}

absl::Status CheckSameEverywhere(Communicator& world, const core::ModelFile& file,
                                 const parallel::ShardPlan& plan, const ModelOptions& options,
                                 const ModelChoices& choices) {
  const parallel::EngineIdentity identity{.program_version = kVersion,
                                          .numerics_version = kNumericsVersion,
                                          .model_fingerprint = file.fingerprint(),
                                          .plan_hash = parallel::PlanHash(plan.shards),
                                          .options = SameOptions(options, choices)};
  return parallel::CheckWorld(world, parallel::FactsOf(identity));
}

/// What looks after this rank's start, and ends the process if it stands still, or another does.
StartWatch::Options WatchOf(const ModelOptions& options) {
  const int rank = parallel::StartedRank();
  const std::string host = core::HostName();
  return {.rank = rank,
          .host = host,
          .patience =
              parallel::StartPatience(std::chrono::duration<double>(options.collective_timeout)),
          .lines = std::getenv(parallel::kStartVariable) != nullptr,
          .end = [rank, host](const std::string& why) {
            Report(
                fmt::format("rank {} on host {} ends the job: {}; if that is only slow, give "
                            "--collective-timeout more seconds",
                            rank, host, why));
            std::_Exit(kExitFailed);
          }};
}

/// Everything of one rank, in the order in which it comes to be.
class Rank {
 public:
  /// `watch` looks after the start; it must outlive the rank.
  Rank(const ModelOptions& options, uint64_t epoch, Communicator& world,
       parallel::StartWatch& watch)
      : options_(options), epoch_(epoch), world_(world), watch_(watch) {}

  absl::Status Load() {
    TANDEM_ASSIGN_OR_RETURN(choices_, ModelChoices::From(options_));
    TANDEM_ASSIGN_OR_RETURN(file_, OpenModel(options_, choices_));
    TANDEM_ASSIGN_OR_RETURN(plan_, PlanRanks(options_, choices_, *file_, world_.size()));
    TANDEM_ASSIGN_OR_RETURN(gpus_, core::FindGpus(choices_.device));
    return core::CheckLimits(choices_.device, file_->config(),
                             options_.prefill_chunk + int64_t{options_.max_running});
  }

  const core::ModelFile& file() const { return *file_; }

  absl::Status CheckWorld() {
    const std::vector<std::string>& hosts = world_.hosts();
    // Ranks that are started again where hosts are lost go on, and turns say that they are not
    // copied.
    const bool first_life = epoch_ <= 1;
    if (first_life && options_.state.durability > 1 &&
        std::all_of(hosts.begin(), hosts.end(),
                    [&](const std::string& host) { return host == hosts.front(); })) {
      return FailedPrecondition(
          "--durability {}: the job has one host, {}, so there is no other to copy conversations "
          "to; add hosts (--hostfile), or use --durability 1",
          options_.state.durability, hosts.front());
    }
    TANDEM_RETURN_IF_ERROR(CheckSameEverywhere(world_, *file_, plan_, options_, choices_));
    parallel::GpuWish wish{.wanted = choices_.device == core::DeviceKind::kCuda, .gpus = {}};
    for (const core::Gpu& gpu : gpus_) wish.gpus.push_back(gpu.id);
    TANDEM_ASSIGN_OR_RETURN(gpu_, parallel::AgreeOnGpus(world_, wish, options_.share_gpus));
    return gpus_.empty() ? absl::OkStatus() : DivideAmongGpus();
  }

  /// The agent of this host, and what it keeps; with a state directory.
  absl::Status OpenKv() {
    if (!state_asked_) return absl::OkStatus();
    // Whatever the agent does, it is waited for so long and no longer.
    const parallel::PatientPart patient(watch_);
    if (!options_.state.directory.empty()) kv_ = OpenHostKv();
    return IntroduceAgents(world_, has_agent() ? kv_.get() : nullptr, options_);
  }

  /// This rank's processors and its device, which has room for its shard.
  absl::Status FindPlace() {
    const core::Shard& shard = plan_.shards[static_cast<size_t>(world_.rank())];
    TANDEM_ASSIGN_OR_RETURN(placement_, parallel::AgreeOnPlacement(world_, choices_.pinning,
                                                                   options_.threads.value_or(0)));
    // Before any thread starts and any weight is written: what is touched first by a thread of a
    // NUMA node lies there.
    Bind(placement_.cpus);
    TANDEM_RETURN_IF_ERROR(world_.SetPatience(PatienceOf(placement_)));
    cpu_ = CpuOptionsOf(choices_, placement_);
    if (gpus_.empty()) cpu_.packed = weights_ = std::make_shared<RankWeights>();
    if (weights_ && has_agent()) {
      weights_->ChoosePlace(options_.state, *file_, choices_.activations, world_, plan_);
    }
    core::DeviceOptions device{.kind = choices_.device,
                               .cpu = cpu_,
                               .gpu = {},
                               .exact = choices_.exact,
                               .graphs = !options_.no_graphs};
    if (!gpus_.empty()) device.gpu = MyGpu();
    TANDEM_ASSIGN_OR_RETURN(operations_, core::MakeDevice(device, file_->config(), shard));
    return CheckMemory(device.gpu);
  }

  /// Joins the GPUs of all ranks, where there are several. Called by all together; all get the
  /// same.
  absl::Status LinkGpus() {
    if (gpus_.empty() || world_.size() == 1 || choices_.gpu_link == GpuLink::kHost) {
      return absl::OkStatus();
    }
    // Joining has a deadline of its own.
    const parallel::PatientPart patient(watch_);
    parallel::LinkWish wish{.device = *operations_,
                            .shares_device = gpu_.sharers > 1,
                            .floats = !choices_.exact,
                            .hosts_if_faster = choices_.gpu_link == GpuLink::kAuto,
                            .patience = 2 * CollectiveTimeout()};
    if (choices_.gpu_link != GpuLink::kPeer) wish.linker = core::OpenLinker(choices_.device);
    if (choices_.gpu_link != GpuLink::kNccl) {
      wish.peer_linker = core::OpenPeerLinker(choices_.device);
    }
    TANDEM_ASSIGN_OR_RETURN(parallel::LinkedWorld linked, parallel::LinkDevices(world_, wish));
    linked_ = std::move(linked.world);
    if (linked_ == nullptr && choices_.gpu_link != GpuLink::kAuto) {
      return FailedPrecondition("--gpu-link {}: {}",
                                choices_.gpu_link == GpuLink::kNccl ? "nccl" : "peer",
                                linked.problem);
    }
    if (world_.rank() != 0) return absl::OkStatus();
    if (linked_ == nullptr) {
      spdlog::warn("GPUs meet through their hosts: {}", linked.problem);
    } else {
      spdlog::info("GPUs meet by {}{}{}", linked_->link_name(), linked.note.empty() ? "" : "; ",
                   linked.note);
    }
    return absl::OkStatus();
  }

  absl::Status LoadShard() {
    const auto begin = std::chrono::steady_clock::now();
    const core::Shard& shard = plan_.shards[static_cast<size_t>(world_.rank())];
    ProgressDisplay display;
    const auto progress = [&](double fraction, std::string_view what) -> absl::Status {
      watch_.Progress(fraction);
      if (world_.rank() == 0) display.Show(fraction, what);
      return StopSignals::CheckPending();
    };
    auto loaded = weights_ ? weights_->Load(*file_, shard, *operations_, progress)
                           : core::Transformer::Load(*file_, shard, *operations_, progress);
    TANDEM_ASSIGN_OR_RETURN(model_, std::move(loaded));
    const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
    spdlog::info(
        "rank {} of {} on {}: query heads {}-{}, {} bytes of weights, {}{}, loaded in {:.2f} s "
        "({})",
        world_.rank(), world_.size(), world_.host(), shard.query_heads.begin,
        shard.query_heads.end() - 1, model_->weight_bytes(), operations_->device_name(),
        placement_.text.empty() ? "" : ", " + placement_.text, seconds.count(),
        weights_mapped() ? "mapped" : "read");
    if (!weights_ || world_.local_rank() != 0) return absl::OkStatus();
    if (const std::string text = weights_->Text(world_.local_size()); !text.empty()) {
      spdlog::info("host {}: {}", world_.host(), text);
    }
    return absl::OkStatus();
  }

  absl::Status Run(const RankBody& body) {
    const auto hanging = [this](const parallel::StalledCollective& stalled) {
      spdlog::error("{}; ending the job", stalled.text);
      world().Abort(absl::DeadlineExceededError(stalled.text));
      std::_Exit(kExitFailed);
    };
    parallel::ProgressBoard board(places_, linked_ != nullptr);
    parallel::Watchdog watchdog(board, CollectiveTimeout(), hanging);
    LoadedRank rank{.world = world(), .file = *file_, .model = *model_, .cpu = cpu_, .options = {}};
    rank.options.epoch = epoch_;
    rank.options.max_running = options_.max_running;
    rank.options.max_waiting = options_.max_waiting;
    rank.options.prefill_chunk = options_.prefill_chunk;
    rank.options.speculate = options_.speculate;
    rank.options.kv_memory = options_.kv_memory.value_or(0);
    rank.options.spill_memory = options_.kv_spill_memory;
    if (!gpus_.empty()) {
      const core::Shard& shard = plan_.shards[static_cast<size_t>(world_.rank())];
      rank.options.memory_sharers = gpu_.sharers;
      rank.options.memory_share = 1;  // a GPU has nothing else to do
      rank.options.memory_kept =
          parallel::MemoryOnGpu(*file_, shard, MemoryOptions()).workspace + parallel::kGpuReserve;
    }
    rank.options.kv_dtype = choices_.kv_dtype;
    rank.options.device = std::string(operations_->device_name());
    rank.options.weights_mapped = weights_mapped();
    if (!placement_.thread_cpus.empty()) {
      rank.options.on_step_thread = [this] { Bind(placement_.thread_cpus.front()); };
    }
    rank.options.watchdog = &watchdog;
    rank.options.on_set_up = [this, &board] {
      world().FinishStart();
      watch_.Finish();
      // Until here ranks look after each other, with the patience of a start.
      world().PublishTo(&board);
    };
    rank.options.control.interface = options_.control_interface;
    rank.options.control.places = places_;
    rank.options.control.board = &board;
    if (kv_) rank.options.records.tier = &kv_->tier();
    if (!options_.state.directory.empty()) {
      rank.options.records.fingerprint = KvFingerprintOf(*file_, options_, choices_);
    }
    watch_.Enter(StartPhase::kSettingUp);
    absl::Status status = body(rank);
    world().PublishTo(nullptr);
    return status;
  }

 private:
  std::chrono::milliseconds CollectiveTimeout() const {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
        std::chrono::duration<double>(options_.collective_timeout));
  }
  const core::Gpu& MyGpu() const { return gpus_[static_cast<size_t>(gpu_.place)]; }

  /// The plan for the GPUs of all ranks, as they are. Called by all together; all get the same.
  absl::Status DivideAmongGpus() {
    const core::Gpu& gpu = MyGpu();
    const bool several = world_.size() > 1;
    const auto figures = core::LookAtGpu(gpu, several && options_.weights.empty());
    TANDEM_RETURN_IF_ERROR(parallel::AgreeOnStatus(world_, figures.status()));
    TANDEM_ASSIGN_OR_RETURN(
        const std::vector<parallel::GpuFacts> facts,
        parallel::GatherGpuFacts(world_, {.device = fmt::format("GPU {}, {}", gpu.index, gpu.name),
                                          .driver = core::DriverVersion(choices_.device),
                                          .free_bytes = figures->free_bytes,
                                          .bytes_per_second = figures->bytes_per_second,
                                          .sharers = gpu_.sharers}));
    places_ = parallel::PlacesOf(world_.hosts(), facts);
    if (!several) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(
        const parallel::GpuDivision division,
        parallel::DivideAmongGpus(*file_, facts, places_, options_.weights, MemoryOptions()));
    plan_ = division.plan;
    if (world_.rank() == 0) {
      spdlog::info("shards: {}", division.why);
      if (const std::string differ = parallel::DriverDifferences(places_, facts); !differ.empty()) {
        spdlog::warn("{}", differ);
      }
    }
    return CheckPools(options_, choices_, *file_, plan_);
  }

  Communicator& world() { return linked_ == nullptr ? world_ : *linked_; }
  /// That the host, or a GPU, has room for the rank, before anything is read.
  absl::Status CheckMemory(const core::Gpu& gpu) const {
    TANDEM_ASSIGN_OR_RETURN(const int64_t available, operations_->memory().AvailableBytes());
    if (gpus_.empty()) {
      return parallel::CheckCacheMemory(options_.kv_memory.value_or(0), world_.host(),
                                        world_.local_size(), available);
    }
    return parallel::CheckGpuMemory(*file_, plan_, world_.rank(), MemoryOptions(),
                                    {.host = world_.host(),
                                     .gpu = fmt::format("GPU {} ({})", gpu.index, gpu.name),
                                     .free = available,
                                     .sharers = gpu_.sharers});
  }
  parallel::GpuMemoryOptions MemoryOptions() const {
    return {.activations = choices_.activations,
            .kv_dtype = choices_.kv_dtype,
            .spill_memory = options_.kv_spill_memory,
            .kv_memory = options_.kv_memory.value_or(0),
            .max_running = options_.max_running,
            .prefill_chunk = options_.prefill_chunk,
            .speculate = options_.speculate,
            .exact = choices_.exact};
  }

  bool weights_mapped() const { return weights_ && weights_->mapped(); }

  /// Null if there can be no agent: then no rank saves KV. The log says why, and also where there
  /// is none yet.
  std::unique_ptr<HostKv> OpenHostKv() {
    auto kv = HostKv::OpenForRank(options_.state, /*keeps_agent=*/world_.local_rank() == 0);
    const absl::Status status = kv.ok() ? (*kv)->missing() : kv.status();
    if (!status.ok() && world_.local_rank() == 0) {  // one speaks for its host
      spdlog::warn("rank {} on {}: KV is not saved{}: {}", world_.rank(), world_.host(),
                   kv.ok() ? " for now" : "", Message(status));
    }
    return kv.ok() ? *std::move(kv) : nullptr;
  }
  bool has_agent() const { return kv_ && kv_->missing().ok(); }

  const ModelOptions& options_;
  const bool state_asked_ =
      !options_.state.directory.empty();  // of all ranks, whoever goes without
  const uint64_t epoch_;
  Communicator& world_;
  parallel::StartWatch& watch_;
  std::vector<std::string> places_ = world_.hosts();  // of ranks, for messages
  ModelChoices choices_;
  std::unique_ptr<core::ModelFile> file_;
  parallel::ShardPlan plan_;
  parallel::CpuPlacement placement_;
  std::vector<core::Gpu> gpus_;  // that this rank may compute on
  parallel::GpuPlacement gpu_;
  core::CpuOptions cpu_;
  std::unique_ptr<HostKv> kv_;            // null: there is no agent
  std::shared_ptr<RankWeights> weights_;  // null: a GPU has them
  std::unique_ptr<core::Operations> operations_;
  std::unique_ptr<parallel::LinkedCommunicator> linked_;  // null: GPUs, if any, meet through hosts
  std::unique_ptr<core::Transformer> model_;
};

}  // namespace

absl::Status ReportOnce(Communicator& world, absl::Status status) {
  if (status.ok()) return status;
  if (world.rank() == 0) Report(status);
  // If the barrier fails too, there is nothing more to tell.
  static_cast<void>(world.Barrier());
  return ReportedElsewhere(std::move(status));
}

absl::Status RunEngine(const LoadedRank& rank, const EngineBody& body) {
  TANDEM_ASSIGN_OR_RETURN(auto engine, parallel::RunRank(rank.options, rank.world, rank.model));
  if (engine == nullptr) return absl::OkStatus();
  const absl::Status status = body(*engine, rank.file);
  return status.ok() ? engine->Health() : status;
}

absl::Status RunOnRanks(const ModelOptions& options, int expected_ranks, const RankBody& body,
                        const EnginePreparation& prepare, Supervision supervision) {
  if (std::getenv(parallel::kStartVariable) != nullptr) {
    // mpirun tells its ranks of the same folder by another name, and with both they do not start.
    unsetenv(kLocalFolderVariable);  // NOLINT(concurrency-mt-unsafe): before any thread reads it
  }
  StartWatch watch(WatchOf(options));
  parallel::MpiOptions mpi;
  mpi.start_watch = &watch;
  if (expected_ranks > 0) mpi.expected_ranks = expected_ranks;
  TANDEM_ASSIGN_OR_RETURN(const std::unique_ptr<Communicator> world, parallel::CreateWorld(mpi));
  Rank rank(options, supervision.epoch, *world, watch);
  const auto agreed = [&](const absl::Status& status) {
    return ReportOnce(*world, options.sources.Name(parallel::AgreeOnStatus(*world, status)));
  };
  watch.Enter(StartPhase::kModel);
  TANDEM_RETURN_IF_ERROR(agreed(rank.Load()));
  watch.Enter(StartPhase::kComparing);
  TANDEM_RETURN_IF_ERROR(ReportOnce(*world, options.sources.Name(rank.CheckWorld())));
  watch.Enter(StartPhase::kPreparing);
  absl::Status prepared;
  if (world->rank() == 0) {
    if (world->size() > 1) prepared = CheckControlInterface(options);
    if (prepared.ok() && prepare) prepared = prepare(rank.file());
  }
  TANDEM_RETURN_IF_ERROR(agreed(prepared));
  watch.Enter(StartPhase::kKv);
  TANDEM_RETURN_IF_ERROR(agreed(rank.OpenKv()));
  watch.Enter(StartPhase::kPlacing);
  TANDEM_RETURN_IF_ERROR(agreed(rank.FindPlace()));
  watch.Enter(StartPhase::kLinking);
  TANDEM_RETURN_IF_ERROR(ReportOnce(*world, options.sources.Name(rank.LinkGpus())));
  watch.Enter(StartPhase::kLoading);
  TANDEM_RETURN_IF_ERROR(agreed(rank.LoadShard()));
  absl::Status status = rank.Run(body);
  if (absl::IsUnavailable(status) && world->size() > 1) {
    // A rank is gone: nobody can wait for the others in an orderly end.
    if (!supervision.supervised) spdlog::error("{}", Message(status));
    std::_Exit(kExitFailed);
  }
  return status;
}

absl::Status RunRankJob(const ModelOptions& options, int expected_ranks, const EngineBody& body,
                        const EnginePreparation& prepare, Supervision supervision) {
  return RunOnRanks(
      options, expected_ranks, [&](const LoadedRank& rank) { return RunEngine(rank, body); },
      prepare, supervision);
}

absl::Status CheckJobDescriptors(int ranks, int64_t further) {
  // Of ranks and mpirun, rank 0 has the most open: 44 with 4 ranks, and 14 more with a KV agent.
  // The command has 7 open with one rank, and 19 with several.
  const bool several = ranks > 1 || parallel::StartedByMpi();
  return CheckDescriptors(several ? std::max(64 + int64_t{4} * ranks, 24 + further)
                                  : std::max(int64_t{32}, 8 + further));
}

}  // namespace tandem::launcher
