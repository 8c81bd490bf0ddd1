#include "launcher/commands/npy_writer.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "core/base/errno_text.h"

namespace tandem::launcher {

absl::StatusOr<std::unique_ptr<NpyWriter>> NpyWriter::Create(const std::string& path, int64_t rows,
                                                             int64_t columns) {
  // What is no file (a device, a pipe) is written to, and not replaced by a file.
  struct stat facts {};
  const bool replaces = stat(path.c_str(), &facts) != 0 || S_ISREG(facts.st_mode);
  const std::string temporary = replaces ? fmt::format("{}.{}.part", path, getpid()) : path;
  std::FILE* file = std::fopen(temporary.c_str(), "wb");
  if (file == nullptr) {
    return FailedPrecondition("{}: cannot be written: {}", path, ErrnoText(errno));
  }
  std::unique_ptr<NpyWriter> writer(new NpyWriter(path, temporary, file, rows));

  std::string header =
      fmt::format("{{'descr': '<f4', 'fortran_order': False, 'shape': ({}, {}), }}", rows, columns);
  constexpr size_t kPrefix = 10;  // magic, version, length of the header
  constexpr size_t kAlignment = 64;
  while ((kPrefix + header.size() + 1) % kAlignment != 0) header += ' ';
  header += '\n';
  const auto size = static_cast<uint16_t>(header.size());
  const char prefix[kPrefix] = {'\x93',
                                'N',
                                'U',
                                'M',
                                'P',
                                'Y',
                                1,
                                0,
                                static_cast<char>(size & 0xff),
                                static_cast<char>(size >> 8)};
  if (std::fwrite(prefix, 1, kPrefix, file) != kPrefix ||
      std::fwrite(header.data(), 1, header.size(), file) != header.size()) {
    return FailedPrecondition("{}: cannot be written: {}", path, ErrnoText(errno));
  }
  return writer;
}

NpyWriter::~NpyWriter() {
  if (file_ == nullptr) return;
  std::fclose(file_);
  RemoveTemporary();
}

void NpyWriter::RemoveTemporary() {
  if (temporary_ != path_) std::remove(temporary_.c_str());
}

void NpyWriter::Append(std::span<const float> row) {
  --missing_rows_;
  if (status_.ok() && std::fwrite(row.data(), sizeof(float), row.size(), file_) != row.size()) {
    status_ = FailedPrecondition("{}: cannot be written: {}", path_, ErrnoText(errno));
  }
}

absl::Status NpyWriter::Finish() {
  TANDEM_RETURN_IF_ERROR(status_);
  if (missing_rows_ != 0) {
    return Internal("{}: {} rows of logits did not come", path_, missing_rows_);
  }
  const bool closed = std::fclose(file_) == 0;
  file_ = nullptr;
  const bool renames = temporary_ != path_;
  if (!closed || (renames && std::rename(temporary_.c_str(), path_.c_str()) != 0)) {
    const int error = errno;
    RemoveTemporary();
    return FailedPrecondition("{}: cannot be written: {}", path_, ErrnoText(error));
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
