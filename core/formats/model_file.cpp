#include "core/formats/model_file.h"

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "core/formats/config_gguf.h"
#include "core/formats/expected_tensors.h"
#include "core/model/attention_text.h"
#include "core/model/kv_view.h"

namespace tandem::core {
namespace {

/// A running 64-bit hash: eight bytes a step, multiply and fold. Source of the mixing: wyhash's
/// 64 x 64 -> 128 bit multiply.
class SampleHash {
 public:
  void Add(std::span<const std::byte> bytes) {
    while (bytes.size() >= sizeof(uint64_t)) {
      uint64_t word;
      std::memcpy(&word, bytes.data(), sizeof(word));
      AddWord(word);
      bytes = bytes.subspan(sizeof(word));
    }
    uint64_t word = 0;
    if (!bytes.empty()) std::memcpy(&word, bytes.data(), bytes.size());
    AddWord(word ^ bytes.size());
  }

  void AddWord(uint64_t word) {
    const auto product = static_cast<Wide>(state_ ^ word) * kMultiplier;
    state_ = static_cast<uint64_t>(product) ^ static_cast<uint64_t>(product >> 64) ^ kOffset;
  }

  uint64_t value() const { return state_; }

 private:
  __extension__ using Wide = unsigned __int128;
  static constexpr uint64_t kMultiplier = 0x9E3779B97F4A7C15;  // 2^64 over the golden ratio
  static constexpr uint64_t kOffset = 0xD1B54A32D192ED03;
  uint64_t state_ = kOffset;
};

uint64_t Fingerprint(const GgufFile& file) {
  constexpr size_t kSampleBytes = 64;
  SampleHash hash;
  hash.Add(file.header());
  hash.AddWord(static_cast<uint64_t>(file.bytes()));
  for (const auto& part : file.other_parts()) hash.Add(part->header());
  for (const GgufTensor& tensor : file.tensors()) {
    const size_t size = std::min(kSampleBytes, tensor.data.size());
    const auto sample = tensor.data.subspan((tensor.data.size() - size) / 2, size);
    hash.Add(sample);
    // For these few bytes the system has mapped many pages.
    if (tensor.mapping != nullptr) tensor.mapping->Release(sample);
  }
  return hash.value();
}

uint64_t StampOf(const GgufFile& file) {
  SampleHash hash;
  const auto add = [&](const FileStamp& stamp) {
    hash.AddWord(stamp.device);
    hash.AddWord(stamp.number);
    for (const int64_t number :
         {stamp.bytes, stamp.written_nanoseconds, stamp.changed_nanoseconds}) {
      hash.AddWord(static_cast<uint64_t>(number));
    }
  };
  add(file.stamp());
  for (const auto& part : file.other_parts()) add(part->stamp());
  return hash.value();
}

absl::Status WrongShape(const GgufFile& file, const GgufTensor& tensor, std::string_view expected) {
  return InvalidArgument("{}: tensor '{}': expected {}, found {} {}", file.path(), tensor.name,
                         expected, DTypeName(tensor.dtype), tensor.ShapeText());
}

}  // namespace

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::Open(const std::string& path) {
  std::error_code ignored;
  if (path.ends_with(".safetensors") || std::filesystem::is_directory(path, ignored)) {
    return InvalidArgument(
        "{}: expected a .gguf file; folders and safetensors are not read yet: convert the model to "
        "GGUF first",
        path);
  }
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> gguf, GgufFile::Open(path));
  return FromGguf(std::move(gguf));
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::OpenBuffer(std::span<const std::byte> bytes,
                                                                 std::string name) {
  TANDEM_ASSIGN_OR_RETURN(std::unique_ptr<GgufFile> gguf,
                          GgufFile::OpenBuffer(bytes, std::move(name)));
  return FromGguf(std::move(gguf));
}

absl::StatusOr<std::unique_ptr<ModelFile>> ModelFile::FromGguf(std::unique_ptr<GgufFile> gguf) {
  std::unique_ptr<ModelFile> file(new ModelFile);
  absl::StatusOr<ModelConfig> config = ReadConfig(*gguf);
  if (!config.ok()) return DamagedInside(config.status());
  file->config_ = *std::move(config);
  TANDEM_RETURN_IF_ERROR(DamagedInside(CheckTensors(*gguf, file->config_)));
  // Whoever reads whole matrices says so.
  gguf->WillPick();
  file->fingerprint_ = Fingerprint(*gguf);
  file->stamp_ = StampOf(*gguf);
  file->gguf_ = std::move(gguf);
  return file;
}

absl::Status ModelFile::SetAttention(const AttentionForm& form) {
  if (form.window > config_.context) {
    return InvalidArgument(
        "{}: window={} is longer than the context of {} tokens of {}: give a window of at most {}",
        AttentionText(form), form.window, config_.context, path(), config_.context);
  }
  if (form.segment > config_.context) {
    return InvalidArgument(
        "{}: segment={} is longer than the context of {} tokens of {}: give a segment of at most "
        "{}",
        AttentionText(form), form.segment, config_.context, path(),
        config_.context / kPageTokens * kPageTokens);
  }
  if (form.infini() && (config_.alibi_max_bias > 0.0F || config_.Has("position_embd.weight"))) {
    return InvalidArgument(
        "{}: {} has {}, and this form turns keys by their place in a segment: give dense or sparse",
        AttentionText(form), path(), config_.alibi_max_bias > 0.0F ? "ALiBi" : "learned positions");
  }
  config_.attention = form;
  return absl::OkStatus();
}

absl::StatusOr<MatrixSource> ModelFile::Matrix(std::string_view name, int64_t rows,
                                               int64_t columns) const {
  const GgufTensor* tensor = gguf_->FindTensor(name);
  const std::string expected = fmt::format("a matrix [{}, {}]", rows, columns);
  if (tensor == nullptr) {
    return NotFound("{}: tensor '{}' is missing, expected {}", path(), name, expected);
  }
  if (tensor->dims != std::array<int64_t, kGgufMaxDims>{columns, rows, 1, 1}) {
    return WrongShape(*gguf_, *tensor, expected);
  }
  return MatrixSource{tensor->name, tensor->dtype, tensor->data.data(),
                      rows,         columns,       tensor->mapping};
}

absl::StatusOr<std::vector<float>> ModelFile::Vector(std::string_view name, int64_t n) const {
  const GgufTensor* tensor = gguf_->FindTensor(name);
  const std::string expected = fmt::format("a vector [{}] of F32, F16 or BF16", n);
  if (tensor == nullptr) {
    return NotFound("{}: tensor '{}' is missing, expected {}", path(), name, expected);
  }
  if (tensor->dims != std::array<int64_t, kGgufMaxDims>{n, 1, 1, 1} ||
      BlockElements(tensor->dtype) != 1) {
    return WrongShape(*gguf_, *tensor, expected);
  }
  std::vector<float> values(static_cast<size_t>(n));
  Dequantize(tensor->dtype, tensor->data.data(), n, values.data());
  return values;
}

}  // namespace tandem::core
