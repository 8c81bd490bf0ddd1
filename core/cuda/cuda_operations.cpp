#include "core/cuda/cuda_operations.h"

#include <cuda_runtime.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <utility>

#include "core/base/isa.h"
#include "core/cuda/gpu_limits.h"
#include "core/cuda/kernels/elementwise_kernels.h"
#include "core/cuda/kernels/embed_kernels.h"
#include "core/cuda/kernels/launch.h"
#include "core/cuda/kernels/linear_kernels.h"
#include "core/cuda/workspace_limits.h"
#include "core/model/device_link.h"
#include "core/model/device_status.h"
#include "core/sampling/logprobs.h"
#include "core/sampling/sample_rows.h"

namespace tandem::core {
namespace {

// Of a step in fast mode, at least, for attention by tensor cores.
constexpr int64_t kFastAttentionTokens = 64;

const CudaWeight& CudaOf(const Weight& weight) { return static_cast<const CudaWeight&>(weight); }

const float* DataOrNull(const WeightVector& vector) {
  return vector.empty() ? nullptr : vector.data();
}

NormVectors VectorsOf(const Norm& norm) {
  return {norm.kind, norm.epsilon, DataOrNull(norm.weight), DataOrNull(norm.bias)};
}

/// The slopes of ALiBi that the shard's heads have.
WeightVector SlopesOf(const ModelConfig& config, const Shard& shard, DeviceMemory& memory) {
  const std::vector<float> all = AlibiSlopes(config.alibi_max_bias, config.heads);
  if (all.empty() || shard.query_heads.count == 0) return {};
  return WeightVector(memory, std::span(all).subspan(static_cast<size_t>(shard.query_heads.begin),
                                                     static_cast<size_t>(shard.query_heads.count)));
}

/// Runs of at most kMostHeadsTogether query heads of each KV head, counted within the rank.
std::vector<HeadRun> HeadRuns(const ModelConfig& config, const Shard& shard) {
  std::vector<HeadRun> runs;
  const int64_t group = config.group_size();
  for (int64_t kv_head = 0; kv_head < shard.kv_heads.count; ++kv_head) {
    const int64_t first = (shard.kv_heads.begin + kv_head) * group - shard.query_heads.begin;
    const int64_t end = std::min(first + group, shard.query_heads.count);
    for (int64_t head = std::max<int64_t>(first, 0); head < end; head += kMostHeadsTogether) {
      runs.push_back(
          {.first_head = static_cast<int32_t>(head),
           .count = static_cast<int32_t>(std::min<int64_t>(kMostHeadsTogether, end - head)),
           .kv_head = static_cast<int32_t>(kv_head)});
    }
  }
  return runs;
}

// Steps of more tokens are not launched fast enough to be worth a graph.
constexpr size_t kMostGraphTokens = 64;

/// So many chunks of attention that steps of neighbouring positions have the same number: chunks
/// that no token sees cost a block that ends at once.
int64_t RoundedChunks(int64_t chunks) {
  if (chunks <= 4) return chunks;
  const auto two_thirds =
      static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(chunks))) / 4 * 3;
  return chunks <= two_thirds ? two_thirds : two_thirds / 3 * 4;
}

int64_t FirstVisible(int64_t position, int window) {
  return window == 0 ? 0 : std::max<int64_t>(0, position - window + 1);
}

}  // namespace

CudaOperations::CudaOperations(const ModelConfig& config, const Shard& shard,
                               const CudaOptions& options)
    : config_(config),
      shard_(shard),
      options_(options),
      device_name_(fmt::format("cuda (GPU {}{}{}, {} mode)", options.gpu.index,
                               options.gpu.name.empty() ? "" : ", ", options.gpu.name,
                               options.exact ? "exact" : "fast")),
      memory_(options.gpu),
      pool_(options.threads),
      step_(config, memory_),
      embedded_(memory_),
      embedded_positions_(memory_),
      position_rows_(memory_, config.dim),
      sampled_(memory_, 1),
      kept_rows_(memory_),
      selected_(memory_),
      selected_rows_(memory_, 1),
      codes_(memory_),
      gate_(memory_, shard.ffn_columns.count),
      up_(memory_, shard.ffn_columns.count),
      slopes_(SlopesOf(config, shard, memory_)),
      runs_(HeadRuns(config, shard)),
      device_runs_(memory_.Allocate(static_cast<int64_t>(runs_.size() * sizeof(HeadRun)))),
      chunk_results_(memory_, 1),
      reductions_(memory_),
      float_sums_(memory_, 1),
      token_failed_(memory_, 1),
      logits_(memory_, reductions_),
      windows_(config.layer_window) {
  std::sort(windows_.begin(), windows_.end());
  windows_.erase(std::unique(windows_.begin(), windows_.end()), windows_.end());
  const CopyRun run{.device = device_runs_.get(),
                    .host = reinterpret_cast<std::byte*>(runs_.data()),
                    .bytes = runs_.size() * sizeof(HeadRun)};
  ThrowDeviceFailure(memory_.CopyFromHost({&run, 1}));
  for (const HeadRun& of_heads : runs_) largest_run_ = std::max(largest_run_, of_heads.count);
  if (config.attention.sparse()) {
    sparse_step_ = std::make_unique<CudaSparseStep>(config, memory_);
  }
  if (options.exact) return;
  auto dense = CudaDenseProducts::Create(memory_);
  ThrowDeviceFailure(dense.status());
  dense_ = *std::move(dense);
}

