#pragma once

#include <string_view>

#include "core/base/status.h"
#include "core/formats/gguf.h"
#include "core/model/config.h"

namespace tandem::core {

/// The rotary embedding of full-attention layers from the keys ARCH.rope.* and the tensor
/// rope_freqs.weight: scalings none, linear, llama3 (by the tensor's factors) and YaRN, with the
/// arithmetic of llama.cpp in double. `layout` is the family's. head_dim, context: already checked.
/// Sources: Su et al. 2021; Peng et al. 2023 (YaRN).
absl::StatusOr<Rope> ReadRope(const GgufFile& file, std::string_view arch, RopeLayout layout,
                              int head_dim, int context);

/// An unscaled one.
Rope PlainRope(RopeLayout layout, int rotary_dims, double base);

}  // namespace tandem::core
