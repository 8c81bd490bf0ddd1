// How fast a GPU computes, against what it can: see kUsage.

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>

#include "core/cuda/cuda_driver.h"
#include "core/model/device_status.h"
#include "fmt/chrono.h"
#include "tests/bench/gpu_bench/measure.h"

namespace tandem::bench {
namespace {

using nlohmann::ordered_json;

constexpr char kUsage[] =
    "Measures a GPU: how fast it copies, decoding as a share of that, prompts as a share of a "
    "dense bfloat16 product by cuBLASLt, attention alone, how long the GPU does nothing between "
    "two steps (with graphs and without), and a prompt's KV brought back from records against "
    "computing it anew. Among several GPUs: all-reduces by size, by each link and through the "
    "hosts. Models are random, in the shapes of Llama 1B, 8B and one of eight ranks of 70B, and "
    "made on the GPU. What does not fit or is not installed is skipped by name. Without a GPU it "
    "says so and ends with status 77.";
constexpr int kFailed = 1;
constexpr int kNoGpu = 77;

struct Options {
  std::vector<std::string> shapes = {"1b", "8b", "70b/8"};
  std::vector<int> batches = {1, 8, 16, 64};
  std::vector<int> contexts = {512, 8192, 32768};
  std::vector<int> prompts = {512, 2048};
  std::vector<int> restored = {512, 2048, 8192};
  std::vector<int64_t> reduced = {1 << 10, 8 << 10,  64 << 10, 512 << 10,
                                  4 << 20, 16 << 20, 64 << 20};
  int reduce_ranks = 0;
  std::string dtype = "q4_k";
  std::string kv_dtype = "f16";
  int64_t dense = 8192;
  bool no_exact = false;
  int gpu = 0;
  std::string json;
  Effort effort;
};

template <typename... Args>
void Say(fmt::format_string<Args...> format, Args&&... args) {
  fmt::print(stderr, "gpu_bench: {}\n", fmt::format(format, std::forward<Args>(args)...));
}

/// The first line of what the NVIDIA driver says of itself.
std::string DriverVersion() {
  std::ifstream file("/proc/driver/nvidia/version");
  std::string line;
  std::getline(file, line);
  return line.empty() ? "unknown" : line;
}

absl::StatusOr<core::DType> DTypeOf(const std::string& name) {
  for (const core::DType dtype :
       {core::DType::kF32, core::DType::kF16, core::DType::kBF16, core::DType::kQ4_0,
        core::DType::kQ4_1, core::DType::kQ5_0, core::DType::kQ5_1, core::DType::kQ8_0,
        core::DType::kQ2_K, core::DType::kQ3_K, core::DType::kQ4_K, core::DType::kQ5_K,
        core::DType::kQ6_K}) {
    std::string lower(core::DTypeName(dtype));
    for (char& letter : lower) letter = static_cast<char>(std::tolower(letter));
    if (lower == name) return dtype;
  }
  return InvalidArgument("--dtype {}: expected f32, f16, bf16, q4_0 to q8_0 or q2_k to q6_k", name);
}

/// Everything that is measured, as lines of a table and as JSON.
class Bench {
 public:
  Bench(Options options, std::vector<core::Gpu> gpus, core::Gpu gpu, std::string command)
      : options_(std::move(options)),
        gpus_(std::move(gpus)),
        gpu_(std::move(gpu)),
        command_(std::move(command)) {}

  absl::Status Run() {
    TANDEM_ASSIGN_OR_RETURN(dtype_, DTypeOf(options_.dtype));
    kv_dtype_ = options_.kv_dtype == "f32" ? core::KvDtype::kF32 : core::KvDtype::kF16;
    TANDEM_RETURN_IF_ERROR(Machine());
    TANDEM_RETURN_IF_ERROR(Reductions());
    for (const std::string& name : options_.shapes) TANDEM_RETURN_IF_ERROR(Model(name));
    return Write();
  }

 private:
  absl::Status Machine() {
    return core::WithDeviceFailures([&]() -> absl::Status {
      core::CudaMemory memory(gpu_);
      Say("copying on GPU {}, {}", gpu_.index, gpu_.name);
      TANDEM_ASSIGN_OR_RETURN(bandwidth_, CopyBandwidth(memory, options_.effort));
      fmt::print("GPU {}, {}: copies {:.1f} GB/s (read and written)\n", gpu_.index, gpu_.name,
                 bandwidth_ / 1e9);
      if (options_.dense == 0) return absl::OkStatus();
      Say("dense bfloat16 products of {} rows and columns", options_.dense);
      const auto rate = DenseRate(memory, options_.dense, options_.effort);
      if (rate.ok()) {
        dense_ = *rate;
        fmt::print("dense bfloat16 products: {:.1f} Tflop/s\n", dense_ / 1e12);
      } else {
        dense_problem_ = Message(rate.status());
        fmt::print("dense bfloat16 products: skipped: {}\n", dense_problem_);
      }
      return absl::OkStatus();
    });
  }

