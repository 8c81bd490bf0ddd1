#include "tests/bench/gpu_bench/measure.h"

#include <algorithm>
#include <chrono>

#include "core/base/counted.h"
#include "core/model/device_status.h"
#include "kv_store/pages/page_pool.h"
#include "kv_store/pages/pool_size.h"
#include "kv_store/records/record.h"

namespace tandem::bench {
namespace {

constexpr int64_t kReservedBytes = int64_t{2} << 30;  // for the rows of a step
constexpr int kChunk = 512;                           // tokens of a prompt in a step, as by default
constexpr int kPasses = 3;                            // until a step is a graph

/// Seconds of one repetition of `body`, which waits for the GPU itself.
absl::StatusOr<double> Time(const Effort& effort, const std::function<absl::Status()>& body) {
  TANDEM_RETURN_IF_ERROR(body());  // what is allocated is so once
  using Clock = std::chrono::steady_clock;
  const auto begin = Clock::now();
  double seconds = 0;
  int times = 0;
  while (times < effort.least || seconds < effort.seconds) {
    TANDEM_RETURN_IF_ERROR(body());
    ++times;
    seconds = std::chrono::duration<double>(Clock::now() - begin).count();
  }
  return seconds / times;
}

/// Sequences that hold `context` tokens each and get `more`, in pages of their own.
class Step {
 public:
  Step(RandomModel& model, core::KvDtype dtype, int batch, int context, int more)
      : config_(model.config()), batch_(batch), context_(context), more_(more) {
    geometry_ = {.groups = core::LayerGroups(config_),
                 .layers = config_.layers,
                 .kv_heads = static_cast<int>(model.shard().kv_heads.count),
                 .head_dim = config_.head_dim,
                 .dtype = dtype};
  }

  /// kResourceExhausted if the pages do not fit.
  absl::Status Prepare(core::CudaMemory& memory) {
    const int64_t each = kv_store::BlocksFor(int64_t{context_} + more_);
    const int64_t blocks = each * batch_;
    TANDEM_ASSIGN_OR_RETURN(const int64_t available, memory.AvailableBytes());
    const int64_t wanted = blocks * geometry_.BlockBytes(0);
    const int64_t reserved = std::min(kReservedBytes, available / 4);
    if (wanted > available - reserved) {
      return ResourceExhausted("its cache takes {} bytes, and {} are free", wanted,
                               available - reserved);
    }
    auto pool = kv_store::PagePool::Create(memory, geometry_, {blocks});
    TANDEM_RETURN_IF_ERROR(pool.status());
    pool_ = std::make_unique<kv_store::PagePool>(*std::move(pool));
    core::BlockId next = 0;
    for (int s = 0; s < batch_; ++s) {
      std::vector<core::BlockId>& table = tables_.emplace_back();
      for (int64_t b = 0; b < each; ++b) table.push_back(next++);
    }
    for (int s = 0; s < batch_; ++s) {
      for (int i = 0; i < more_; ++i) {
        tokens_.push_back(static_cast<int32_t>((s * 31 + i) % config_.vocab));
      }
      logit_tokens_.push_back(static_cast<int32_t>(tokens_.size()) - 1);
      slices_.push_back({.first_token = s * more_,
                         .tokens = more_,
                         .start_position = context_,
                         .block_tables = {tables_[static_cast<size_t>(s)]}});
    }
    return absl::OkStatus();
  }

  const core::KvView& view() const { return pool_->view(); }
  const kv_store::PagePool& pool() const { return *pool_; }
  core::Batch batch() const {
    return {.step = 1,
            .tokens = tokens_,
            .sequences = slices_,
            .logit_tokens = logit_tokens_,
            .phases = nullptr};
  }
  /// That attention reads in one layer.
  double LayerBytes() const {
    const double positions = static_cast<double>(context_) + more_;
    return batch_ * positions * 2.0 * geometry_.kv_heads * geometry_.head_dim *
           static_cast<double>(core::KvElementBytes(geometry_.dtype));
  }