absl::StatusOr<std::unique_ptr<Weight>> CudaOperations::Pack(const MatrixSource& source, Range rows,
                                                             Range columns) {
  return CudaWeight::Pack(source, rows, columns, options_.activations, memory_, pool_);
}

void CudaOperations::BeginStep(const Batch& batch) {
  SetFloatEnvironment();
  // What frees memory waits for all that is in the stream, and looks after no other rank.
  if (Grows(batch) && kept_.kept() > 0) {
    ThrowDeviceFailure(AwaitKept([] { return false; }));
  }
  phases_ = batch.phases;
  const bool beside = kept_.kept() > 0;
  reductions_.BeginStep(beside);
  // While the step before is computed, there is time to send what this one needs.
  memory_.SendBeside(beside);
  has_kept_tokens_ = std::any_of(batch.tokens.begin(), batch.tokens.end(),
                                 [](int32_t token) { return KeptRow(token) >= 0; });
  step_.Begin(batch);
  logit_rows_ = static_cast<int64_t>(batch.logit_tokens.size());
  token_failed_.SetRows(static_cast<int64_t>(batch.tokens.size()));
  if (batch.tokens.empty()) return;
  if (sparse_step_ != nullptr) {
    sparse_step_->Begin(step_.positions(), SparseGroupTokens(largest_run_, step_.neighbours()));
  }
  CheckCuda(cudaMemsetAsync(token_failed_.data(), 0, batch.tokens.size(), memory_.stream()),
            "cudaMemsetAsync");
}

std::optional<StepShape> CudaOperations::ShapeOfStep() const {
  // What each token of sparse attention sees lies elsewhere in each step.
  if (sparse_step_ != nullptr) return std::nullopt;
  const size_t count = step_.positions().size();
  if (!options_.graphs || count == 0 || count > kMostGraphTokens) return std::nullopt;
  const auto tokens = static_cast<int64_t>(count);
  StepShape shape{.tokens = tokens,
                  .logit_rows = logit_rows_,
                  .neighbours = step_.neighbours(),
                  .kept = has_kept_tokens_,
                  .chunks = {}};
  for (const int window : windows_) {
    const Chunks chunks = ChunksOf(0, tokens, window);
    if (tokens * ChunkFloats(chunks.count) > kMostChunkFloats) return std::nullopt;
    shape.chunks.emplace_back(chunks.first, chunks.count);
  }
  return shape;
}

void CudaOperations::BeginPass(const Collective& collective) {
  mode_ = CudaStepGraphs::Mode::kEager;
  if (collective.device_link() != nullptr) reductions_.MarkStep();
  if (collective.size() > 1 && collective.device_link() == nullptr) return;
  const std::optional<StepShape> shape = ShapeOfStep();
  if (!shape.has_value()) return;
  const CudaStepGraphs::Mode mode = graphs_.ModeOf(*shape, memory_.allocations());
  if (mode == CudaStepGraphs::Mode::kCapture) memory_.BeginCapture();
  mode_ = mode;
}

void CudaOperations::EndPass() {
  memory_.SendBeside(false);
  const CudaStepGraphs::Mode mode = std::exchange(mode_, CudaStepGraphs::Mode::kEager);
  if (mode == CudaStepGraphs::Mode::kCapture) {
    graphs_.Launch(memory_.EndCapture(), memory_.allocations(), memory_.stream());
  } else if (mode == CudaStepGraphs::Mode::kReplay) {
    graphs_.Launch(memory_.stream());
  }
}

