#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/base/mapped_file.h"
#include "core/base/status.h"
#include "core/model/dtype.h"

namespace tandem::core {

/// Types of metadata values; numbers are those of the file.
enum class GgufType : uint32_t {
  kUint8 = 0,
  kInt8 = 1,
  kUint16 = 2,
  kInt16 = 3,
  kUint32 = 4,
  kInt32 = 5,
  kFloat32 = 6,
  kBool = 7,
  kString = 8,
  kArray = 9,
  kUint64 = 10,
  kInt64 = 11,
  kFloat64 = 12,
};

/// Name as the format's document spells it, e.g. "uint32".
std::string_view GgufTypeName(GgufType type);

/// One key and where its value lies in the file.
struct GgufEntry {
  std::string_view key;
  GgufType type = GgufType::kUint8;
  GgufType element_type = GgufType::kUint8;  // of an array
  int64_t count = 1;                         // elements of an array, otherwise 1
  std::span<const std::byte> value;          // without the array's own header; little endian
};

inline constexpr size_t kGgufMaxDims = 4;

/// One tensor. Its extent has been checked to lie inside the file.
struct GgufTensor {
  std::string_view name;
  DType dtype = DType::kF32;
  size_t rank = 0;                                     // dimensions used
  std::array<int64_t, kGgufMaxDims> dims{1, 1, 1, 1};  // [columns, rows, ...]: fastest first
  std::span<const std::byte> data;
  const MappedFile* mapping = nullptr;  // that `data` lies in; null for OpenBuffer

  int64_t elements() const { return dims[0] * dims[1] * dims[2] * dims[3]; }
  /// "[rows, columns]": slowest first, as messages show shapes.
  std::string ShapeText() const;
};

/// A GGUF file of version 2 or 3, little endian.
///
/// Open walks and checks the whole header: afterwards every entry and tensor lies inside the file,
/// tensors are aligned and do not overlap, names are unique, and tensor types are ones that
/// core/model/dtype.h knows. Whatever is wrong gives one line that names the file, the key or
/// tensor, what was expected and what was found: kInvalidArgument where there is no such file or no
/// GGUF file, kDataLoss where its contents are wrong, kUnimplemented for what is not built. Views
/// (string_view, span) live as long as this object. Thread safety: immutable after Open. Source:
/// github.com/ggml-org/ggml, docs/gguf.md.
class GgufFile {
 public:
  /// Maps the file; no tensor data is read. Of a model in several files (`-00001-of-00003.gguf`,
  /// key split.count) give the first: its tensors are those of all parts, and the metadata its own.
  static absl::StatusOr<std::unique_ptr<GgufFile>> Open(const std::string& path);
  /// Reads a file that is in memory already; `bytes` must outlive the result. `name` stands for the
  /// path in messages.
  static absl::StatusOr<std::unique_ptr<GgufFile>> OpenBuffer(std::span<const std::byte> bytes,
                                                              std::string name);

  const std::string& path() const { return path_; }
  uint32_t version() const { return version_; }
  /// Bytes of all parts.
  int64_t bytes() const { return all_bytes_; }
  /// Of this part's file, as it was opened; all 0 for OpenBuffer.
  const FileStamp& stamp() const { return mapping_.stamp(); }
  /// MappedFile::WillPick, of all tensors.
  void WillPick() const;
  /// What comes before the tensor data.
  std::span<const std::byte> header() const { return header_; }
  /// The parts after the first.
  std::span<const std::unique_ptr<GgufFile>> other_parts() const { return parts_; }

  /// All metadata in the file's order.
  std::span<const GgufEntry> entries() const { return entries_; }
  /// The entry of a key, or null.
  const GgufEntry* Find(std::string_view key) const;
  bool Has(std::string_view key) const { return Find(key) != nullptr; }

  /// Whether an entry's value asks for nothing: no, 0, an empty text or "none".
  bool IsNeutral(const GgufEntry& entry) const;

  // Typed access. kNotFound where the key is missing; kInvalidArgument where its type is another
  // one, or the value does not fit. Any integer type of the file serves as an integer, either
  // floating type as a float.
  absl::StatusOr<uint32_t> U32(std::string_view key) const;
  absl::StatusOr<int64_t> Integer(std::string_view key) const;
  absl::StatusOr<float> Float(std::string_view key) const;
  absl::StatusOr<bool> Bool(std::string_view key) const;
  absl::StatusOr<std::string_view> String(std::string_view key) const;

  // The same with a value for a missing key; a wrong type is still an error.
  absl::StatusOr<uint32_t> U32Or(std::string_view key, uint32_t fallback) const;
  absl::StatusOr<float> FloatOr(std::string_view key, float fallback) const;
  absl::StatusOr<bool> BoolOr(std::string_view key, bool fallback) const;
  absl::StatusOr<std::string_view> StringOr(std::string_view key, std::string_view fallback) const;

  // Arrays. Strings are views into the file, not copies.
  absl::StatusOr<std::vector<std::string_view>> Strings(std::string_view key) const;
  absl::StatusOr<std::vector<int64_t>> Integers(std::string_view key) const;
  absl::StatusOr<std::vector<float>> Floats(std::string_view key) const;
  absl::StatusOr<std::vector<bool>> Bools(std::string_view key) const;

  /// A value for people, e.g. `30`, `"llama"`, `[49152 x string]`; long strings are cut to
  /// `max_length` bytes and control characters escaped.
  std::string ValueText(const GgufEntry& entry, size_t max_length = 80) const;

  /// All tensors in the file's order.
  std::span<const GgufTensor> tensors() const { return tensors_; }
  /// The tensor of that name, or null.
  const GgufTensor* FindTensor(std::string_view name) const;

 private:
  friend class GgufParser;
  GgufFile() = default;

  static absl::StatusOr<std::unique_ptr<GgufFile>> OpenOne(const std::string& path);
  absl::Status OpenOtherParts();
  absl::Status CheckTensorCount() const;
  absl::Status Take(std::unique_ptr<GgufFile> part);
  absl::StatusOr<const GgufEntry*> Require(std::string_view key) const;
  absl::StatusOr<const GgufEntry*> RequireArray(std::string_view key) const;
  absl::Status WrongType(const GgufEntry& entry, std::string_view expected) const;

  std::string path_;
  MappedFile mapping_;  // empty for OpenBuffer
  std::span<const std::byte> bytes_;
  std::span<const std::byte> header_;
  int64_t all_bytes_ = 0;
  std::vector<std::unique_ptr<GgufFile>> parts_;
  uint32_t version_ = 0;
  std::vector<GgufEntry> entries_;
  std::vector<GgufTensor> tensors_;
  std::unordered_map<std::string_view, size_t> entry_index_;
  std::unordered_map<std::string_view, size_t> tensor_index_;
};

/// Text from a file for a message: printable ASCII and valid-looking UTF-8 as it is, control bytes
/// as \xNN, cut to `max_length` bytes with "..." behind.
std::string PrintableText(std::string_view text, size_t max_length = 80);

}  // namespace tandem::core
