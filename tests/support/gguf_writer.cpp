#include "tests/support/gguf_writer.h"

#include <stdlib.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <utility>

namespace tandem::testing {
namespace {

using core::GgufType;

void AppendBytes(std::vector<std::byte>& out, const void* data, size_t size) {
  const size_t end = out.size();
  out.resize(end + size);
  if (size > 0) std::memcpy(out.data() + end, data, size);
}

template <typename T>
void Append(std::vector<std::byte>& out, T value) {
  AppendBytes(out, &value, sizeof(value));
}

void AppendString(std::vector<std::byte>& out, std::string_view text) {
  Append<uint64_t>(out, text.size());
  AppendBytes(out, text.data(), text.size());
}

void Pad(std::vector<std::byte>& out, size_t alignment) {
  out.resize((out.size() + alignment - 1) / alignment * alignment);
}

}  // namespace

void GgufWriter::AddEntry(std::string_view key, uint32_t type, std::span<const std::byte> value) {
  AppendString(metadata_, key);
  Append(metadata_, type);
  AppendBytes(metadata_, value.data(), value.size());
  ++entries_;
}

void GgufWriter::AddU32(std::string_view key, uint32_t value) {
  AddEntry(key, static_cast<uint32_t>(GgufType::kUint32), std::as_bytes(std::span(&value, 1)));
}

void GgufWriter::AddFloat(std::string_view key, float value) {
  AddEntry(key, static_cast<uint32_t>(GgufType::kFloat32), std::as_bytes(std::span(&value, 1)));
}

void GgufWriter::AddBool(std::string_view key, bool value) {
  const uint8_t byte = value ? 1 : 0;
  AddEntry(key, static_cast<uint32_t>(GgufType::kBool), std::as_bytes(std::span(&byte, 1)));
}

void GgufWriter::AddString(std::string_view key, std::string_view value) {
  std::vector<std::byte> bytes;
  AppendString(bytes, value);
  AddEntry(key, static_cast<uint32_t>(GgufType::kString), bytes);
}

void GgufWriter::AddArrayHeader(std::string_view key, GgufType element_type, size_t count) {
  AddEntry(key, static_cast<uint32_t>(GgufType::kArray), {});
  Append(metadata_, static_cast<uint32_t>(element_type));
  Append<uint64_t>(metadata_, count);
}

void GgufWriter::AddStrings(std::string_view key, std::span<const std::string> values) {
  AddArrayHeader(key, GgufType::kString, values.size());
  for (const std::string& value : values) AppendString(metadata_, value);
}

void GgufWriter::AddInts(std::string_view key, std::span<const int32_t> values) {
  AddArrayHeader(key, GgufType::kInt32, values.size());
  AppendBytes(metadata_, values.data(), values.size_bytes());
}

void GgufWriter::AddFloats(std::string_view key, std::span<const float> values) {
  AddArrayHeader(key, GgufType::kFloat32, values.size());
  AppendBytes(metadata_, values.data(), values.size_bytes());
}

void GgufWriter::AddBools(std::string_view key, std::span<const bool> values) {
  AddArrayHeader(key, GgufType::kBool, values.size());
  for (const bool value : values) Append<uint8_t>(metadata_, value ? 1 : 0);
}

void GgufWriter::AddTensor(std::string_view name, core::DType dtype, std::span<const int64_t> dims,
                           std::span<const std::byte> data) {
  std::vector<uint64_t> unsigned_dims(dims.begin(), dims.end());
  AddTensorRaw(name, static_cast<uint32_t>(dtype), unsigned_dims, data_.size());
  AppendBytes(data_, data.data(), data.size());
  Pad(data_, kAlignment);
}

void GgufWriter::AddTensorRaw(std::string_view name, uint32_t type, std::span<const uint64_t> dims,
                              uint64_t offset) {
  AppendString(tensor_table_, name);
  Append(tensor_table_, static_cast<uint32_t>(dims.size()));
  for (const uint64_t dim : dims) Append(tensor_table_, dim);
  Append(tensor_table_, type);
  Append(tensor_table_, offset);
  ++tensors_;
}

std::vector<std::byte> GgufWriter::Finish() const {
  std::vector<std::byte> file;
  AppendBytes(file, "GGUF", 4);
  Append(file, version_);
  Append(file, tensors_);
  Append(file, entries_);
  AppendBytes(file, metadata_.data(), metadata_.size());
  AppendBytes(file, tensor_table_.data(), tensor_table_.size());
  Pad(file, kAlignment);
  AppendBytes(file, data_.data(), data_.size());
  return file;
}

TempFile::TempFile(std::span<const std::byte> bytes, std::string_view suffix) {
  path_ = (std::filesystem::temp_directory_path() / "tandem-test-XXXXXX").string();
  path_ += suffix;
  const int fd = mkstemps(path_.data(), static_cast<int>(suffix.size()));
  if (fd < 0) throw std::runtime_error("cannot make a temporary file " + path_);
  while (!bytes.empty()) {
    const ssize_t written = write(fd, bytes.data(), bytes.size());
    if (written <= 0) {
      close(fd);
      unlink(path_.c_str());
      throw std::runtime_error("cannot write " + path_);
    }
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  close(fd);
}

TempFile::~TempFile() {
  if (!path_.empty()) unlink(path_.c_str());
}

TempFile::TempFile(TempFile&& other) noexcept : path_(std::exchange(other.path_, {})) {}

}  // namespace tandem::testing
