#include <algorithm>
#include <bit>
#include <cstring>
#include <limits>
#include <optional>
#include <utility>

#include "core/formats/gguf.h"

namespace tandem::core {
namespace {

// Far above what any real model has, and low enough that a hostile header costs little.
constexpr uint64_t kMaxEntries = 1 << 16;
constexpr uint64_t kMaxTensors = 1 << 17;
constexpr uint64_t kMaxKeyBytes = 1 << 12;
constexpr uint64_t kMaxTensorNameBytes = 256;
constexpr uint64_t kMaxStringBytes = 64 << 20;
constexpr uint64_t kMaxArrayElements = 1 << 26;
constexpr int kMaxArrayDepth = 4;
constexpr uint64_t kDefaultAlignment = 32;
constexpr uint64_t kMinAlignment = 8;
constexpr uint64_t kMaxAlignment = 1 << 20;

constexpr std::string_view kMagic = "GGUF";

bool KnownType(uint32_t number) { return number <= static_cast<uint32_t>(GgufType::kFloat64); }

/// Bytes of a value of fixed size; 0 for strings and arrays.
uint64_t FixedBytes(GgufType type) {
  switch (type) {
    case GgufType::kUint8:
    case GgufType::kInt8:
    case GgufType::kBool:
      return 1;
    case GgufType::kUint16:
    case GgufType::kInt16:
      return 2;
    case GgufType::kUint32:
    case GgufType::kInt32:
    case GgufType::kFloat32:
      return 4;
    case GgufType::kUint64:
    case GgufType::kInt64:
    case GgufType::kFloat64:
      return 8;
    case GgufType::kString:
    case GgufType::kArray:
      return 0;
  }
  return 0;
}

/// Names of GGML's types that are not supported, so that an error can tell what the file holds.
std::string_view ForeignTypeName(uint32_t number) {
  switch (number) {
    case 4:
      return "Q4_2";
    case 5:
      return "Q4_3";
    case 9:
      return "Q8_1";
    case 15:
      return "Q8_K";
    case 16:
      return "IQ2_XXS";
    case 17:
      return "IQ2_XS";
    case 18:
      return "IQ3_XXS";
    case 19:
      return "IQ1_S";
    case 20:
      return "IQ4_NL";
    case 21:
      return "IQ3_S";
    case 22:
      return "IQ2_S";
    case 23:
      return "IQ4_XS";
    case 24:
      return "I8";
    case 25:
      return "I16";
    case 26:
      return "I32";
    case 27:
      return "I64";
    case 28:
      return "F64";
    case 29:
      return "IQ1_M";
    case 31:
      return "Q4_0_4_4";
    case 32:
      return "Q4_0_4_8";
    case 33:
      return "Q4_0_8_8";
    case 34:
      return "TQ1_0";
    case 35:
      return "TQ2_0";
    case 36:
      return "IQ4_NL_4_4";
    case 37:
      return "IQ4_NL_4_8";
    case 38:
      return "IQ4_NL_8_8";
    case 39:
      return "MXFP4";
    case 40:
      return "NVFP4";
    default:
      return "unknown";
  }
}

}  // namespace

/// Reads a header front to back. Every length is compared with what is left of the file before it
/// is used, so no sum of file contents can overflow.
class GgufParser {
 public:
  explicit GgufParser(GgufFile& file) : file_(file), bytes_(file.bytes_) {}

  absl::Status Parse() {
    TANDEM_RETURN_IF_ERROR(ReadMagic());
    if (left() < sizeof(uint32_t)) return DamagedInside(Truncated("the version", sizeof(uint32_t)));
    TANDEM_RETURN_IF_ERROR(ReadVersion());
    return DamagedInside(ParseContents());
  }

 private:
  absl::Status ParseContents() {
    TANDEM_ASSIGN_OR_RETURN(const uint64_t tensors, ReadCount("tensors", kMaxTensors));
    TANDEM_ASSIGN_OR_RETURN(const uint64_t entries, ReadCount("metadata entries", kMaxEntries));
    for (uint64_t i = 0; i < entries; ++i) TANDEM_RETURN_IF_ERROR(ReadEntry(i));
    TANDEM_RETURN_IF_ERROR(ReadAlignment());
    for (uint64_t i = 0; i < tensors; ++i) TANDEM_RETURN_IF_ERROR(ReadTensor(i));
    return PlaceTensors();
  }

  uint64_t left() const { return bytes_.size() - offset_; }

