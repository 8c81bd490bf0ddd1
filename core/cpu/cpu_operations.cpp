#include "core/cpu/cpu_operations.h"

#include <algorithm>
#include <array>

#include "core/cpu/attention/attention.h"
#include "core/cpu/elementwise/elementwise.h"
#include "core/sampling/logprobs.h"
#include "core/sampling/sample_rows.h"

namespace tandem::core {
namespace {

constexpr int64_t kRunTokens = 8;        // neighbouring tokens whose attention is one task
constexpr size_t kQueriesTogether = 32;  // of them and their heads, handed over at once
constexpr int64_t kTasksPerThread = 8;   // below this, attention is cut by chunks too

class CpuWeight final : public Weight {
 public:
  explicit CpuWeight(PackedMatrix matrix) : matrix_(matrix) {}
  int64_t rows() const override { return matrix_.rows(); }
  int64_t columns() const override { return matrix_.columns(); }
  int64_t bytes() const override { return matrix_.bytes(); }
  const PackedMatrix& matrix() const { return matrix_; }

 private:
  PackedMatrix matrix_;
};

const PackedMatrix& MatrixOf(const Weight& weight) {
  return static_cast<const CpuWeight&>(weight).matrix();
}

NormRow OnHost(const Norm& norm) {
  return {norm.kind, norm.epsilon, norm.weight.values(), norm.bias.values()};
}

PartialSumOutput OutputOf(PartialSums& out, int64_t partial_columns) {
  return {partial_columns, out.sums(), out.dim(), out.failed()};
}

}  // namespace

CpuOperations::CpuOperations(const ModelConfig& config, const Shard& shard,
                             const CpuOptions& options)
    : config_(config),
      shard_(shard),
      options_(options),
      device_name_(fmt::format("cpu ({}, {} thread{})", IsaName(options.isa), options.threads,
                               options.threads == 1 ? "" : "s")),
      pool_(options.threads, options.spin_microseconds, options.on_thread_start),
      rope_(config.rope),
      local_rope_(config.local_rope),
      gated_(memory_, shard.ffn_columns.count),
      embedded_position_(memory_, config.dim),
      rotated_(memory_, shard.query_heads.count * config.head_dim),
      total_(memory_, config.dim),
      slopes_(AlibiSlopes(config.alibi_max_bias, config.heads)) {
  if (config.attention.sparse()) sparse_.emplace(config.attention);
  if (config.attention.infini()) infini_.emplace(config, shard, memory_, options.isa);
}

Range CpuOperations::QueryHeadsOf(int kv_head) const {
  const int64_t group = config_.group_size();
  const int64_t first = (shard_.kv_heads.begin + kv_head) * group - shard_.query_heads.begin;
  const int64_t begin = std::max<int64_t>(first, 0);
  return {begin, std::min(first + group, shard_.query_heads.count) - begin};
}

absl::StatusOr<std::unique_ptr<Weight>> CpuOperations::Pack(const MatrixSource& source, Range rows,
                                                            Range columns) {
  PackedMemory& memory = options_.packed ? *options_.packed : arena_;
  TANDEM_ASSIGN_OR_RETURN(
      PackedMatrix matrix,
      PackedMatrix::Pack(source, rows, columns, options_.activations, memory, pool_));
  return std::make_unique<CpuWeight>(matrix);
}

void CpuOperations::BeginStep(const Batch& batch) {
  SetFloatEnvironment();
  phases_ = batch.phases;
  token_failed_.assign(batch.tokens.size(), 0);
  places_.resize(batch.tokens.size());
  runs_.clear();
  if (sparse_) sparse_->Begin();
  if (infini_) infini_->BeginStep(batch);
  rope_.Begin();
  local_rope_.Begin();
  for (const SequenceSlice& sequence : batch.sequences) {
    const int64_t end = int64_t{sequence.start_position} + sequence.tokens;
    if (infini_) {
      PrepareSegments(sequence.start_position, end);
    } else {
      rope_.Prepare(sequence.start_position, end);
    }
    local_rope_.Prepare(sequence.start_position, end);
    for (int32_t i = 0; i < sequence.tokens; ++i) {
      places_[static_cast<size_t>(sequence.first_token) + static_cast<size_t>(i)] = {
          int64_t{sequence.start_position} + i, &sequence};
    }
    for (int64_t i = 0; i < sequence.tokens; i += kRunTokens) {
      runs_.push_back({sequence.first_token + i, std::min(kRunTokens, sequence.tokens - i)});
    }
  }
}

void CpuOperations::PrepareSegments(int64_t start, int64_t end) {
  const SegmentKeys& keys = infini_->keys();
  while (start < end) {
    const int64_t stop = std::min(end, keys.Start(start) + keys.segment());
    rope_.Prepare(start - keys.Start(start), stop - keys.Start(start));
    start = stop;
  }
}

void CpuOperations::RotateHeads(const RopeTable& table, int64_t position,
                                std::span<float> heads) const {
  const auto n = static_cast<size_t>(config_.head_dim);
  for (size_t begin = 0; begin < heads.size(); begin += n) {
    Rotate(options_.isa, table.layout(), table.cosines(position), table.sines(position),
           heads.subspan(begin, n));
  }
}

void CpuOperations::Embed(const EmbeddingTables& tables, std::span<const int32_t> tokens,
                          float scale, Tensor& out) {
  out.SetRows(static_cast<int64_t>(tokens.size()));
  const auto read = [](const MatrixSource& table, int64_t row, std::span<float> to) {
    Dequantize(table.dtype, table.data + row * RowBytes(table.dtype, table.columns), table.columns,
               to.data());
  };
  const bool learned = tables.positions.rows > 0;
  if (learned) embedded_position_.SetRows(out.rows());
  pool_.ParallelFor(out.rows(), [&](int64_t t, int) {
    const std::span<float> row = out.row(t);
    read(tables.tokens, tokens[static_cast<size_t>(t)], row);
    if (scale != 1.0F) {
      for (float& value : row) value *= scale;
    }
    if (!learned) return;
    const std::span<float> position = embedded_position_.row(t);
    read(tables.positions, places_[static_cast<size_t>(t)].position, position);
    AddInPlace(options_.isa, row, position);
  });
}

void CpuOperations::Normalize(const Tensor& x, const Norm& norm, Tensor& out) {
  if (&out != &x) out.SetRows(x.rows());
  const NormRow on_host = OnHost(norm);
  pool_.ParallelFor(x.rows(), [&](int64_t t, int) {
    core::Normalize(options_.isa, on_host, x.row(t), out.row(t));
  });
}

void CpuOperations::NormHeads(Tensor& x, const Norm& norm) {
  const size_t n = norm.weight.size();
  const NormRow on_host = OnHost(norm);
  pool_.ParallelFor(x.rows(), [&](int64_t t, int) {
    const std::span<float> row = x.row(t);
    for (size_t begin = 0; begin < row.size(); begin += n) {
      const std::span<float> head = row.subspan(begin, n);
      core::Normalize(options_.isa, on_host, head, head);
    }
  });
}

void CpuOperations::Quantize(const Tensor& x, bool quantize) {
  activations_.Assign(options_.isa, {x.data(), x.rows(), x.columns(), x.columns()}, quantize,
                      pool_);
}

void CpuOperations::Linear(const Tensor& x, std::initializer_list<Projection> projections) {
  const auto product = PhaseScope::Product(phases_);
  Quantize(x, std::any_of(projections.begin(), projections.end(),
                          [](const auto& p) { return MatrixOf(*p.weight).quantized(); }));
  std::array<LinearJob, kMostLinearJobs> jobs;
  size_t count = 0;
  for (const Projection& p : projections) {
    p.out->SetRows(x.rows());
    jobs[count++] = {&MatrixOf(*p.weight), p.out->data(), p.out->columns()};
  }
  core::Linear(options_.isa, std::span(jobs).first(count), activations_, pool_);
  for (const Projection& p : projections) {
    if (p.bias == nullptr || p.bias->empty()) continue;
    pool_.ParallelFor(x.rows(), [&](int64_t t, int) {
      AddInPlace(options_.isa, p.out->row(t), p.bias->values());
    });
  }
}

void CpuOperations::RotateAndStore(const AttentionLayer& layer, Tensor& query, Tensor& key,
                                   const Tensor& value, const KvView& cache) {
  const auto n = static_cast<size_t>(config_.head_dim);
  const RopeTable& table = rope(layer);
  const auto group = static_cast<size_t>(cache.group_of(layer.layer));
  pool_.ParallelFor(query.rows(), [&](int64_t t, int) {
    const TokenPlace& place = places_[static_cast<size_t>(t)];
    if (!layer.remembers()) {
      RotateHeads(table, place.position, query.row(t));
      RotateHeads(table, place.position, key.row(t));
    }
    const auto block_index = static_cast<size_t>(place.position / kPageTokens);
    const BlockId block = place.sequence->block_tables[group][block_index];
    const int slot = static_cast<int>(place.position % kPageTokens);
    for (int head = 0; head < shard_.kv_heads.count; ++head) {
      const size_t begin = static_cast<size_t>(head) * n;
      StoreKeyValue(cache.geometry(), cache.Page(layer.layer, head, block), slot,
                    key.row(t).subspan(begin, n), value.row(t).subspan(begin, n));
    }
  });
}

void CpuOperations::Attend(const AttentionLayer& layer, const Tensor& query, const KvView& cache,
                           Tensor& out) {
  if (!layer.remembers()) return AttendKeys(layer, query, cache, nullptr, out);
  infini_->Remember(layer, query, cache, pool_);
  const SegmentKeys& keys = infini_->keys();
  rotated_.SetRows(query.rows());
  pool_.ParallelFor(query.rows(), [&](int64_t t, int) {
    std::copy(query.row(t).begin(), query.row(t).end(), rotated_.row(t).begin());
    const int64_t position = places_[static_cast<size_t>(t)].position;
    RotateHeads(rope_, position - keys.Start(position), rotated_.row(t));
  });
  AttendKeys(layer, rotated_, cache, &keys, out);
  infini_->Mix(layer, out, pool_);
}

void CpuOperations::AttendKeys(const AttentionLayer& layer, const Tensor& query,
                               const KvView& cache, const SegmentKeys* segment_keys, Tensor& out) {
  out.SetRows(query.rows());
  const auto group = static_cast<size_t>(cache.group_of(layer.layer));
  if (sparse_) {
    for (const TokenRun& run : runs_) {
      const auto position = [&](int64_t t) { return places_[static_cast<size_t>(t)].position; };
      sparse_->Prepare(layer.layer, position(run.first), position(run.first + run.count - 1));
    }
  }
  // Hands over one run's queries of one KV head, as many together as fit.
  const auto for_queries = [&](const TokenRun& run, int kv_head, auto attend) {
    const Range heads = QueryHeadsOf(kv_head);
    const HeadPages pages{&cache,
                          layer.layer,
                          kv_head,
                          places_[static_cast<size_t>(run.first)].sequence->block_tables[group],
                          sparse_ ? &*sparse_ : nullptr,
                          segment_keys};
    std::array<AttentionQuery, kQueriesTogether> queries;
    size_t count = 0;
    for (int64_t t = run.first; t < run.first + run.count; ++t) {
      for (int64_t head = heads.begin; head < heads.end(); ++head) {
        const int64_t begin = head * config_.head_dim;
        queries[count++] = {query.row(t).data() + begin, out.row(t).data() + begin,
                            places_[static_cast<size_t>(t)].position, SlopeOf(head)};
        if (count < queries.size()) continue;
        attend(std::span<const AttentionQuery>(queries), pages);
        count = 0;
      }
    }
    if (count > 0) attend(std::span<const AttentionQuery>(queries).first(count), pages);
  };

  const auto kv_heads = static_cast<int>(shard_.kv_heads.count);
  const int64_t tasks = static_cast<int64_t>(runs_.size()) * kv_heads;
  if (pool_.threads() == 1 || tasks >= kTasksPerThread * pool_.threads()) {
    pool_.ParallelFor(tasks, [&](int64_t task, int) {
      for_queries(runs_[static_cast<size_t>(task / kv_heads)], static_cast<int>(task % kv_heads),
                  [&](std::span<const AttentionQuery> queries, const HeadPages& pages) {
                    AttendQueries(options_.isa, queries, pages, layer.window,
                                  config_.attention_scale);
                  });
    });
    return;
  }
  by_chunks_.Clear();
  for (const TokenRun& run : runs_) {
    for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
      for_queries(run, kv_head,
                  [&](std::span<const AttentionQuery> queries, const HeadPages& pages) {
                    by_chunks_.Add(queries, pages, layer.window, config_.attention_scale);
                  });
    }
  }
  by_chunks_.Run(options_.isa, pool_);
}