void CudaOperations::AbandonPass() noexcept {
  memory_.SendBeside(false);
  const CudaStepGraphs::Mode mode = std::exchange(mode_, CudaStepGraphs::Mode::kEager);
  if (mode == CudaStepGraphs::Mode::kCapture) memory_.AbandonCapture();
}

void CudaOperations::SendRows(const MatrixSource& table, std::span<const int32_t> rows,
                              EmbeddingUpload& to) {
  const auto row_bytes = static_cast<size_t>(RowBytes(table.dtype, table.columns));
  const size_t bytes = rows.size() * row_bytes;
  to.on_device.SetRows(static_cast<int64_t>(bytes));
  std::byte* const sent = to.upload.Begin(bytes);
  pool_.ParallelFor(static_cast<int64_t>(rows.size()), [&](int64_t t, int) {
    const auto i = static_cast<size_t>(t);
    const size_t row = KeptRow(rows[i]) >= 0 ? 0 : static_cast<size_t>(rows[i]);
    std::memcpy(sent + i * row_bytes, table.data + row * row_bytes, row_bytes);
  });
  to.upload.Send(bytes, to.on_device.data());
}

void CudaOperations::Embed(const EmbeddingTables& tables, std::span<const int32_t> tokens,
                           float scale, Tensor& out) {
  out.SetRows(static_cast<int64_t>(tokens.size()));
  if (tokens.empty()) return;
  const auto expand = [&](const MatrixSource& table, EmbeddingUpload& from, float times,
                          float* to) {
    LaunchExpandRows(memory_.stream(),
                     {.dtype = table.dtype,
                      .data = from.on_device.data(),
                      .count = out.rows(),
                      .columns = table.columns},
                     times, to);
  };
  const bool learned = tables.positions.rows > 0;
  SendRows(tables.tokens, tokens, embedded_);
  if (has_kept_tokens_) TakeKeptRows(tables.tokens, tokens, embedded_);
  if (learned) {
    SendRows(tables.positions, step_.positions(), embedded_positions_);
    position_rows_.SetRows(out.rows());
  }
  if (replays()) return;
  expand(tables.tokens, embedded_, scale, out.data());
  if (!learned) return;
  expand(tables.positions, embedded_positions_, 1.0F, position_rows_.data());
  LaunchAdd(memory_.stream(), position_rows_.data(), out.rows() * out.columns(), out.data());
}

void CudaOperations::Normalize(const Tensor& x, const Norm& norm, Tensor& out) {
  if (&out != &x) out.SetRows(x.rows());
  if (replays()) return;
  LaunchNormalize(memory_.stream(), VectorsOf(norm), x.data(), x.rows(), x.columns(), out.data());
}

void CudaOperations::NormHeads(Tensor& x, const Norm& norm) {
  if (replays()) return;
  const auto head_dim = static_cast<int64_t>(norm.weight.size());
  LaunchNormalize(memory_.stream(), VectorsOf(norm), x.data(), x.rows() * x.columns() / head_dim,
                  head_dim, x.data());
}

CodeRows CudaOperations::Codes::For(int64_t rows, int64_t columns) {
  const int64_t blocks = (columns + kBlockColumns - 1) / kBlockColumns;
  codes.SetRows(rows * blocks * kBlockColumns);
  scales.SetRows(rows * blocks);
  sums.SetRows(rows * blocks * 2);
  return {codes.data(), scales.data(), sums.data(), blocks};
}

ProductInput CudaOperations::InputOf(const Tensor& x, bool quantize) {
  ProductInput input{.codes = {}, .x = x.data(), .tokens = x.rows()};
  if (!quantize) return input;
  input.codes = codes_.For(x.rows(), x.columns());
  LaunchQuantize(memory_.stream(), x.data(), x.rows(), x.columns(), input.codes);
  return input;
}

