#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <future>
#include <memory>
#include <numeric>
#include <string>
#include <utility>

#include "core/base/counted.h"
#include "core/base/errno_text.h"
#include "core/base/isa.h"
#include "core/cpu/machine_peak.h"
#include "core/model/attention_text.h"
#include "core/system/standard_output.h"
#include "kv_store/pages/pool_size.h"
#include "launcher/bench/bench_result.h"
#include "launcher/bench/machine_info.h"
#include "launcher/commands/commands.h"
#include "launcher/job/job_hosts.h"
#include "launcher/job/mpi_job.h"
#include "launcher/job/progress_display.h"
#include "launcher/job/rank_job.h"
#include "launcher/option_tables/option_table.h"
#include "launcher/option_tables/rank_command.h"
#include "launcher/options/cleanup_signals.h"
#include "parallel/communicators/agree_on_status.h"
#include "parallel/communicators/mpi_communicator.h"
#include "parallel/start/start_table.h"

namespace tandem::launcher {
namespace {

constexpr auto kCeilingTime = std::chrono::milliseconds(250);
// Nothing of the first round counts: it warms caches up, and finds what does not fit.
constexpr int32_t kWarmUpTokens = 4;

/// The prefill, then every batch once, a single sequence always among them.
std::vector<BenchScenario> ScenariosOf(const BenchOptions& options) {
  std::vector<int> batches;
  const auto add = [&batches](int sequences) {
    if (std::find(batches.begin(), batches.end(), sequences) == batches.end()) {
      batches.push_back(sequences);
    }
  };
  if (std::find(options.batches.begin(), options.batches.end(), 1) == options.batches.end()) add(1);
  for (const int sequences : options.batches) add(sequences);
  std::vector<BenchScenario> scenarios = {{.sequences = 0, .prompt = options.prompt}};
  for (const int sequences : batches) {
    scenarios.push_back(
        {.sequences = sequences, .prompt = options.context, .generated = options.generated});
  }
  return scenarios;
}

/// That the model's context holds what is asked for.
absl::Status CheckContext(const BenchOptions& options, const core::ModelConfig& config) {
  for (const BenchScenario& scenario : ScenariosOf(options)) {
    const int64_t tokens = int64_t{scenario.prompt} + scenario.asked(options.model.prefill_chunk);
    if (tokens <= config.context) continue;
    if (scenario.prefill()) {
      return OutOfRange("--prompt {}: the model's context holds {} tokens", scenario.prompt,
                        config.context);
    }
    return OutOfRange(
        "--gen {} with --context {} and --batch {} takes {} tokens a sequence, the model's context "
        "holds {}",
        scenario.generated, options.context, scenario.sequences, tokens, config.context);
  }
  return absl::OkStatus();
}

/// The bench of one rank. All ranks do the same at the same time; rank 0 keeps the results.
class RankBench {
 public:
  RankBench(const BenchOptions& options, const LoadedRank& rank)
      : options_(options),
        rank_(rank),
        pool_(rank.cpu.threads, rank.cpu.spin_microseconds, rank.cpu.on_thread_start) {}

  absl::Status Run() {
    TANDEM_RETURN_IF_ERROR(Agreed(PrepareCeilings()));
    const std::vector<BenchScenario> scenarios = ScenariosOf(options_);
    all_scenarios_ = (options_.rounds + 1) * static_cast<int>(scenarios.size());
    results_.resize(scenarios.size());
    for (int round = 0; round <= options_.rounds; ++round) {
      const bool warm_up = round == 0;
      if (!warm_up) TANDEM_RETURN_IF_ERROR(MeasureCeilings());
      for (size_t i = 0; i < scenarios.size(); ++i) {
        TANDEM_RETURN_IF_ERROR(RunScenario(scenarios[i], warm_up, results_[i]));
        ++done_scenarios_;
      }
    }
    return absl::OkStatus();
  }

  /// After Run; whole on rank 0.
  BenchResult Result() const {
    BenchResult result;
    result.file = rank_.file.path();
    result.name = rank_.file.config().name;
    result.weights = core::CountWeights(rank_.file);
    result.hosts = rank_.world.hosts();
    result.processor = ProcessorName();
    result.processors = ProcessorsOfThisMachine();
    result.huge_pages = HugePagesSetting();
    result.threads = rank_.cpu.threads;
    result.isa = core::IsaName(rank_.cpu.isa);
    result.eight_bit = rank_.cpu.activations == core::ActivationMode::kQ8;
    result.activations = options_.model.activations;
    result.kv_dtype = KvDtypeName(rank_.options.kv_dtype);
    result.attention = core::AttentionText(rank_.file.config().attention);
    result.prefill_chunk = rank_.options.prefill_chunk;
    result.read_bytes_per_second = read_;
    result.int8_per_second = int8_;
    result.prefill = results_.front();
    result.decodes.assign(results_.begin() + 1, results_.end());
    return result;
  }