  absl::Status Truncated(std::string_view what, uint64_t need) const {
    return InvalidArgument(
        "{}: truncated: {} at byte {} needs {} bytes, but the file ends after {} more ({} bytes in "
        "all)",
        file_.path_, what, offset_, need, left(), bytes_.size());
  }

  template <typename T>
  absl::StatusOr<T> Read(std::string_view what) {
    if (left() < sizeof(T)) return Truncated(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::string_view> ReadString(std::string_view what, uint64_t max_bytes) {
    TANDEM_ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    if (length > max_bytes) {
      return InvalidArgument("{}: {} at byte {} is {} bytes long, expected at most {}", file_.path_,
                             what, offset_ - sizeof(uint64_t), length, max_bytes);
    }
    if (length > left()) return Truncated(what, length);
    const std::string_view text(reinterpret_cast<const char*>(bytes_.data() + offset_), length);
    offset_ += length;
    return text;
  }

  absl::Status ReadMagic() {
    if (left() < kMagic.size() || std::memcmp(bytes_.data(), kMagic.data(), kMagic.size()) != 0) {
      const std::string_view found(reinterpret_cast<const char*>(bytes_.data()),
                                   std::min<uint64_t>(left(), kMagic.size()));
      return InvalidArgument(
          "{}: is not a GGUF model: expected the file to begin with \"GGUF\", found \"{}\"",
          file_.path_, PrintableText(found));
    }
    offset_ = kMagic.size();
    return absl::OkStatus();
  }

  absl::Status ReadVersion() {
    TANDEM_ASSIGN_OR_RETURN(file_.version_, Read<uint32_t>("the version"));
    if (file_.version_ == 2 || file_.version_ == 3) return absl::OkStatus();
    if ((file_.version_ & 0xFFFF) == 0) {
      return InvalidArgument(
          "{}: is a big-endian GGUF file (version reads as {:#x}), expected little endian; convert "
          "it again on, or for, a little-endian machine",
          file_.path_, file_.version_);
    }
    return InvalidArgument(
        "{}: GGUF version {}, expected 2 or 3; convert the model again with a current converter",
        file_.path_, file_.version_);
  }

  absl::StatusOr<uint64_t> ReadCount(std::string_view what, uint64_t limit) {
    TANDEM_ASSIGN_OR_RETURN(const uint64_t count,
                            Read<uint64_t>(fmt::format("number of {}", what)));
    if (count > limit) {
      return InvalidArgument("{}: the header claims {} {}, expected at most {}", file_.path_, count,
                             what, limit);
    }
    return count;
  }

  absl::Status ReadEntry(uint64_t index) {
    TANDEM_ASSIGN_OR_RETURN(
        const std::string_view key,
        ReadString(fmt::format("the name of metadata entry {}", index), kMaxKeyBytes));
    if (key.empty()) {
      return InvalidArgument("{}: metadata entry {} has an empty name", file_.path_, index);
    }
    const std::string name = fmt::format("key '{}'", PrintableText(key));
    GgufEntry entry;
    entry.key = key;
    TANDEM_ASSIGN_OR_RETURN(entry.type, ReadType(name));
    if (entry.type == GgufType::kArray) {
      TANDEM_ASSIGN_OR_RETURN(const ArrayHeader header, ReadArrayHeader(name));
      entry.element_type = header.element_type;
      entry.count = static_cast<int64_t>(header.count);
      const uint64_t begin = offset_;
      TANDEM_RETURN_IF_ERROR(SkipElements(name, header, 1));
      entry.value = bytes_.subspan(begin, offset_ - begin);
    } else {
      const uint64_t begin = offset_;
      TANDEM_RETURN_IF_ERROR(SkipElements(name, {entry.type, 1}, 0));
      entry.value = bytes_.subspan(begin, offset_ - begin);
    }
    if (!file_.entry_index_.emplace(key, file_.entries_.size()).second) {
      return InvalidArgument("{}: {} occurs twice, expected once", file_.path_, name);
    }
    file_.entries_.push_back(entry);
    return absl::OkStatus();
  }

  struct ArrayHeader {
    GgufType element_type;
    uint64_t count;
  };

  absl::StatusOr<GgufType> ReadType(std::string_view name) {
    TANDEM_ASSIGN_OR_RETURN(const uint32_t number, Read<uint32_t>(name));
    if (!KnownType(number)) {
      return InvalidArgument("{}: {} has value type {}, expected 0 to {}", file_.path_, name,
                             number, static_cast<uint32_t>(GgufType::kFloat64));
    }
    return static_cast<GgufType>(number);
  }

  absl::StatusOr<ArrayHeader> ReadArrayHeader(std::string_view name) {
    TANDEM_ASSIGN_OR_RETURN(const GgufType type, ReadType(name));
    TANDEM_ASSIGN_OR_RETURN(const uint64_t count, Read<uint64_t>(name));
    if (count > kMaxArrayElements) {
      return InvalidArgument("{}: {} is an array of {} elements, expected at most {}", file_.path_,
                             name, count, kMaxArrayElements);
    }
    return ArrayHeader{type, count};
  }

  /// Moves past `elements.count` values. depth: arrays around them.
  absl::Status SkipElements(std::string_view name, ArrayHeader elements, int depth) {
    if (const uint64_t size = FixedBytes(elements.element_type); size > 0) {
      const uint64_t total = size * elements.count;  // count <= 2^26
      if (total > left()) return Truncated(name, total);
      offset_ += total;
      return absl::OkStatus();
    }
    if (elements.element_type == GgufType::kString) {
      for (uint64_t i = 0; i < elements.count; ++i) {
        TANDEM_RETURN_IF_ERROR(ReadString(name, kMaxStringBytes).status());
      }
      return absl::OkStatus();
    }
    if (depth >= kMaxArrayDepth) {
      return InvalidArgument("{}: {} nests arrays deeper than {} levels", file_.path_, name,
                             kMaxArrayDepth);
    }
    for (uint64_t i = 0; i < elements.count; ++i) {
      TANDEM_ASSIGN_OR_RETURN(const ArrayHeader inner, ReadArrayHeader(name));
      TANDEM_RETURN_IF_ERROR(SkipElements(name, inner, depth + 1));
    }
    return absl::OkStatus();
  }

  absl::Status ReadAlignment() {
    TANDEM_ASSIGN_OR_RETURN(alignment_,
                            file_.U32Or("general.alignment", uint32_t{kDefaultAlignment}));
    if (!std::has_single_bit(alignment_) || alignment_ < kMinAlignment ||
        alignment_ > kMaxAlignment) {
      return InvalidArgument(
          "{}: key 'general.alignment' is {}, expected a power of two from {} to {}", file_.path_,
          alignment_, kMinAlignment, kMaxAlignment);
    }
    return absl::OkStatus();
  }

  absl::Status ReadTensor(uint64_t index) {
    TANDEM_ASSIGN_OR_RETURN(
        const std::string_view name,
        ReadString(fmt::format("the name of tensor {}", index), kMaxTensorNameBytes));
    if (name.empty()) {
      return InvalidArgument("{}: tensor {} has an empty name", file_.path_, index);
    }
    const std::string what = fmt::format("tensor '{}'", PrintableText(name));
    GgufTensor tensor;
    tensor.name = name;
    TANDEM_ASSIGN_OR_RETURN(const uint32_t rank, Read<uint32_t>(what));
    if (rank < 1 || rank > kGgufMaxDims) {
      return InvalidArgument("{}: {} has {} dimensions, expected 1 to {}", file_.path_, what, rank,
                             kGgufMaxDims);
    }
    tensor.rank = rank;
    uint64_t elements = 1;
    for (size_t i = 0; i < rank; ++i) {
      TANDEM_ASSIGN_OR_RETURN(const uint64_t dim, Read<uint64_t>(what));
      if (dim < 1 || __builtin_mul_overflow(elements, dim, &elements) ||
          elements > uint64_t{std::numeric_limits<int64_t>::max()} / 16) {
        return InvalidArgument(
            "{}: {} has {} elements in dimension {}, expected at least 1 and a product that fits "
            "in memory",
            file_.path_, what, dim, i);
      }
      tensor.dims[i] = static_cast<int64_t>(dim);
    }
    TANDEM_ASSIGN_OR_RETURN(const uint32_t number, Read<uint32_t>(what));
    const std::optional<DType> dtype = DTypeFromGgml(number);
    if (!dtype) {
      return InvalidArgument(
          "{}: {} has type {} ({}), expected F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0 or Q2_K "
          "to Q6_K; take a file quantized to one of these",
          file_.path_, what, ForeignTypeName(number), number);
    }
    tensor.dtype = *dtype;
    if (tensor.dims[0] % BlockElements(*dtype) != 0) {
      return InvalidArgument("{}: {} has rows of {} elements, expected a multiple of {} for {}",
                             file_.path_, what, tensor.dims[0], BlockElements(*dtype),
                             DTypeName(*dtype));
    }
    TANDEM_ASSIGN_OR_RETURN(const uint64_t offset, Read<uint64_t>(what));
    if (!file_.tensor_index_.emplace(name, file_.tensors_.size()).second) {
      return InvalidArgument("{}: {} occurs twice, expected once", file_.path_, what);
    }
    file_.tensors_.push_back(tensor);
    tensor_offsets_.push_back(offset);
    return absl::OkStatus();
  }

  /// Gives every tensor its bytes: aligned, inside the file, and nobody else's.
  absl::Status PlaceTensors() {
    const uint64_t padding = (alignment_ - offset_ % alignment_) % alignment_;
    file_.header_ = bytes_.first(offset_);
    if (file_.tensors_.empty()) return absl::OkStatus();
    if (padding > left()) return Truncated("the tensor data", padding);
    const std::span<const std::byte> data = bytes_.subspan(offset_ + padding);
    for (size_t i = 0; i < file_.tensors_.size(); ++i) {
      GgufTensor& tensor = file_.tensors_[i];
      const uint64_t offset = tensor_offsets_[i];
      // elements <= 2^59 and a block has at most 4 bytes an element: no overflow.
      const auto size = static_cast<uint64_t>(RowBytes(tensor.dtype, tensor.elements()));
      if (offset % alignment_ != 0) {
        return InvalidArgument("{}: tensor '{}' lies at offset {}, expected a multiple of {}",
                               file_.path_, PrintableText(tensor.name), offset, alignment_);
      }
      if (offset > data.size() || size > data.size() - offset) {
        return InvalidArgument(
            "{}: tensor '{}' needs {} bytes at offset {} of the tensor data, but the file holds "
            "only {} bytes of it; the file is truncated or damaged: fetch it again",
            file_.path_, PrintableText(tensor.name), size, offset, data.size());
      }
      tensor.data = data.subspan(offset, size);
    }
    return CheckOverlaps();
  }

  absl::Status CheckOverlaps() const {
    std::vector<const GgufTensor*> order;
    order.reserve(file_.tensors_.size());
    for (const GgufTensor& tensor : file_.tensors_) order.push_back(&tensor);
    std::sort(order.begin(), order.end(), [](const GgufTensor* a, const GgufTensor* b) {
      return a->data.data() < b->data.data();
    });
    for (size_t i = 1; i < order.size(); ++i) {
      const GgufTensor& before = *order[i - 1];
      const GgufTensor& after = *order[i];
      if (after.data.data() < before.data.data() + before.data.size()) {
        return InvalidArgument(
            "{}: tensors '{}' and '{}' overlap: {} bytes at byte {} of the file, and {} bytes at "
            "byte {}",
            file_.path_, PrintableText(before.name), PrintableText(after.name), before.data.size(),
            before.data.data() - bytes_.data(), after.data.size(),
            after.data.data() - bytes_.data());
      }
    }
    return absl::OkStatus();
  }

  GgufFile& file_;
  std::span<const std::byte> bytes_;
  uint64_t offset_ = 0;  // <= bytes_.size()
  uint32_t alignment_ = kDefaultAlignment;
  std::vector<uint64_t> tensor_offsets_;  // [tensors] from the start of the tensor data
};

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::OpenOne(const std::string& path) {
  std::unique_ptr<GgufFile> file(new GgufFile);
  auto mapping = MappedFile::Open(path);
  if (!mapping.ok()) return InvalidArgument("{}", Message(mapping.status()));
  file->mapping_ = *std::move(mapping);
  file->path_ = path;
  file->bytes_ = file->mapping_.bytes();
  file->all_bytes_ = static_cast<int64_t>(file->bytes_.size());
  TANDEM_RETURN_IF_ERROR(GgufParser(*file).Parse());
  for (GgufTensor& tensor : file->tensors_) tensor.mapping = &file->mapping_;
  return file;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::Open(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> file, OpenOne(path));
  TANDEM_RETURN_IF_ERROR(file->OpenOtherParts());
  return file;
}

absl::StatusOr<std::unique_ptr<GgufFile>> GgufFile::OpenBuffer(std::span<const std::byte> bytes,
                                                               std::string name) {
  std::unique_ptr<GgufFile> file(new GgufFile);
  file->path_ = std::move(name);
  file->bytes_ = bytes;
  file->all_bytes_ = static_cast<int64_t>(bytes.size());
  TANDEM_RETURN_IF_ERROR(GgufParser(*file).Parse());
  return file;
}

}  // namespace tandem::core