void CpuOperations::LinearPartialSums(const Weight& weight, const Tensor& x,
                                      int64_t partial_columns, PartialSums& out) {
  const auto product = PhaseScope::Product(phases_);
  out.SetTokens(x.rows());
  const PackedMatrix& matrix = MatrixOf(weight);
  Quantize(x, matrix.quantized());
  core::LinearPartialSums(options_.isa, matrix, activations_, OutputOf(out, partial_columns),
                          pool_);
}

void CpuOperations::FeedForwardPartialSums(const Tensor& x, const FeedForwardBlock& block,
                                           PartialSums& out) {
  if (block.gate == nullptr) {
    Linear(x, {{&block.up, &block.up_bias, &gated_}});
    pool_.ParallelFor(gated_.rows(),
                      [&](int64_t t, int) { Activate(options_.isa, block.kind, gated_.row(t)); });
    return LinearPartialSums(block.down, gated_, block.partial_columns, out);
  }
  const auto product = PhaseScope::Product(phases_);
  out.SetTokens(x.rows());
  const GatedPair pair{block.kind, MatrixOf(*block.gate), MatrixOf(block.up)};
  const PackedMatrix& down_matrix = MatrixOf(block.down);
  Quantize(x, pair.gate.quantized() || pair.up.quantized());
  const Activations* gated = &gated_codes_;
  if (down_matrix.quantized()) {
    core::GatedLinear(options_.isa, pair, activations_, gated_codes_, pool_);
  } else {
    gated_.SetRows(x.rows());
    core::GatedLinear(options_.isa, pair, activations_, gated_.data(), gated_.columns(), pool_);
    Quantize(gated_, false);
    gated = &activations_;
  }
  core::LinearPartialSums(options_.isa, down_matrix, *gated, OutputOf(out, block.partial_columns),
                          pool_);
}