void CudaOperations::Linear(const Tensor& x, std::initializer_list<Projection> projections) {
  for (const Projection& p : projections) p.out->SetRows(x.rows());
  if (replays()) return;
  const ProductInput input =
      InputOf(x, std::any_of(projections.begin(), projections.end(), [&](const auto& p) {
                const CudaWeight& weight = CudaOf(*p.weight);
                return weight.quantized() && !Fast(weight, x.rows());
              }));
  if (dense_ != nullptr) dense_->SetInput(input);
  std::vector<LinearProduct> exact;
  for (const Projection& p : projections) {
    const CudaWeight& weight = CudaOf(*p.weight);
    if (!Fast(weight, x.rows())) {
      exact.push_back({weight.matrix(), p.out->data()});
    } else if (!dense_->Multiply(weight.matrix(), p.out->data())) {
      LaunchLinear(memory_.stream(), weight.matrix(), InputOf(x, weight.quantized()),
                   p.out->data());
    }
  }
  LaunchLinear(memory_.stream(), exact, input);
  for (const Projection& p : projections) {
    if (p.bias == nullptr || p.bias->empty()) continue;
    LaunchAddToRows(memory_.stream(), p.bias->data(), x.rows(), p.out->columns(), p.out->data());
  }
}

void CudaOperations::RotateAndStore(const AttentionLayer& layer, Tensor& query, Tensor& key,
                                    const Tensor& value, const KvView& cache) {
  if (replays()) return;
  const Rope& rope = step_.rope(layer.local_rope);
  const RotaryHeads heads{.layout = rope.layout,
                          .cosines_sines = step_.angles(layer.local_rope),
                          .pairs = static_cast<int64_t>(rope.inverse_frequencies.size()),
                          .query = query.data(),
                          .key = key.data(),
                          .value = value.data(),
                          .query_heads = static_cast<int>(shard_.query_heads.count),
                          .kv_heads = static_cast<int>(shard_.kv_heads.count),
                          .head_dim = config_.head_dim};
  LaunchRotateAndStore(memory_.stream(), heads, step_.places(),
                       LayerOf(cache, layer.layer, step_.places()), cache.geometry().dtype);
}

CudaOperations::Chunks CudaOperations::ChunksOf(int64_t first_token, int64_t tokens,
                                                int window) const {
  int64_t first = INT64_MAX;
  int64_t last = 0;
  for (const int32_t position :
       step_.positions().subspan(static_cast<size_t>(first_token), static_cast<size_t>(tokens))) {
    first = std::min(first, FirstVisible(position, window));
    last = std::max<int64_t>(last, position);
  }
  const int64_t first_chunk = first / kChunkTokens;
  const int64_t chunks = last / kChunkTokens - first_chunk + 1;
  const bool may_be_graph = options_.graphs && step_.positions().size() <= kMostGraphTokens;
  return {first_chunk, may_be_graph ? RoundedChunks(chunks) : chunks};
}

int64_t CudaOperations::ChunkFloats(int64_t chunks) const {
  return AttentionStep{.query_heads = static_cast<int>(shard_.query_heads.count),
                       .head_dim = config_.head_dim,
                       .tokens = 1,
                       .chunks = chunks}
      .ResultFloats();
}

void CudaOperations::Attend(const AttentionLayer& layer, const Tensor& query, const KvView& cache,
                            Tensor& out) {
  out.SetRows(query.rows());
  if (query.rows() == 0 || runs_.empty() || replays()) return;
  AttentionStep step{.query = query.data(),
                     .runs = reinterpret_cast<const HeadRun*>(device_runs_.get()),
                     .run_count = static_cast<int>(runs_.size()),
                     .largest_run = largest_run_,
                     .query_heads = static_cast<int>(shard_.query_heads.count),
                     .head_dim = config_.head_dim,
                     .window = layer.window,
                     .neighbours = step_.neighbours(),
                     .scale = config_.attention_scale,
                     .slopes = DataOrNull(slopes_),
                     .tokens = query.rows(),
                     .out = out.data()};
  if (sparse_step_ != nullptr) return AttendSparse(layer, cache, step);
  if (dense_ != nullptr && query.rows() >= kFastAttentionTokens && slopes_.empty() &&
      HasFastAttention(config_.head_dim, cache.geometry().dtype)) {
    return LaunchFastAttention(memory_.stream(), step, step_.places(),
                               LayerOf(cache, layer.layer, step_.places()));
  }
  const int64_t most_chunks = ChunksOf(0, query.rows(), layer.window).count;
  const int64_t together =
      std::clamp<int64_t>(kMostChunkFloats / ChunkFloats(most_chunks), 1, kMostGridRows);
  for (; step.first_token < query.rows(); step.first_token += together) {
    step.tokens = std::min(together, query.rows() - step.first_token);
    const Chunks chunks = ChunksOf(step.first_token, step.tokens, layer.window);
    step.first_chunk = chunks.first;
    step.chunks = chunks.count;
    chunk_results_.SetRows(step.ResultFloats());
    step.results = chunk_results_.data();
    LaunchAttention(memory_.stream(), step, step_.places(),
                    LayerOf(cache, layer.layer, step_.places()), cache.geometry().dtype);
  }
}

