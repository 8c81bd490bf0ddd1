#include <filesystem>
#include <system_error>
#include <utility>

#include "core/formats/gguf.h"

/// Models in several files, as llama.cpp's gguf-split writes them: the first has the metadata.
namespace tandem::core {

absl::Status GgufFile::OpenOtherParts() {
  constexpr uint32_t kMostParts = 999;
  constexpr std::string_view kCount = "split.count";
  constexpr std::string_view kNumber = "split.no";
  const absl::StatusOr<uint32_t> told_count = U32Or(kCount, 1);
  const absl::StatusOr<uint32_t> told_number = U32Or(kNumber, 0);
  if (!told_count.ok()) return DamagedInside(told_count.status());
  if (!told_number.ok()) return DamagedInside(told_number.status());
  const uint32_t count = *told_count;
  const uint32_t number = *told_number;
  // A file that was merged of parts says 0.
  if (count <= 1 && number == 0) return CheckTensorCount();
  if (count > kMostParts || number >= count) {
    return absl::DataLossError(
        fmt::format("{}: keys '{}' and '{}' are {} and {}, expected part 0 to {} of {} at most",
                    path_, kNumber, kCount, number, count, count - 1, kMostParts));
  }
  const auto name = [count](uint32_t part) {
    return fmt::format("-{:05}-of-{:05}.gguf", part + 1, count);
  };
  const std::string own = name(number);
  if (!path_.ends_with(own)) {
    return InvalidArgument(
        "{}: this is part {} of {} (key '{}'), but its name does not end with {}, by which the "
        "other parts are found; give all parts their names back",
        path_, number + 1, count, kCount, own);
  }
  const std::string stem = path_.substr(0, path_.size() - own.size());
  if (number != 0) {
    return InvalidArgument("{}: this is part {} of {}; give the first part, {}", path_, number + 1,
                           count, stem + name(0));
  }
  for (uint32_t part = 1; part < count; ++part) {
    const std::string path = stem + name(part);
    absl::StatusOr<std::unique_ptr<GgufFile>> other = OpenOne(path);
    if (!other.ok()) {
      std::error_code ignored;
      const bool missing = !std::filesystem::exists(path, ignored);
      return absl::Status(
          missing ? absl::StatusCode::kInvalidArgument : absl::StatusCode::kDataLoss,
          fmt::format("{} (part {} of {})", Message(other.status()), part + 1, count));
    }
    const uint32_t its_number = (*other)->U32Or(kNumber, 0).value_or(count);
    const uint32_t its_count = (*other)->U32Or(kCount, 1).value_or(0);
    if (its_number != part || its_count != count) {
      return absl::DataLossError(fmt::format(
          "{}: keys '{}' and '{}' are {} and {}, expected {} and {}: it is a part of another model",
          path, kNumber, kCount, its_number, its_count, part, count));
    }
    TANDEM_RETURN_IF_ERROR(DamagedInside(Take(*std::move(other))));
  }
  return CheckTensorCount();
}

absl::Status GgufFile::CheckTensorCount() const {
  constexpr std::string_view kTensors = "split.tensors.count";
  const absl::StatusOr<int64_t> told = Integer(kTensors);
  if (absl::IsNotFound(told.status())) return absl::OkStatus();
  if (!told.ok()) return DamagedInside(told.status());
  if (*told != static_cast<int64_t>(tensors_.size())) {
    return absl::DataLossError(fmt::format(
        "{}: key '{}' is {}, but {} {} tensors; fetch the model again", path_, kTensors, *told,
        parts_.empty() ? "the file has" : "all parts together have", tensors_.size()));
  }
  return absl::OkStatus();
}

absl::Status GgufFile::Take(std::unique_ptr<GgufFile> part) {
  for (const GgufTensor& tensor : part->tensors_) {
    if (!tensor_index_.emplace(tensor.name, tensors_.size()).second) {
      return InvalidArgument("{}: tensor '{}' is in another part already, expected once",
                             part->path_, PrintableText(tensor.name));
    }
    tensors_.push_back(tensor);
  }
  all_bytes_ += part->all_bytes_;
  parts_.push_back(std::move(part));
  return absl::OkStatus();
}

}  // namespace tandem::core
