#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "core/cpu/linear/packed_matrix.h"
#include "core/formats/model_file.h"
#include "core/model/shard.h"
#include "launcher/options/options.h"

namespace tandem::launcher {

/// Where the packed weights of a rank stay for the next start.
struct WeightsPlace {
  std::string path;     // of the rank's file; empty: nowhere
  std::string why_not;  // then; empty: nobody asked for it
  std::string key;      // kv_store::KeptWeights::Options, likewise below
  std::vector<int64_t> matrices;
  bool in_memory = true;
  bool may_copy = false;
  int64_t host_bytes = 0;  // of the files of all ranks of the host

  bool kept() const { return !path.empty(); }
};

/// The place of rank `mine` of those of this host, whose shards are `shards`; --keep-weights says
/// which may be chosen. Room is made there for all of them, so all ranks of the host must have
/// chosen before one of them fills its own. After HostKv::Open: the folders are the agent's.
WeightsPlace ChooseWeightsPlace(const StateOptions& state, const core::ModelFile& file,
                                core::ActivationMode activations,
                                std::span<const core::Shard> shards, size_t mine);

}  // namespace tandem::launcher
