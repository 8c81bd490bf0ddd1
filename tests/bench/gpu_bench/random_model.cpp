#include "tests/bench/gpu_bench/random_model.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "core/formats/expected_tensors.h"
#include "core/model/device_status.h"
#include "parallel/sharding/model_costs.h"
#include "parallel/sharding/shard_plan.h"
#include "tests/support/gguf_writer.h"

namespace tandem::bench {
namespace {

constexpr int64_t kAlignment = 32;
constexpr int64_t kPatternRows = 256;  // that differ

}  // namespace

absl::Status Repeat(core::CudaMemory& memory, std::byte* begin, int64_t bytes, int64_t total) {
  for (int64_t done = bytes; done < total;) {
    const int64_t more = std::min(done, total - done);
    TANDEM_RETURN_IF_ERROR(memory.CopyWithin(begin + done, begin, static_cast<size_t>(more)));
    done += more;
  }
  return absl::OkStatus();
}

ModelShape ShapeOf(const std::string& name) {
  struct Shape {
    const char* name;
    int layers, dim, ffn_dim, heads, kv_heads, head_dim, vocab, ranks;
  };
  // Llama 3.2 1B, Llama 3.1 8B and 70B.
  constexpr Shape kShapes[] = {{"tiny", 2, 256, 512, 8, 2, 32, 512, 1},
                               {"1b", 16, 2048, 8192, 32, 8, 64, 128256, 1},
                               {"8b", 32, 4096, 14336, 32, 8, 128, 128256, 1},
                               {"70b/8", 80, 8192, 28672, 64, 8, 128, 128256, 8}};
  for (const Shape& s : kShapes) {
    if (s.name != name) continue;
    return {name,
            {.layers = s.layers,
             .dim = s.dim,
             .ffn_dim = s.ffn_dim,
             .heads = s.heads,
             .kv_heads = s.kv_heads,
             .head_dim = s.head_dim,
             .vocab = s.vocab,
             .context = 1 << 17,
             .tied_head = false},
            s.ranks};
  }
  return {};
}

absl::StatusOr<std::unique_ptr<core::Weight>> RandomWeights::Pack(const core::MatrixSource& source,
                                                                  core::Range rows,
                                                                  core::Range columns) {
  const int64_t some = std::min(rows.count, kPatternRows);
  const std::vector<std::byte> blocks =
      testing::RandomBlocks(source.dtype, some * source.columns, 0.02F, 1);
  core::MatrixSource pattern = source;
  pattern.data = blocks.data();
  pattern.rows = some;
  pattern.file = nullptr;
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<core::Weight> packed,
                          core::CudaOperations::Pack(pattern, {0, some}, columns));
  if (some == rows.count) return packed;
  const auto& repeated = static_cast<const core::CudaWeight&>(*packed);
  core::TileMatrix matrix = repeated.matrix();
  const int64_t tiles = (rows.count + core::kTileRows - 1) / core::kTileRows;
  const int64_t bytes = tiles * matrix.tile_bytes;
  auto& gpu = static_cast<core::CudaMemory&>(memory());
  TANDEM_ASSIGN_OR_RETURN(std::shared_ptr<std::byte> room, gpu.AllocateZeroed(bytes));
  TANDEM_RETURN_IF_ERROR(
      gpu.CopyWithin(room.get(), matrix.tiles, static_cast<size_t>(repeated.bytes())));
  TANDEM_RETURN_IF_ERROR(Repeat(gpu, room.get(), repeated.bytes(), bytes));
  matrix.tiles = room.get();
  matrix.rows = rows.count;
  return core::CudaWeight::OfTiles(matrix, bytes, std::move(room));
}

absl::Status RandomModel::MakeFile(const ModelShape& shape, core::DType dtype) {
  testing::GgufWriter writer;
  AddMetadata(shape.spec, writer);
  struct Vector {
    int64_t offset;
    int64_t count;
  };
  std::vector<Vector> vectors;
  int64_t offset = 0;
  for (const core::TensorShape& tensor : core::ExpectedTensors(ConfigOf(shape.spec))) {
    const bool vector = tensor.rows == 0;
    const core::DType type = vector ? core::DType::kF32 : dtype;
    std::vector<uint64_t> dims = {static_cast<uint64_t>(tensor.columns)};
    if (!vector) dims.push_back(static_cast<uint64_t>(tensor.rows));
    writer.AddTensorRaw(tensor.name, static_cast<uint32_t>(type), dims,
                        static_cast<uint64_t>(offset));
    if (vector) vectors.push_back({offset, tensor.columns});
    const int64_t bytes = core::RowBytes(type, tensor.columns) * std::max<int64_t>(1, tensor.rows);
    offset += (bytes + kAlignment - 1) / kAlignment * kAlignment;
  }
  const std::vector<std::byte> header = writer.Finish();
  const auto header_bytes =
      (static_cast<int64_t>(header.size()) + kAlignment - 1) / kAlignment * kAlignment;
  const auto total = static_cast<size_t>(header_bytes + offset);
  void* memory = mmap(nullptr, total, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    return ResourceExhausted("{} bytes of addresses could not be had: {}", total,
                             std::strerror(errno));  // NOLINT(concurrency-mt-unsafe)
  }
  mapped_ = {static_cast<std::byte*>(memory), total};
  std::copy(header.begin(), header.end(), mapped_.begin());
  for (const Vector& vector : vectors) {
    auto* values = reinterpret_cast<float*>(mapped_.data() + header_bytes + vector.offset);
    std::fill_n(values, vector.count, 1.0F);
  }
  TANDEM_ASSIGN_OR_RETURN(file_, core::ModelFile::OpenBuffer(mapped_, shape.name));
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<RandomModel>> RandomModel::Make(const ModelShape& shape,
                                                               core::DType dtype,
                                                               const core::Gpu& gpu, bool exact,
                                                               bool graphs,
                                                               const core::Progress& progress) {
  std::unique_ptr<RandomModel> made(new RandomModel);
  TANDEM_RETURN_IF_ERROR(made->MakeFile(shape, dtype));
  const core::ModelConfig& config = made->file_->config();
  TANDEM_ASSIGN_OR_RETURN(const parallel::ModelCosts costs, parallel::CostsOf(*made->file_));
  TANDEM_ASSIGN_OR_RETURN(const parallel::ShardPlan plan,
                          parallel::PlanShards(config, costs, {.ranks = shape.ranks}));
  made->shard_ = plan.shards.front();
  TANDEM_RETURN_IF_ERROR(core::WithDeviceFailures([&] {
    made->operations_ = std::make_unique<RandomWeights>(
        config, made->shard_,
        core::CudaOptions{.threads = 1, .gpu = gpu, .exact = exact, .graphs = graphs});
  }));
  TANDEM_ASSIGN_OR_RETURN(made->model_, core::Transformer::Load(*made->file_, made->shard_,
                                                                *made->operations_, progress));
  return made;
}

RandomModel::~RandomModel() {
  model_.reset();
  operations_.reset();
  file_.reset();
  if (!mapped_.empty()) munmap(mapped_.data(), mapped_.size());
}

}  // namespace tandem::bench
