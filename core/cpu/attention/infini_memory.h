#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "core/base/isa.h"
#include "core/model/attention_form.h"
#include "core/model/kv_view.h"

/// The memory of Infini-attention (Munkhdalai et al. 2024): of one KV head in one layer, M
/// [head_dim, head_dim] and its normalizer z [head_dim], float32.
///
/// The same bits for every Isa. `fma` rounds once, chains begin at 0 where nothing else is said;
/// exp is our own (elementwise.h). s(x) = x + 1 for x > 0, else exp(x).
///
///     read(q)[j] = (fma over i ascending of s(q[i]) * M[i][j]) / d,
///              d = fma over i ascending of s(q[i]) * z[i];  0 where d is 0
///     delta   v'[t] = v[t] - read(k[t]), of the memory before the segment;  linear  v'[t] = v[t]
///     M[i][j] = fma over the segment's t ascending of s(k[t][i]) * v'[t][j], from M[i][j]
///     z[i]    = z[i] + s(k[t][i]), t ascending
///     mixed   = fma(g, read, (1 - g) * attended)
namespace tandem::core {

/// The keys (before any rotation) and values of a page as floats: what the cache rounded them to.
/// Of float8 a value is the float16 that attention reads, times its scale, rounded once. keys:
/// [head_dim, 64]; values: [64, head_dim]
void ReadPageKeys(const KvGeometry& geometry, const KvPage& page, float* keys);
void ReadPageValues(const KvGeometry& geometry, const KvPage& page, float* values);

/// out = read(query). query, out: [head_dim]
void ReadMemory(Isa isa, const KvState& state, std::span<const float> query, std::span<float> out);

/// Makes the state behind a segment of that before it (null: the first segment's, all zeros) and
/// the segment's pages, in order. `scratch` is made as large as needed.
void UpdateMemory(Isa isa, AttentionForm::Update update, const KvGeometry& geometry,
                  const KvState* before, std::span<const KvPage> pages, const KvState& after,
                  std::vector<float>& scratch);

/// attended = mixed. [head_dim]
void MixMemory(Isa isa, float gate, std::span<const float> remembered, std::span<float> attended);

}  // namespace tandem::core