absl::Status CpuOperations::AllReduce(PartialSums& sums, Collective& collective,
                                      const StepPhase& phase) {
  const PhaseScope scope(phases_, Phase::kAllReduce);
  return collective.AllReducePartialSums(sums.all(), phase);
}

void CpuOperations::AddPartialSums(const PartialSums& sums, const WeightVector& bias,
                                   const Norm& post_norm, Tensor& x) {
  total_.SetRows(x.rows());
  const NormRow on_host = OnHost(post_norm);
  pool_.ParallelFor(x.rows(), [&](int64_t t, int) {
    const std::span<const int64_t> row(sums.sums() + t * sums.dim(),
                                       static_cast<size_t>(sums.dim()));
    PartialSumsToFloat(options_.isa, row, bias.values(), total_.row(t));
    if (!post_norm.empty()) {
      core::Normalize(options_.isa, on_host, total_.row(t), total_.row(t));
    }
    AddInPlace(options_.isa, x.row(t), total_.row(t));
    if (sums.failed()[t] != 0) token_failed_[static_cast<size_t>(t)] = 1;
  });
}

void CpuOperations::SelectRows(const Tensor& x, std::span<const int32_t> rows, Tensor& out) {
  out.SetRows(static_cast<int64_t>(rows.size()));
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<const float> row = x.row(rows[i]);
    std::copy(row.begin(), row.end(), out.row(static_cast<int64_t>(i)).begin());
  }
}

