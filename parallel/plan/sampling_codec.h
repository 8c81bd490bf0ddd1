#pragma once

#include "core/base/wire.h"
#include "core/sampling/sampler.h"

namespace tandem::parallel {

inline constexpr size_t kMostLogitBiases = 1 << 20;

/// SamplingParams within a message: layout in sampling_codec.cpp. Floats travel bit for bit.
void WriteSampling(const core::SamplingParams& sampling, core::WireWriter& writer);
core::SamplingParams ReadSampling(core::WireReader& reader);

}  // namespace tandem::parallel