void CudaOperations::AttendSparse(const AttentionLayer& layer, const KvView& cache,
                                  AttentionStep step) {
  step.chunks = sparse_step_->MostChunks(layer.layer);
  const int64_t tokens = step.tokens;
  const int64_t floats_per_token = step.ResultFloats() / tokens;
  const int64_t group = SparseGroupTokens(step.largest_run, step.neighbours);
  const int64_t fit = std::clamp<int64_t>(kMostChunkFloats / floats_per_token, 1, kMostGridRows);
  const int64_t together = std::max(fit / group * group, group);
  for (; step.first_token < tokens; step.first_token += together) {
    step.tokens = std::min(together, tokens - step.first_token);
    chunk_results_.SetRows(step.ResultFloats());
    step.results = chunk_results_.data();
    LaunchSparseAttention(memory_.stream(), step, sparse_step_->Of(layer.layer), step_.places(),
                          LayerOf(cache, layer.layer, step_.places()), cache.geometry().dtype);
  }
}

void CudaOperations::LinearPartialSums(const Weight& weight, const Tensor& x,
                                       int64_t partial_columns, PartialSums& out) {
  out.SetTokens(x.rows());
  if (replays()) return;
  const CudaWeight& matrix = CudaOf(weight);
  if (Fast(matrix, x.rows())) {
    dense_->SetInput(InputOf(x, false));
    if (dense_->MultiplyToPartialSums(matrix.matrix(), out.sums(), out.failed())) return;
  }
  LaunchLinearPartialSums(memory_.stream(), matrix.matrix(), InputOf(x, matrix.quantized()),
                          partial_columns, out.sums(), out.failed());
}

void CudaOperations::FeedForwardPartialSums(const Tensor& x, const FeedForwardBlock& block,
                                            PartialSums& out) {
  gate_.SetRows(x.rows());
  if (block.gate != nullptr) up_.SetRows(x.rows());
  if (replays()) return out.SetTokens(x.rows());
  const CudaWeight& up = CudaOf(block.up);
  if (block.gate == nullptr) {
    Linear(x, {{&block.up, &block.up_bias, &gate_}});
    LaunchActivate(memory_.stream(), block.kind, gate_.rows() * gate_.columns(), gate_.data());
    return LinearPartialSums(block.down, gate_, block.partial_columns, out);
  }
  const CudaWeight& gate = CudaOf(*block.gate);
  if (Fast(gate, x.rows()) || Fast(up, x.rows())) {
    Linear(x, {{block.gate, nullptr, &gate_}, {&block.up, nullptr, &up_}});
    LaunchGatedActivation(memory_.stream(), block.kind, gate_.data(), up_.data(),
                          gate_.rows() * gate_.columns(), gate_.data());
  } else {
    LaunchGatedLinear(memory_.stream(),
                      {.gate = gate.matrix(), .up = up.matrix(), .kind = block.kind},
                      InputOf(x, gate.quantized() || up.quantized()), gate_.data(), up_.data());
  }
  LinearPartialSums(block.down, gate_, block.partial_columns, out);
}

absl::Status CudaOperations::Reduce(PartialSums& sums, DeviceLink& link) {
  if (options_.exact) return replays() ? absl::OkStatus() : link.AllReduceSum(sums.all());
  const auto count = static_cast<size_t>(sums.tokens() * (sums.dim() + 1));
  reduced_floats_ = reinterpret_cast<float*>(link.FloatSums(count * sizeof(float)).data());
  if (reduced_floats_ == nullptr) {
    float_sums_.SetRows(static_cast<int64_t>(count));
    reduced_floats_ = float_sums_.data();
  }
  if (replays()) return absl::OkStatus();
  LaunchSumsToFloats(memory_.stream(), sums.sums(), sums.failed(), sums.tokens(), sums.dim(),
                     reduced_floats_);
  return link.AllReduceSum(std::span<float>(reduced_floats_, count));
}

