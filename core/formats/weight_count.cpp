#include "core/formats/weight_count.h"

#include "core/formats/expected_tensors.h"

namespace tandem::core {

WeightCount CountWeights(const ModelFile& file) {
  constexpr std::string_view kEmbedding = "token_embd.weight";
  const bool tied = file.config().tied_head;
  WeightCount count;
  for (const TensorShape& shape : ExpectedTensors(file.config())) {
    if (shape.rows == 0 || (shape.name == kEmbedding && !tied)) continue;
    if (shape.name == "position_embd.weight") continue;  // single rows are read
    const GgufTensor* tensor = file.gguf().FindTensor(shape.name);
    if (tensor == nullptr) continue;  // not so after ModelFile::Open
    count.bytes += static_cast<int64_t>(tensor->data.size());
    count.multiply_adds += tensor->elements();
    if (BlockElements(tensor->dtype) == 1) continue;  // floats
    const bool head = shape.name == kEmbedding || shape.name == "output.weight";
    (head ? count.quantized_head : count.quantized_layers) += tensor->elements();
  }
  return count;
}

}  // namespace tandem::core