 private:
  absl::Status Agreed(const absl::Status& mine) {
    return parallel::AgreeOnStatus(rank_.world, mine);
  }

  /// Everyone's value on every rank.
  template <typename T>
  absl::StatusOr<std::vector<T>> Gather(const T& mine) {
    std::vector<T> all(static_cast<size_t>(rank_.world.size()));
    TANDEM_RETURN_IF_ERROR(rank_.world.AllGather(std::as_bytes(std::span(&mine, 1)),
                                                 std::as_writable_bytes(std::span(all)), {}));
    return all;
  }

  absl::Status PrepareCeilings() {
    const int64_t bytes = options_.read_memory / std::max(1, rank_.world.local_size());
    absl::StatusOr<core::ReadPeak> memory = core::ReadPeak::Create(bytes, pool_);
    TANDEM_RETURN_IF_ERROR(memory.status());
    memory_ = std::make_unique<core::ReadPeak>(std::move(memory).value());
    return absl::OkStatus();
  }

  /// What all ranks can do at the same time.
  absl::Status MeasureCeilings() {
    TANDEM_RETURN_IF_ERROR(rank_.world.Barrier());
    const double read = memory_->Measure(kCeilingTime, pool_);
    TANDEM_ASSIGN_OR_RETURN(const std::vector<double> reads, Gather(read));
    const double int8 = core::MeasureInt8Peak(rank_.cpu.isa, kCeilingTime, pool_);
    TANDEM_ASSIGN_OR_RETURN(const std::vector<double> int8s, Gather(int8));
    read_.push_back(std::accumulate(reads.begin(), reads.end(), 0.0));
    int8_.push_back(std::accumulate(int8s.begin(), int8s.end(), 0.0));
    return absl::OkStatus();
  }

  absl::Status RunScenario(BenchScenario scenario, bool warm_up, ScenarioResult& result) {
    result.scenario = scenario;
    core::PhaseClock clock;
    LoadedRank rank = rank_;
    rank.options.phases = &clock;
    rank.options.max_running = scenario.slots();
    rank.options.max_waiting = scenario.slots();
    // All sequences should decode together soon.
    rank.options.spare_streams = false;
    rank.options.kv_sequence_tokens = scenario.prompt + scenario.asked(rank.options.prefill_chunk);
    if (warm_up) scenario.generated = std::min(scenario.generated, kWarmUpTokens);
    double speed = 0;
    const absl::Status status =
        RunEngine(rank, [&](parallel::Engine& engine, const core::ModelFile&) -> absl::Status {
          TANDEM_RETURN_IF_ERROR(CheckRoom(engine, result.scenario));
          const auto progress = [&](double fraction) { Show(scenario, warm_up, fraction); };
          progress(0);
          const absl::StatusOr<double> measured = MeasureScenario(
              engine, scenario, rank.options.prefill_chunk, rank.file.config().vocab, progress);
          // So short a run may be over before all sequences are there.
          if (warm_up && absl::IsFailedPrecondition(measured.status())) return absl::OkStatus();
          TANDEM_RETURN_IF_ERROR(measured.status());
          speed = *measured;
          return absl::OkStatus();
        });
    TANDEM_RETURN_IF_ERROR(Agreed(status));
    if (warm_up) return absl::OkStatus();
    TANDEM_ASSIGN_OR_RETURN(const std::vector<core::PhaseTimes> phases,
                            Gather(clock.Steps(scenario.sequences)));
    result.tokens_per_second.push_back(speed);
    result.phases.resize(phases.size());
    for (size_t r = 0; r < phases.size(); ++r) result.phases[r] += phases[r];
    return absl::OkStatus();
  }

  /// That the pool, which is made for the scenario as far as memory goes, holds all of it.
  absl::Status CheckRoom(parallel::Engine& engine, const BenchScenario& scenario) const {
    TANDEM_ASSIGN_OR_RETURN(const parallel::EngineStatus status, engine.Status());
    const int64_t tokens = int64_t{scenario.prompt} + scenario.asked(rank_.options.prefill_chunk);
    int64_t wanted = 0;
    for (const core::KvLayerGroup& group : core::LayerGroups(rank_.file.config())) {
      wanted +=
          scenario.slots() * kv_store::MostBlocksHeld(group, tokens, rank_.options.prefill_chunk);
    }
    if (status.blocks_total >= wanted) return absl::OkStatus();
    return ResourceExhausted(
        "{} of {} ask for {} of KV cache, {} fit into the memory of a rank; use a smaller --batch, "
        "--gen, --context or --prompt, more ranks, or more --kv-memory",
        Counted(scenario.slots(), "sequence"), Counted(tokens, "token"), Counted(wanted, "block"),
        status.blocks_total);
  }

