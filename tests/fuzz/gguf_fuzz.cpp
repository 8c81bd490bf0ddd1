// Whatever bytes a file holds, opening it gives an error or a file whose views lie inside it.

#include <cstddef>
#include <cstdint>
#include <span>

#include "core/formats/config_gguf.h"
#include "core/formats/expected_tensors.h"
#include "core/formats/gguf.h"

namespace {

using namespace tandem::core;

/// Reads everything, so that the sanitizers see views that leave the file.
void Touch(const GgufFile& file) {
  volatile uint64_t seen = 0;
  for (const GgufEntry& entry : file.entries()) {
    seen = seen + file.ValueText(entry).size();
    (void)file.Strings(entry.key);
    (void)file.Integers(entry.key);
    (void)file.Floats(entry.key);
    (void)file.Bools(entry.key);
  }
  for (const GgufTensor& tensor : file.tensors()) {
    seen = seen + std::to_integer<uint64_t>(tensor.data.front());
    seen = seen + std::to_integer<uint64_t>(tensor.data.back());
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto file = GgufFile::OpenBuffer(std::as_bytes(std::span(data, size)), "fuzz");
  if (!file.ok()) return 0;
  Touch(**file);
  const auto config = ReadConfig(**file);
  if (!config.ok()) return 0;
  if (CheckTensors(**file, *config).ok()) {
    // What passed must be usable.
    if (config->heads % config->kv_heads != 0 || config->vocab < 1) __builtin_trap();
  }
  return 0;
}
