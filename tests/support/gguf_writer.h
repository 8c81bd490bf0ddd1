#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/formats/gguf.h"

namespace tandem::testing {

/// Builds a GGUF file in memory, in the order of the calls. What it writes is valid unless the
/// caller asks for something that is not (AddEntry and AddTensorRaw take anything).
class GgufWriter {
 public:
  explicit GgufWriter(uint32_t version = 3) : version_(version) {}

  void AddU32(std::string_view key, uint32_t value);
  void AddFloat(std::string_view key, float value);
  void AddBool(std::string_view key, bool value);
  void AddString(std::string_view key, std::string_view value);
  void AddStrings(std::string_view key, std::span<const std::string> values);
  void AddInts(std::string_view key, std::span<const int32_t> values);
  void AddFloats(std::string_view key, std::span<const float> values);
  void AddBools(std::string_view key, std::span<const bool> values);
  /// Any type number with any value bytes (an array's header included).
  void AddEntry(std::string_view key, uint32_t type, std::span<const std::byte> value);

  /// dims: fastest first ([columns, rows]); data: exactly its bytes. Offsets are given out here.
  void AddTensor(std::string_view name, core::DType dtype, std::span<const int64_t> dims,
                 std::span<const std::byte> data);
  /// A tensor entry as it is told, without data.
  void AddTensorRaw(std::string_view name, uint32_t type, std::span<const uint64_t> dims,
                    uint64_t offset);

  /// The whole file. May be called more than once.
  std::vector<std::byte> Finish() const;

 private:
  static constexpr size_t kAlignment = 32;  // the format's default
  void AddArrayHeader(std::string_view key, core::GgufType element_type, size_t count);

  uint32_t version_;
  uint64_t entries_ = 0;
  uint64_t tensors_ = 0;
  std::vector<std::byte> metadata_;
  std::vector<std::byte> tensor_table_;
  std::vector<std::byte> data_;
};

/// A file that is removed when this goes out of scope.
class TempFile {
 public:
  explicit TempFile(std::span<const std::byte> bytes, std::string_view suffix = ".gguf");
  ~TempFile();
  TempFile(TempFile&& other) noexcept;
  TempFile& operator=(TempFile&&) = delete;
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

}  // namespace tandem::testing
