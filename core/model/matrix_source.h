#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "core/base/mapped_file.h"
#include "core/model/dtype.h"

namespace tandem::core {

/// A matrix as it lies in the model file: row-major, rows whole in blocks of its dtype.
struct MatrixSource {
  std::string_view name;  // for messages
  DType dtype = DType::kF32;
  const std::byte* data = nullptr;
  int64_t rows = 0;
  int64_t columns = 0;
  const MappedFile* file = nullptr;  // where data is mapped from, if it is
};

}  // namespace tandem::core
