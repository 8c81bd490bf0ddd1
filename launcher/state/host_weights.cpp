#include "launcher/state/host_weights.h"

#include "core/formats/shard_parts.h"
#include "core/model/host_memory.h"
#include "kv_store/weights/kept_format.h"
#include "kv_store/weights/kept_weights.h"
#include "kv_store/weights/weight_folders.h"
#include "launcher/state/kv_agent.h"

namespace tandem::launcher {
namespace {

std::string ModelKey(const core::ModelFile& file, core::ActivationMode activations) {
  return fmt::format(
      "tandem weights {}, cpu, packing {}, model {:016x}, file {:016x}, activations {}",
      kv_store::kKeptVersion, core::kPackingVersion, file.fingerprint(), file.stamp(),
      activations == core::ActivationMode::kQ8 ? "q8" : "f32");
}

std::string ShardKey(const core::Shard& shard) {
  const auto text = [](const core::Range& range) {
    return fmt::format("{}+{}", range.begin, range.count);
  };
  return fmt::format("heads {}, KV heads {}, columns {}, rows {}", text(shard.query_heads),
                     text(shard.kv_heads), text(shard.ffn_columns), text(shard.vocab_rows));
}

std::vector<int64_t> MatricesOf(const core::ModelFile& file, const core::Shard& shard,
                                core::ActivationMode activations) {
  std::vector<int64_t> bytes;
  for (const core::ShardPart& part : core::ShardParts(file, shard)) {
    bytes.push_back(core::PackedMatrix::BytesOf(part.dtype, part.rows, part.columns, activations));
  }
  return bytes;
}

}  // namespace

WeightsPlace ChooseWeightsPlace(const StateOptions& state, const core::ModelFile& file,
                                core::ActivationMode activations,
                                std::span<const core::Shard> shards, size_t mine) {
  WeightsPlace place;
  if (state.keep_weights == "off") return place;
  const auto folders = kv_store::WeightFoldersOf(AgentPath(state));
  if (!folders.ok()) {
    place.why_not = Message(folders.status());
    return place;
  }
  const std::string model = ModelKey(file, activations);
  kv_store::WeightsWish wish;
  for (size_t i = 0; i < shards.size(); ++i) {
    const std::string shard = ShardKey(shards[i]);
    const std::string key = fmt::format("{}; {}", model, shard);
    std::vector<int64_t> matrices = MatricesOf(file, shards[i], activations);
    wish.names.push_back(kv_store::WeightFileName(model, shard));
    wish.bytes.push_back(kv_store::KeptWeights::FileBytes(key, matrices));
    place.host_bytes += wish.bytes.back();
    if (i != mine) continue;
    place.key = key;
    place.matrices = std::move(matrices);
  }
  core::HostMemory memory;
  const int64_t available = memory.AvailableBytes().value_or(0);
  wish.available = available;
  const auto try_in = [&](const std::string& folder, bool in_memory) {
    const absl::Status room = kv_store::MakeRoomForWeights(*folders, folder, wish);
    if (!room.ok()) {
      place.why_not += (place.why_not.empty() ? "" : "; ") + Message(room);
      return;
    }
    place.path = fmt::format("{}/{}", folder, wish.names[mine]);
    place.in_memory = in_memory;
    place.may_copy = available > 2 * place.host_bytes;
  };
  if (state.keep_weights != "disk") try_in(folders->memory, /*in_memory=*/true);
  if (!place.kept() && state.keep_weights != "shm") try_in(folders->disk, /*in_memory=*/false);
  return place;
}

}  // namespace tandem::launcher
