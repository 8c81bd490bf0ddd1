#pragma once

#include <memory>
#include <vector>

#include "core/cuda/cuda_weight.h"
#include "core/cuda/kernels/linear_kernels.h"
#include "tests/core/cpu/linear/linear_reference.h"
#include "tests/core/cuda/gpu.h"

namespace tandem::testing {

/// A GPU, and products on it in one call.
class CudaProducts {
 public:
  std::unique_ptr<core::CudaWeight> Pack(const core::WeightSample& w, core::Range rows,
                                         core::Range columns,
                                         core::ActivationMode mode = core::ActivationMode::kQ8) {
    auto weight = core::CudaWeight::Pack(w.source(), rows, columns, mode, memory, pool_);
    EXPECT_TRUE(weight.ok()) << weight.status();
    return *std::move(weight);
  }

  /// x: [tokens, columns]; result: [tokens, rows]
  std::vector<float> Product(const core::CudaWeight& weight, const std::vector<float>& x,
                             int64_t tokens) {
    const Input input(*this, weight, x, tokens);
    const OnGpu<float> out(memory, tokens * weight.rows());
    core::LaunchLinear(memory.stream(), weight.matrix(), input.input, out.data());
    return out.Read();
  }

  /// The same of several matrices with as many columns, in one call.
  std::vector<std::vector<float>> Products(
      const std::vector<std::unique_ptr<core::CudaWeight>>& weights, const std::vector<float>& x,
      int64_t tokens) {
    const Input input(*this, *weights.front(), x, tokens);
    std::vector<std::unique_ptr<OnGpu<float>>> outs;
    std::vector<core::LinearProduct> products;
    for (const auto& weight : weights) {
      outs.push_back(std::make_unique<OnGpu<float>>(memory, tokens * weight->rows()));
      products.push_back({weight->matrix(), outs.back()->data()});
    }
    core::LaunchLinear(memory.stream(), products, input.input);
    std::vector<std::vector<float>> found;
    for (const auto& out : outs) found.push_back(out->Read());
    return found;
  }

  core::Rig::PartialSums ProductPartialSums(const core::CudaWeight& weight,
                                            const std::vector<float>& x, int64_t tokens,
                                            int64_t partial_columns) {
    const Input input(*this, weight, x, tokens);
    const OnGpu<int64_t> sums(memory, tokens * weight.rows());
    const OnGpu<int64_t> failed(memory, tokens);
    core::LaunchLinearPartialSums(memory.stream(), weight.matrix(), input.input, partial_columns,
                                  sums.data(), failed.data());
    return {sums.Read(), failed.Read()};
  }

  core::CudaMemory memory;

 private:
  /// x on the GPU, as codes where they are wanted.
  struct Input {
    Input(CudaProducts& rig, const core::CudaWeight& weight, const std::vector<float>& values,
          int64_t tokens)
        : blocks((weight.columns() + 31) / 32),
          x(rig.memory, values),
          codes(rig.memory, tokens * blocks * 32),
          scales(rig.memory, tokens * blocks),
          sums(rig.memory, tokens * blocks * 2) {
      input = {.codes = {codes.data(), scales.data(), sums.data(), blocks},
               .x = x.data(),
               .tokens = tokens};
      if (!weight.quantized()) return;
      core::LaunchQuantize(rig.memory.stream(), x.data(), tokens, weight.columns(), input.codes);
    }
    int64_t blocks;
    OnGpu<float> x;
    OnGpu<int8_t> codes;
    OnGpu<float> scales;
    OnGpu<int32_t> sums;
    core::ProductInput input;
  };

  core::ThreadPool pool_{1};
};

}  // namespace tandem::testing