 private:
  const core::ModelConfig& config_;
  const int batch_;
  const int context_;
  const int more_;
  core::KvGeometry geometry_;
  std::unique_ptr<kv_store::PagePool> pool_;
  std::vector<std::vector<core::BlockId>> tables_;
  std::vector<int32_t> tokens_;
  std::vector<int32_t> logit_tokens_;
  std::vector<core::SequenceSlice> slices_;
};

core::CudaMemory& MemoryOf(RandomModel& model) {
  return static_cast<core::CudaMemory&>(model.operations().memory());
}

/// Weights of the shard that a token is multiplied with.
double WeightsPerToken(RandomModel& model) {
  const core::ModelConfig& c = model.config();
  const core::Shard& shard = model.shard();
  const auto head = static_cast<double>(c.head_dim);
  const auto dim = static_cast<double>(c.dim);
  const double heads = 2.0 * static_cast<double>(shard.query_heads.count + shard.kv_heads.count);
  const double ffn = 3.0 * static_cast<double>(shard.ffn_columns.count);
  return c.layers * dim * (head * heads + ffn);
}

absl::StatusOr<Point> ForwardStep(RandomModel& model, Step& step, const Effort& effort) {
  Point point;
  const absl::Status room = step.Prepare(MemoryOf(model));
  if (absl::IsResourceExhausted(room)) {
    point.skipped = Message(room);
    return point;
  }
  TANDEM_RETURN_IF_ERROR(room);
  core::OneRank alone;
  TANDEM_ASSIGN_OR_RETURN(
      point.seconds, Time(effort, [&]() -> absl::Status {
        TANDEM_RETURN_IF_ERROR(model.model().Forward(step.batch(), step.view(), alone));
        return model.model().TokenFailures().status();
      }));
  point.bytes =
      static_cast<double>(model.model().weight_bytes()) + model.config().layers * step.LayerBytes();
  point.operations = 2 * WeightsPerToken(model) * static_cast<double>(step.batch().tokens.size());
  return point;
}

}  // namespace

absl::StatusOr<double> CopyBandwidth(core::CudaMemory& memory, const Effort& effort) {
  TANDEM_ASSIGN_OR_RETURN(const int64_t available, memory.AvailableBytes());
  const int64_t bytes = std::min(effort.copy_bytes, available / 4);
  TANDEM_ASSIGN_OR_RETURN(const auto from, memory.AllocateZeroed(bytes));
  TANDEM_ASSIGN_OR_RETURN(const auto to, memory.AllocateZeroed(bytes));
  TANDEM_ASSIGN_OR_RETURN(const double seconds, Time(effort, [&] {
                            return memory.CopyWithin(to.get(), from.get(),
                                                     static_cast<size_t>(bytes));
                          }));
  return 2.0 * static_cast<double>(bytes) / seconds;
}

absl::StatusOr<Point> Decode(RandomModel& model, core::KvDtype dtype, int batch, int context,
                             const Effort& effort) {
  Step step(model, dtype, batch, context, 1);
  return ForwardStep(model, step, effort);
}

absl::StatusOr<Point> Prefill(RandomModel& model, core::KvDtype dtype, int tokens, int context,
                              const Effort& effort) {
  Step step(model, dtype, 1, context, tokens);
  return ForwardStep(model, step, effort);
}

absl::StatusOr<Point> Attention(RandomModel& model, core::KvDtype dtype, int batch, int context,
                                const Effort& effort) {
  Step step(model, dtype, batch, context, 1);
  Point point;
  core::CudaMemory& memory = MemoryOf(model);
  const absl::Status room = step.Prepare(memory);
  if (absl::IsResourceExhausted(room)) {
    point.skipped = Message(room);
    return point;
  }
  TANDEM_RETURN_IF_ERROR(room);
  const int64_t columns = model.shard().query_heads.count * model.config().head_dim;
  const std::vector<float> values(static_cast<size_t>(batch * columns), 0.5F);
  return core::WithDeviceFailures([&]() -> absl::StatusOr<Point> {
    core::CudaOperations& operations = model.operations();
    core::Tensor query(memory, columns);
    core::Tensor out(memory, columns);
    query.SetRows(batch);
    const core::CopyRun run{.device = reinterpret_cast<std::byte*>(query.data()),
                            .host = reinterpret_cast<std::byte*>(const_cast<float*>(values.data())),
                            .bytes = values.size() * sizeof(float)};
    TANDEM_RETURN_IF_ERROR(memory.CopyFromHost({&run, 1}));
    operations.BeginStep(step.batch());
    float first = 0;
    TANDEM_ASSIGN_OR_RETURN(point.seconds, Time(effort, [&] {
                              // As many as a model has, so that waiting for the last one is little
                              // of it.
                              for (int layer = 0; layer < model.config().layers; ++layer) {
                                operations.Attend({.layer = layer}, query, step.view(), out);
                              }
                              const core::CopyRun one{
                                  .device = reinterpret_cast<std::byte*>(out.data()),
                                  .host = reinterpret_cast<std::byte*>(&first),
                                  .bytes = sizeof(first)};
                              return memory.CopyToHost({&one, 1});
                            }));
    point.seconds /= model.config().layers;
    point.bytes = step.LayerBytes();
    return point;
  });
}

absl::StatusOr<Gap> StepGap(RandomModel& model, core::KvDtype dtype, int batch, int context,
                            const Effort& effort) {
  Step step(model, dtype, batch, context, 1);
  Gap gap;
  const absl::Status room = step.Prepare(MemoryOf(model));
  if (absl::IsResourceExhausted(room)) {
    gap.skipped = Message(room);
    return gap;
  }
  TANDEM_RETURN_IF_ERROR(room);
  core::OneRank alone;
  const auto passes = [&](int times, bool each) -> absl::Status {
    for (int i = 0; i < times; ++i) {
      TANDEM_RETURN_IF_ERROR(model.model().Forward(step.batch(), step.view(), alone));
      if (each || i + 1 == times) TANDEM_RETURN_IF_ERROR(model.model().TokenFailures().status());
    }
    return absl::OkStatus();
  };
  TANDEM_RETURN_IF_ERROR(passes(kPasses, true));
  constexpr int kTogether = 20;
  TANDEM_ASSIGN_OR_RETURN(gap.step, Time(effort, [&] { return passes(kTogether, true); }));
  TANDEM_ASSIGN_OR_RETURN(gap.busy, Time(effort, [&] { return passes(kTogether, false); }));
  gap.step /= kTogether;
  gap.busy = std::min(gap.busy / kTogether, gap.step);
  return gap;
}

absl::StatusOr<Restoring> Restore(RandomModel& model, core::KvDtype dtype, int tokens,
                                  const Effort& effort) {
  Restoring restoring;
  for (int begin = 0; begin < tokens; begin += kChunk) {
    TANDEM_ASSIGN_OR_RETURN(const Point chunk,
                            Prefill(model, dtype, std::min(kChunk, tokens - begin), begin,
                                    {.seconds = 0, .least = effort.least}));
    if (!chunk.skipped.empty()) {
      restoring.skipped = chunk.skipped;
      return restoring;
    }
    restoring.recompute += chunk.seconds;
  }
  Step step(model, dtype, 1, 0, tokens);
  TANDEM_RETURN_IF_ERROR(step.Prepare(MemoryOf(model)));
  struct Record {
    kv_store::RecordName name;
    core::BlockId block = 0;
    std::vector<std::byte> bytes;
  };
  const kv_store::Fingerprint fingerprint{};
  const kv_store::PagePool& pool = step.pool();
  std::vector<Record> records;
  for (int64_t block = 0; block < kv_store::BlocksFor(tokens); ++block) {
    for (int head = 0; head < pool.view().geometry().kv_heads; ++head) {
      Record& record = records.emplace_back();
      record.block = static_cast<core::BlockId>(block);
      record.name = {.block = {}, .tokens = core::kPageTokens, .kv_head = head, .group = 0};
      TANDEM_ASSIGN_OR_RETURN(
          record.bytes, kv_store::EncodeRecord(fingerprint, record.name, pool, record.block, head));
      restoring.bytes += static_cast<double>(record.bytes.size());
    }
  }
  TANDEM_ASSIGN_OR_RETURN(restoring.check, Time(effort, [&]() -> absl::Status {
                            for (const Record& record : records) {
                              TANDEM_RETURN_IF_ERROR(kv_store::CheckRecord(
                                  record.bytes, fingerprint, record.name, pool.view().geometry()));
                            }
                            return absl::OkStatus();
                          }));
  TANDEM_ASSIGN_OR_RETURN(
      restoring.load, Time(effort, [&]() -> absl::Status {
        for (const Record& record : records) {
          TANDEM_RETURN_IF_ERROR(kv_store::LoadRecord(record.bytes, record.name, pool, record.block,
                                                      record.name.kv_head));
        }
        return absl::OkStatus();
      }));
  return restoring;
}

}  // namespace tandem::bench