absl::Status CudaOperations::AllReduce(PartialSums& sums, Collective& collective,
                                       const StepPhase& phase) {
  const PhaseScope scope(phases_, Phase::kAllReduce);
  reduced_floats_ = nullptr;
  if (DeviceLink* const link = collective.device_link()) {
    TANDEM_RETURN_IF_ERROR(Reduce(sums, *link));
    reductions_.Put(collective, phase);
    return absl::OkStatus();
  }
  if (collective.size() == 1) return collective.AllReducePartialSums({}, phase);
  const std::span<int64_t> all = sums.all();
  const CudaStream stream = memory_.stream();
  if (all.size_bytes() > reduced_bytes_) {
    CheckCuda(cudaStreamSynchronize(stream), "the step");
    reduced_.reset();
    reduced_ = AllocatePinned(all.size_bytes());
    reduced_bytes_ = all.size_bytes();
  }
  auto* const host = reinterpret_cast<int64_t*>(reduced_.get());
  CheckCuda(cudaMemcpyAsync(host, all.data(), all.size_bytes(), cudaMemcpyDeviceToHost, stream),
            "cudaMemcpyAsync");
  CheckCuda(cudaStreamSynchronize(stream), "the step");
  TANDEM_RETURN_IF_ERROR(collective.AllReducePartialSums({host, all.size()}, phase));
  CheckCuda(cudaMemcpyAsync(all.data(), host, all.size_bytes(), cudaMemcpyHostToDevice, stream),
            "cudaMemcpyAsync");
  return absl::OkStatus();
}

void CudaOperations::AddPartialSums(const PartialSums& sums, const WeightVector& bias,
                                    const Norm& post_norm, Tensor& x) {
  if (replays()) return;
  LaunchAddPartialSums(memory_.stream(),
                       {.sums = sums.sums(),
                        .failed = sums.failed(),
                        .floats = reduced_floats_,
                        .bias = DataOrNull(bias),
                        .post_norm = VectorsOf(post_norm),
                        .mark = reductions_.mark()},
                       x.rows(), sums.dim(), x.data(), token_failed_.data());
}

void CudaOperations::SelectRows(const Tensor& x, std::span<const int32_t> rows, Tensor& out) {
  out.SetRows(static_cast<int64_t>(rows.size()));
  if (rows.empty()) return;
  selected_rows_.SetRows(out.rows());
  std::copy(rows.begin(), rows.end(),
            reinterpret_cast<int32_t*>(selected_.Begin(rows.size_bytes())));
  selected_.Send(rows.size_bytes(), reinterpret_cast<std::byte*>(selected_rows_.data()));
  if (replays()) return;
  LaunchSelectRows(memory_.stream(), x.data(), selected_rows_.data(), out.rows(), x.columns(),
                   out.data());
}

absl::Status CudaOperations::Sample(Tensor& logits, Range vocab_rows,
                                    std::span<const SampleRow> rows, Collective& collective,
                                    const StepPhase& phase, std::span<SampledToken> out) {
  const auto parallel_for = [this](int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    ParallelFor(tasks, body);
  };
  logits_.Set(logits.data(), vocab_rows);
  return SampleRows(rows, logits_, collective, phase, parallel_for, out);
}

absl::Status CudaOperations::Score(Tensor& logits, Range vocab_rows, std::span<const ScoreRow> rows,
                                   Collective& collective, const StepPhase& phase,
                                   std::span<TokenScore> out) {
  const auto parallel_for = [this](int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    ParallelFor(tasks, body);
  };
  logits_.Set(logits.data(), vocab_rows);
  return ScoreRows(rows, logits_, collective, phase, parallel_for, out);
}

std::span<const uint8_t> CudaOperations::TokenFailures() {
  host_failed_.resize(static_cast<size_t>(token_failed_.rows()));
  const CopyRun run{.device = reinterpret_cast<std::byte*>(token_failed_.data()),
                    .host = reinterpret_cast<std::byte*>(host_failed_.data()),
                    .bytes = host_failed_.size()};
  reductions_.CopyToHost({&run, 1});
  return host_failed_;
}

void CudaOperations::ReadRows(const Tensor& x, Range rows, float* out, int64_t stride) {
  std::vector<CopyRun> runs;
  const int64_t row_bytes = x.columns() * static_cast<int64_t>(sizeof(float));
  auto* const first = reinterpret_cast<std::byte*>(const_cast<float*>(x.data()));
  for (int64_t i = 0; i < rows.count; ++i) {
    runs.push_back({.device = first + (rows.begin + i) * row_bytes,
                    .host = reinterpret_cast<std::byte*>(out + i * stride),
                    .bytes = static_cast<size_t>(row_bytes)});
  }
  reductions_.CopyToHost(runs);
}

}  // namespace tandem::core
