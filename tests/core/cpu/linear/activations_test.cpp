#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <vector>

#include "core/cpu/linear/linear.h"
#include "tests/core/cpu/linear/linear_reference.h"
#include "tests/core/cpu/linear/weight_samples.h"

namespace tandem::core {
namespace {

TEST(Activations, HaveTheCodesOfTheReferenceOnEveryIsa) {
  ThreadPool pool(2);
  for (const int64_t columns : {1, 15, 16, 17, 31, 32, 64, 95, 576}) {
    const int64_t tokens = 27;  // groups with odd tokens, with usual ones only, and a short one
    std::vector<float> x = RandomFloats(tokens * columns, 15);
    x[0] = 0.0F;
    for (int64_t c = 0; c < columns; ++c) {
      x[static_cast<size_t>(columns + c)] = 0.0F;                               // all zero
      x[static_cast<size_t>(2 * columns + c)] = c % 2 == 0 ? 1e-38F : -1e-39F;  // too small
      x[static_cast<size_t>(3 * columns + c)] *= 1e-36F;
      x[static_cast<size_t>(4 * columns + c)] *= 1e37F;
      x[static_cast<size_t>(5 * columns + c)] = static_cast<float>(c % 32) + 0.5F;  // ties
    }
    for (int64_t c = 0; c < columns; ++c) {
      x[static_cast<size_t>(17 * columns + c)] = static_cast<float>(c % 32) + 0.5F;
      x[static_cast<size_t>(18 * columns + c)] *= 1e37F;
      x[static_cast<size_t>(19 * columns + c)] *= 1e-34F;
    }
    x[static_cast<size_t>(6 * columns + columns / 2)] = kNan;
    x[static_cast<size_t>(7 * columns + columns / 2)] = kInfinity;
    x[static_cast<size_t>(8 * columns)] = -kInfinity;
    for (const Isa isa : AllIsas()) {
      Activations activations;
      activations.Assign(isa, {x.data(), tokens, columns, columns}, true, pool);
      ASSERT_EQ(activations.groups(), 4);
      for (int64_t t = 0; t < tokens; ++t) {
        const Activations::Group group = activations.group(t / 8);
        const int64_t in_group = t % 8;
        ASSERT_EQ(group.tokens, t < 24 ? 8 : 3);
        for (int64_t b = 0; b < activations.blocks(); ++b) {
          const QuantizedBlock expected = QuantizeReference(
              x.data() + t * columns + 32 * b, std::min<int64_t>(32, columns - 32 * b));
          const int64_t cell = b * group.tokens + in_group;
          int sums[3] = {};
          for (int64_t c = 0; c < 32; ++c) {
            ASSERT_EQ(group.codes[cell * 32 + c], expected.codes[c])
                << IsaName(isa) << " token " << t << " block " << b << " column " << c;
            sums[c / 16] += expected.codes[c];
            sums[2] += expected.codes[c];
          }
          ASSERT_TRUE(group.scales[cell] == expected.scale ||
                      (std::isnan(group.scales[cell]) && std::isnan(expected.scale)));
          for (int64_t i = 0; i < 3; ++i) {
            ASSERT_EQ(group.negative_sums[(3 * b + i) * group.tokens + in_group], -sums[i]);
            ASSERT_EQ(group.float_sums[(3 * b + i) * group.tokens + in_group],
                      static_cast<float>(sums[i]));
          }
        }
      }
    }
  }
}

TEST(Activations, ShrinkAndGrow) {
  ThreadPool pool(1);
  Activations activations;
  const WeightSample w = MakeWeights(DType::kQ5_1, 16, 256, 16);
  Rig rig;
  const PackedMatrix matrix = rig.Pack(w);
  for (const int64_t tokens : {1, 20, 3, 33}) {
    const std::vector<float> x = RandomFloats(tokens * 256, 17);
    activations.Assign(BestIsa(), {x.data(), tokens, 256, 256}, true, pool);
    std::vector<float> out(static_cast<size_t>(tokens * 16));
    const LinearJob job = {&matrix, out.data(), 16};
    Linear(BestIsa(), {&job, 1}, activations, pool);
    ExpectSameBits(out, ProductReference(w, {0, 16}, {0, 256}, x, tokens), "reused");
  }
}

}  // namespace
}  // namespace tandem::core