  absl::Status Reductions() {
    const int ranks =
        options_.reduce_ranks > 0 ? options_.reduce_ranks : static_cast<int>(gpus_.size());
    if (options_.reduced.empty()) return absl::OkStatus();
    fmt::print("\nall-reduce of {} ranks:\n", ranks);
    if (ranks == 1) {
      Skip("", "all_reduce", {}, "there is one GPU (--reduce-ranks 2 lets ranks share it)");
      return absl::OkStatus();
    }
    Say("all-reduce of {} ranks", ranks);
    TANDEM_ASSIGN_OR_RETURN(const std::vector<ReducePoint> points,
                            ReduceRates(gpus_, ranks, options_.reduced, options_.effort));
    for (const ReducePoint& point : points) {
      ordered_json where = {{"link", point.link}, {"type", point.type}, {"ranks", ranks}};
      if (!point.skipped.empty()) {
        Skip("", "all_reduce", where, point.skipped);
        continue;
      }
      where["bytes"] = point.bytes;
      ordered_json row = {{"what", "all_reduce"}};
      row.update(where);
      row["milliseconds"] = 1e3 * point.seconds;
      row["bus_bytes_per_second"] = point.bus_bytes_per_second;
      Add(std::move(row),
          fmt::format("{:<16} {:<8} {:>10} bytes {:>10.4f} ms {:>8.2f} GB/s of the bus", point.link,
                      point.type, point.bytes, 1e3 * point.seconds,
                      point.bus_bytes_per_second / 1e9));
    }
    return absl::OkStatus();
  }

  /// A model, or null where there is no room for it, which is told.
  absl::StatusOr<std::unique_ptr<RandomModel>> Load(const ModelShape& shape, bool graphs) {
    const std::string& name = shape.name;
    const auto progress = [&](double fraction, std::string_view what) {
      const int percent = static_cast<int>(fraction * 100) / 25 * 25;
      if (percent != told_) Say("{}: {}, {} %", name, what, percent);
      told_ = percent;
      return absl::OkStatus();
    };
    auto made = RandomModel::Make(shape, dtype_, gpu_, !options_.no_exact, graphs, progress);
    if (absl::IsResourceExhausted(made.status())) {
      Skip(name, "model", {}, Message(made.status()));
      return std::unique_ptr<RandomModel>();
    }
    return made;
  }

  absl::Status Model(const std::string& name) {
    const ModelShape shape = ShapeOf(name);
    if (shape.name.empty()) {
      return InvalidArgument("--shape {}: expected tiny, 1b, 8b or 70b/8", name);
    }
    TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<RandomModel> made, Load(shape, /*graphs=*/true));
    if (made == nullptr) return absl::OkStatus();
    RandomModel& model = *made;
    fmt::print("\n{}: {:.2f} GB of weights ({}), {} mode\n", name,
               static_cast<double>(model.model().weight_bytes()) / 1e9, options_.dtype,
               options_.no_exact ? "fast" : "exact");
    for (const int context : options_.contexts) {
      for (const int batch : options_.batches) {
        const ordered_json where = {{"batch", batch}, {"context", context}};
        TANDEM_RETURN_IF_ERROR(Measure(name, "decode", where, batch, [&] {
          return Decode(model, kv_dtype_, batch, context, options_.effort);
        }));
        TANDEM_RETURN_IF_ERROR(Measure(name, "attention", where, batch, [&] {
          return Attention(model, kv_dtype_, batch, context, options_.effort);
        }));
      }
    }
    for (const int prompt : options_.prompts) {
      const ordered_json where = {{"prompt", prompt}, {"context", 0}};
      TANDEM_RETURN_IF_ERROR(Measure(name, "prefill", where, prompt, [&] {
        return Prefill(model, kv_dtype_, prompt, 0, options_.effort);
      }));
    }
    for (const int tokens : options_.restored) {
      TANDEM_RETURN_IF_ERROR(MeasureRestore(name, model, tokens));
    }
    TANDEM_RETURN_IF_ERROR(MeasureGaps(name, model, /*graphs=*/true));
    made.reset();
    TANDEM_ASSIGN_OR_RETURN(made, Load(shape, /*graphs=*/false));
    return made == nullptr ? absl::OkStatus() : MeasureGaps(name, *made, /*graphs=*/false);
  }