absl::Status CpuOperations::Sample(Tensor& logits, Range vocab_rows,
                                   std::span<const SampleRow> rows, Collective& collective,
                                   const StepPhase& phase, std::span<SampledToken> out) {
  const auto parallel_for = [this](int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    ParallelFor(tasks, body);
  };
  HostLogits in_memory(logits.data(), vocab_rows, parallel_for);
  return SampleRows(rows, in_memory, collective, phase, parallel_for, out);
}

absl::Status CpuOperations::Score(Tensor& logits, Range vocab_rows, std::span<const ScoreRow> rows,
                                  Collective& collective, const StepPhase& phase,
                                  std::span<TokenScore> out) {
  const auto parallel_for = [this](int64_t tasks, absl::FunctionRef<void(int64_t task)> body) {
    ParallelFor(tasks, body);
  };
  HostLogits in_memory(logits.data(), vocab_rows, parallel_for);
  return ScoreRows(rows, in_memory, collective, phase, parallel_for, out);
}

void CpuOperations::ReadRows(const Tensor& x, Range rows, float* out, int64_t stride) {
  pool_.ParallelFor(rows.count, [&](int64_t i, int) {
    std::copy_n(x.row(rows.begin + i).begin(), x.columns(), out + i * stride);
  });
}

}  // namespace tandem::core