  void Show(const BenchScenario& scenario, bool warm_up, double fraction) {
    const std::string what = scenario.prefill()
                                 ? std::string("prefill")
                                 : fmt::format("decode, batch {}", scenario.sequences);
    const int round = done_scenarios_ / static_cast<int>(results_.size());
    display_.Show((done_scenarios_ + fraction) / all_scenarios_,
                  warm_up ? fmt::format("warming up: {}", what)
                          : fmt::format("round {} of {}: {}", round, options_.rounds, what));
  }

  const BenchOptions& options_;
  const LoadedRank& rank_;
  core::ThreadPool pool_;  // as large as the model's
  std::unique_ptr<core::ReadPeak> memory_;
  ProgressDisplay display_;  // used by rank 0
  int done_scenarios_ = 0;
  int all_scenarios_ = 0;
  std::vector<double> read_;             // [rounds]
  std::vector<double> int8_;             // [rounds]
  std::vector<ScenarioResult> results_;  // [scenarios]
};

absl::Status BenchOnRank(const BenchOptions& options, const LoadedRank& rank) {
  TANDEM_RETURN_IF_ERROR(ReportOnce(rank.world, CheckContext(options, rank.file.config())));
  const auto measure = [&]() -> absl::StatusOr<BenchResult> {
    RankBench bench(options, rank);
    TANDEM_RETURN_IF_ERROR(bench.Run());
    return bench.Result();
  };
  const absl::StatusOr<BenchResult> result = measure();
  TANDEM_RETURN_IF_ERROR(ReportOnce(rank.world, result.status()));
  if (rank.world.rank() != 0) return absl::OkStatus();
  const std::string text = options.json ? BenchJson(*result) : BenchText(*result);
  WriteOutput(text);
  return absl::OkStatus();
}

/// A file without a name.
class MemoryFile {
 public:
  static absl::StatusOr<MemoryFile> Make() {
    const int fd = memfd_create("tandem-output", MFD_CLOEXEC);
    if (fd < 0) return Unavailable("no file in memory can be made: {}", ErrnoText(errno));
    return MemoryFile(fd);
  }
  MemoryFile(MemoryFile&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  MemoryFile& operator=(MemoryFile&&) = delete;
  ~MemoryFile() {
    if (fd_ >= 0) close(fd_);
  }

  int fd() const { return fd_; }
  /// All of it.
  std::string Read() const {
    std::string text;
    std::array<char, 4096> piece{};
    for (ssize_t size;
         (size = pread(fd_, piece.data(), piece.size(), static_cast<off_t>(text.size()))) > 0;) {
      text.append(piece.data(), static_cast<size_t>(size));
    }
    return text;
  }

 private:
  explicit MemoryFile(int fd) : fd_(fd) {}
  int fd_;
};

/// The ranks as processes of mpirun, with our flags.
absl::Status BenchUnderMpi(const BenchOptions& o) {
  TANDEM_ASSIGN_OR_RETURN(const auto file, CheckRanks(o.model, o.launch));
  TANDEM_RETURN_IF_ERROR(CheckJobDescriptors(o.launch.ranks));
  TANDEM_RETURN_IF_ERROR(CheckContext(o, file->config()));
  // Not mpirun's: it says nothing of what it could not write.
  TANDEM_ASSIGN_OR_RETURN(const MemoryFile output, MemoryFile::Make());
  BenchOptions told = o;
  told.launch = {.ranks = o.launch.ranks, .hostfile = {}, .mpirun_arguments = {}, .log_level = {}};
  CleanupSignals signals;
  std::promise<absl::Status> end;
  TANDEM_ASSIGN_OR_RETURN(const auto job,
                          MpiJob::Start(
                              {.launch = o.launch,
                               .command = CommandOfThisProgram("bench", RowsOf(told)),
                               .patience = parallel::StartPatience(
                                   std::chrono::duration<double>(o.model.collective_timeout)),
                               .output = output.fd()},
                              [&end](const absl::Status& why) { end.set_value(why); }, &signals));
  if (absl::Status why = end.get_future().get(); !why.ok()) return job->Explain(std::move(why));
  WriteOutput(output.Read());
  return absl::OkStatus();
}

}  // namespace

absl::Status Bench(const BenchOptions& options) {
  TANDEM_RETURN_IF_ERROR(CheckLaunch(options.model, options.launch));
  if (options.launch.ranks > 1 && !parallel::StartedByMpi()) return BenchUnderMpi(options);
  TANDEM_RETURN_IF_ERROR(CheckJobDescriptors(options.launch.ranks));
  return RunOnRanks(options.model, options.launch.ranks,
                    [&](const LoadedRank& rank) { return BenchOnRank(options, rank); });
}

}  // namespace tandem::launcher