  absl::Status MeasureRestore(const std::string& name, RandomModel& model, int tokens) {
    const ordered_json where = {{"tokens", tokens}};
    Say("{}: restore {}", name, where.dump());
    TANDEM_ASSIGN_OR_RETURN(const Restoring found,
                            Restore(model, kv_dtype_, tokens, options_.effort));
    if (!found.skipped.empty()) {
      Skip(name, "restore", where, found.skipped);
      return absl::OkStatus();
    }
    const double seconds = found.check + found.load;
    Add({{"model", name},
         {"what", "restore"},
         {"tokens", tokens},
         {"bytes", found.bytes},
         {"milliseconds", 1e3 * seconds},
         {"check_milliseconds", 1e3 * found.check},
         {"load_milliseconds", 1e3 * found.load},
         {"recompute_milliseconds", 1e3 * found.recompute},
         {"times_faster", found.recompute / seconds}},
        fmt::format("{:<10} {:<36} {:>10.3f} ms (checked {:.3f}, loaded {:.3f}), computed anew "
                    "{:.3f} ms: {:.1f} times faster",
                    "restore", where.dump(), 1e3 * seconds, 1e3 * found.check, 1e3 * found.load,
                    1e3 * found.recompute, found.recompute / seconds));
    return absl::OkStatus();
  }

  absl::Status MeasureGaps(const std::string& name, RandomModel& model, bool graphs) {
    for (const int batch : options_.batches) {
      const ordered_json where = {
          {"batch", batch}, {"context", options_.contexts.front()}, {"graphs", graphs}};
      Say("{}: gap {}", name, where.dump());
      TANDEM_ASSIGN_OR_RETURN(const Gap gap, StepGap(model, kv_dtype_, batch,
                                                     options_.contexts.front(), options_.effort));
      if (!gap.skipped.empty()) {
        Skip(name, "gap", where, gap.skipped);
        continue;
      }
      ordered_json row = {{"model", name}, {"what", "gap"}};
      row.update(where);
      row["milliseconds"] = 1e3 * (gap.step - gap.busy);
      row["step_milliseconds"] = 1e3 * gap.step;
      row["of_step"] = (gap.step - gap.busy) / gap.step;
      Add(std::move(row), fmt::format("{:<10} {:<48} {:>8.3f} ms of {:.3f}: {:.1f} %", "gap",
                                      where.dump(), 1e3 * (gap.step - gap.busy), 1e3 * gap.step,
                                      100 * (gap.step - gap.busy) / gap.step));
    }
    return absl::OkStatus();
  }

  absl::Status Measure(const std::string& model, const std::string& what, const ordered_json& where,
                       int tokens, const std::function<absl::StatusOr<Point>()>& measure) {
    Say("{}: {} {}", model, what, where.dump());
    TANDEM_ASSIGN_OR_RETURN(const Point point, measure());
    if (!point.skipped.empty()) {
      Skip(model, what, where, point.skipped);
      return absl::OkStatus();
    }
    ordered_json row = {{"model", model}, {"what", what}};
    row.update(where);
    row["milliseconds"] = 1e3 * point.seconds;
    std::string text =
        fmt::format("{:<10} {:<36} {:>10.3f} ms", what, where.dump(), 1e3 * point.seconds);
    if (what != "attention") {
      row["tokens_per_second"] = tokens / point.seconds;
      text += fmt::format(" {:>10.1f} tokens/s", tokens / point.seconds);
    }
    if (what == "prefill") {
      row["operations_per_second"] = point.operations / point.seconds;
      text += fmt::format(" {:>8.2f} Tflop/s", point.operations / point.seconds / 1e12);
      if (dense_ > 0) {
        row["of_dense"] = point.operations / point.seconds / dense_;
        text +=
            fmt::format(" {:>6.1f} % of dense", 100 * point.operations / point.seconds / dense_);
      }
    } else {
      row["bytes_per_second"] = point.bytes / point.seconds;
      row["of_copy"] = point.bytes / point.seconds / bandwidth_;
      text +=
          fmt::format(" {:>8.1f} GB/s {:>6.1f} % of the copy", point.bytes / point.seconds / 1e9,
                      100 * point.bytes / point.seconds / bandwidth_);
    }
    Add(std::move(row), text);
    return absl::OkStatus();
  }

  void Add(ordered_json row, const std::string& text) {
    fmt::print("{}\n", text);
    std::fflush(stdout);
    rows_.push_back(std::move(row));
  }

  void Skip(const std::string& model, const std::string& what, const ordered_json& where,
            const std::string& why) {
    fmt::print("{:<10} {:<36} skipped: {}\n", what, where.is_null() ? "" : where.dump(), why);
    ordered_json row;
    if (!model.empty()) row["model"] = model;
    row["what"] = what;
    if (!where.is_null()) row.update(where);
    row["skipped"] = why;
    rows_.push_back(std::move(row));
  }

  absl::Status Write() {
    if (options_.json.empty()) return absl::OkStatus();
    ordered_json all = {{"gpu", gpu_.name},
                        {"driver", DriverVersion()},
                        {"date", fmt::format("{:%F %T}Z", fmt::gmtime(std::time(nullptr)))},
                        {"command", command_},
                        {"weights", options_.dtype},
                        {"kv_dtype", options_.kv_dtype},
                        {"copy_bytes_per_second", bandwidth_}};
    if (dense_ > 0) all["dense_operations_per_second"] = dense_;
    if (!dense_problem_.empty()) all["dense_skipped"] = dense_problem_;
    all["rows"] = rows_;
    std::ofstream file(options_.json);
    file << all.dump(2) << '\n';
    file.close();
    if (!file) return InvalidArgument("--json {}: it cannot be written", options_.json);
    return absl::OkStatus();
  }

  const Options options_;
  const std::vector<core::Gpu> gpus_;
  const core::Gpu gpu_;
  const std::string command_;
  core::DType dtype_ = core::DType::kQ4_K;
  core::KvDtype kv_dtype_ = core::KvDtype::kF16;
  double bandwidth_ = 0;  // bytes a second
  double dense_ = 0;      // operations a second; 0: not measured
  std::string dense_problem_;
  int told_ = -1;  // percent of a model's loading
  ordered_json rows_ = ordered_json::array();
};

int Main(int count, char** arguments) {
  Options options;
  CLI::App app(kUsage, "gpu_bench");
  app.add_option("--shape", options.shapes, "tiny, 1b, 8b, 70b/8")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--batch", options.batches, "sequences decoded together")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--context", options.contexts, "tokens of each in the cache")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--prompt", options.prompts, "tokens of a prompt read in one step")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--restore", options.restored, "tokens of a prompt whose KV is brought back")
      ->delimiter(',')
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  app.add_option("--reduce", options.reduced, "bytes of all-reduces, multiples of 16")
      ->delimiter(',')
      ->check(CLI::Range(int64_t{16}, int64_t{1} << 34))
      ->capture_default_str();
  app.add_option("--reduce-ranks", options.reduce_ranks,
                 "ranks of all-reduces; more than GPUs share them (default: one a GPU)");
  app.add_option("--dtype", options.dtype, "of the weights: q4_k, q8_0, bf16 ...")
      ->capture_default_str();
  app.add_option("--kv-dtype", options.kv_dtype, "f16 or f32")
      ->check(CLI::IsMember({"f16", "f32"}))
      ->capture_default_str();
  app.add_flag("--no-exact", options.no_exact, "fast mode, as the flag of tandem");
  app.add_option("--dense", options.dense, "rows of the dense product; 0: none")
      ->capture_default_str();
  app.add_option("--seconds", options.effort.seconds, "of each measurement")->capture_default_str();
  app.add_option("--copy", options.effort.copy_bytes, "bytes of the copy")->capture_default_str();
  app.add_option("--gpu", options.gpu, "which, by the CUDA runtime's numbers")
      ->capture_default_str();
  app.add_option("--json", options.json, "file to write all of it to");
  CLI11_PARSE(app, count, arguments);
  std::string command;
  for (int i = 0; i < count; ++i) command += (i == 0 ? "" : " ") + std::string(arguments[i]);

  core::CudaDriver driver = core::FindCudaDriver();
  if (driver.gpus.empty()) {
    fmt::print("gpu_bench: skipped: there is no GPU to measure ({})\n", driver.problem);
    return kNoGpu;
  }
  for (const core::Gpu& gpu : driver.gpus) {
    if (gpu.index != options.gpu) continue;
    const absl::Status status = Bench(options, driver.gpus, gpu, command).Run();
    if (status.ok()) return 0;
    fmt::print(stderr, "gpu_bench: {}\n", Message(status));
    return kFailed;
  }
  fmt::print(stderr, "gpu_bench: --gpu {}: there are {} GPUs\n", options.gpu, driver.gpus.size());
  return kFailed;
}

}  // namespace
}  // namespace tandem::bench

int main(int count, char** arguments) { return tandem::bench::Main(count, arguments); }
