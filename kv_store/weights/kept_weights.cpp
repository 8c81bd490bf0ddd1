#include "kv_store/weights/kept_weights.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "core/base/counted.h"
#include "core/base/errno_text.h"
#include "kv_store/base/files.h"

namespace tandem::kv_store {
namespace {

int64_t RoundUp(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

/// Where matrices of those bytes end at the latest, one after the other.
int64_t EndOf(const std::vector<int64_t>& matrices) {
  int64_t end = kKeptHeadBytes;
  for (const int64_t bytes : matrices) end += RoundUp(bytes, kKeptAlignment);
  return end;
}

absl::Status Damaged(std::string_view what) { return absl::DataLossError(std::string(what)); }

/// All of it, or kDataLoss.
absl::Status ReadAt(int file, int64_t offset, std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t got = pread(file, bytes.data(), bytes.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got <= 0) return Damaged(got == 0 ? "it is cut short" : ErrnoText(errno));
    offset += got;
    bytes = bytes.subspan(static_cast<size_t>(got));
  }
  return absl::OkStatus();
}

absl::Status WriteAt(int file, int64_t offset, std::span<const std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t written = pwrite(file, bytes.data(), bytes.size(), offset);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return ResourceExhausted("it cannot be written: {}", ErrnoText(errno));
    offset += written;
    bytes = bytes.subspan(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

/// What a file is, before any of its bytes are read. Its size.
absl::StatusOr<int64_t> CheckFacts(int file, bool in_memory) {
  struct stat facts {};
  if (fstat(file, &facts) != 0) return Damaged(ErrnoText(errno));
  if ((facts.st_mode & (S_IRWXG | S_IRWXO)) != 0) {
    return Damaged(fmt::format("others may use it (mode {:04o})", facts.st_mode & 07777U));
  }
  if (facts.st_nlink > 1) return Damaged("it has another name, too (a hard link)");
  // Whoever reads a hole of a file in memory has it filled, and is killed where there is no room.
  constexpr int64_t kBlockBytes = 512;
  if (in_memory && facts.st_blocks * kBlockBytes < facts.st_size) return Damaged("it has holes");
  return facts.st_size;
}

/// What is no file of ours goes, too, but for folders and the like, which are kept aside.
absl::Status Drop(const std::string& path) {
  if (unlink(path.c_str()) == 0 || errno == ENOENT) return absl::OkStatus();
  return MakeWay(path, FileKind::kFile);
}

}  // namespace

int64_t KeptWeights::FileBytes(std::string_view key, const std::vector<int64_t>& matrices) {
  const int64_t end = EndOf(matrices);
  return RoundUp(end + MostIndexBytes(key.size(), matrices.size(), end), WeightRegion::kHugePage);
}

absl::StatusOr<std::unique_ptr<KeptWeights>> KeptWeights::Open(Options options) {
  std::unique_ptr<KeptWeights> weights(new KeptWeights(std::move(options)));
  const std::string& path = weights->options_.path;
  const absl::Status found = weights->OpenFound();
  weights->found_ = found.ok();
  if (!found.ok()) {
    if (!absl::IsNotFound(found)) {
      spdlog::warn("{}; these weights are removed, and read from the model anew", Message(found));
      if (const absl::Status gone = Drop(path); !gone.ok()) {
        return ResourceExhausted("{}: it is in the way: {}", path, Message(gone));
      }
    }
    weights->region_ = {};
    weights->index_ = {};
    if (weights->file_ >= 0) close(std::exchange(weights->file_, -1));
    TANDEM_RETURN_IF_ERROR(weights->Begin());
  }
  if (weights->found_) {
    if (weights->options_.in_memory) weights->FindHugePages();
    weights->region_.Protect();
  }
  return weights;
}

KeptWeights::~KeptWeights() {
  stop_ = true;
  if (writer_.joinable()) writer_.join();
  if (!temporary_.empty()) unlink(temporary_.c_str());
  if (file_ >= 0) close(file_);
}

absl::Status KeptWeights::OpenFound() {
  // It says what is wrong with a name that is no file of ours.
  TANDEM_ASSIGN_OR_RETURN(file_, OpenOwnFile(options_.path, O_RDONLY));
  // Whoever removes it to make room has it locked.
  if (flock(file_, LOCK_SH | LOCK_NB) != 0) return NotFound("{}: it goes", options_.path);
  if (const absl::Status status = ReadFound(); !status.ok()) {
    return absl::Status(status.code(), fmt::format("{}: {}", options_.path, Message(status)));
  }
  // Which of those that nobody holds was used last.
  futimens(file_, nullptr);
  return absl::OkStatus();
}

absl::Status KeptWeights::ReadFound() {
  TANDEM_ASSIGN_OR_RETURN(const int64_t bytes, CheckFacts(file_, options_.in_memory));
  TANDEM_RETURN_IF_ERROR(ReadHead(bytes));
  TANDEM_ASSIGN_OR_RETURN(region_, options_.in_memory
                                       ? WeightRegion::OfFile(file_, bytes, /*writable=*/false)
                                       : WeightRegion::Private(bytes));
  return CheckPieces();
}

absl::Status KeptWeights::ReadHead(int64_t file_bytes) {
  KeptHeadBytes head{};
  TANDEM_RETURN_IF_ERROR(ReadAt(file_, 0, head));
  TANDEM_ASSIGN_OR_RETURN(head_, DecodeKeptHead(head));
  if (head_.file_bytes != file_bytes) {
    return Damaged(fmt::format("it has {} bytes, expected {}", file_bytes, head_.file_bytes));
  }
  std::vector<std::byte> index(static_cast<size_t>(head_.index_bytes));
  TANDEM_RETURN_IF_ERROR(ReadAt(file_, head_.index_begin, index));
  if (HashOf(index) != head_.index_checksum) return Damaged("its index is damaged");
  TANDEM_ASSIGN_OR_RETURN(index_, DecodeKeptIndex(index, head_.index_begin));
  if (index_.key != options_.key) {
    return Damaged(fmt::format("it is of \"{}\", expected \"{}\"", index_.key, options_.key));
  }
  return absl::OkStatus();
}

std::span<const std::byte> KeptWeights::Piece(int64_t piece) const {
  const KeptPiece place = KeptPieceAt(piece, index_.end);
  return region_.bytes().subspan(static_cast<size_t>(place.begin),
                                 static_cast<size_t>(place.bytes));
}

absl::Status KeptWeights::CheckPieces() {
  std::atomic<int64_t> damaged = -1;
  options_.run(KeptPieces(index_.end), [&](int64_t piece) {
    const auto bytes = Piece(piece);
    bool good = true;
    if (!options_.in_memory) {
      auto* const to = const_cast<std::byte*>(bytes.data());
      good = ReadAt(file_, KeptPieceAt(piece, index_.end).begin, {to, bytes.size()}).ok();
    }
    if (!good || HashOf(bytes) != index_.checksums[static_cast<size_t>(piece)]) damaged = piece;
  });
  if (damaged < 0) return absl::OkStatus();
  const KeptPiece place = KeptPieceAt(damaged, index_.end);
  return Damaged(
      fmt::format("its bytes {} to {} are damaged", place.begin, place.begin + place.bytes - 1));
}

absl::Status KeptWeights::Begin() {
  const int64_t bytes = FileBytes(options_.key, options_.matrices);
  index_.key = options_.key;
  index_.end = kKeptHeadBytes;
  head_.file_bytes = bytes;
  const std::string folder = FolderOf(options_.path);
  // Without a name nothing is left of it if this process is killed.
  file_ = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, S_IRUSR | S_IWUSR);
  if (file_ < 0) {
    temporary_ = fmt::format("{}/{}XXXXXX", folder, kUnfinishedWeights);
    file_ = mkostemp(temporary_.data(), O_CLOEXEC);
  }
  if (file_ < 0) {
    temporary_.clear();
    return ResourceExhausted("{}: {}", folder, ErrnoText(errno));
  }
  flock(file_, LOCK_SH);
  if (!options_.in_memory) {
    TANDEM_ASSIGN_OR_RETURN(region_, WeightRegion::Private(bytes));
    return absl::OkStatus();
  }
  if (ftruncate(file_, bytes) != 0) return ResourceExhausted("{}: {}", folder, ErrnoText(errno));
  TANDEM_ASSIGN_OR_RETURN(region_, WeightRegion::OfFile(file_, bytes, /*writable=*/true));
  absl::Status filled = options_.may_collapse ? region_.Fill(options_.run)
                                              : Unimplemented("this system collapses nothing");
  if (absl::IsUnimplemented(filled)) {
    const int error = posix_fallocate(file_, 0, bytes);
    filled = error == 0 ? absl::OkStatus() : ResourceExhausted("{}", ErrnoText(error));
  }
  if (filled.ok()) return filled;
  return ResourceExhausted("{}: {}", folder, Message(filled));
}

absl::StatusOr<core::PackedMemory::Place> KeptWeights::Take(std::string_view name, int64_t bytes) {
  const uint64_t hash = HashOf(std::as_bytes(std::span(name)));
  if (found_) {
    if (next_ == index_.matrices.size() || index_.matrices[next_].name != hash ||
        index_.matrices[next_].bytes != bytes) {
      return Damaged(fmt::format("{}: it has other matrices", options_.path));
    }
    return Place{.data = region_.bytes().data() + index_.matrices[next_++].begin, .filled = true};
  }
  const int64_t begin = RoundUp(index_.end, kKeptAlignment);
  if (bytes < 0 || bytes > EndOf(options_.matrices) - begin ||
      index_.matrices.size() == options_.matrices.size()) {
    return ResourceExhausted("{}: {} bytes more are wanted than there is room for", options_.path,
                             bytes);
  }
  index_.matrices.push_back({hash, begin, bytes});
  index_.end = begin + bytes;
  return Place{.data = region_.bytes().data() + begin};
}

absl::Status KeptWeights::Finish() {
  if (found_) {
    if (next_ == index_.matrices.size()) return absl::OkStatus();
    return Damaged(fmt::format("{}: it has more matrices", options_.path));
  }
  index_.checksums.resize(static_cast<size_t>(KeptPieces(index_.end)));
  options_.run(KeptPieces(index_.end), [&](int64_t piece) {
    index_.checksums[static_cast<size_t>(piece)] = HashOf(Piece(piece));
  });
  const std::vector<std::byte> index = EncodeKeptIndex(index_);
  head_.index_begin = RoundUp(index_.end, kKeptAlignment);
  head_.index_bytes = static_cast<int64_t>(index.size());
  head_.index_checksum = HashOf(index);
  const KeptHeadBytes head = EncodeKeptHead(head_);
  std::byte* const begin = region_.bytes().data();
  std::memcpy(begin + head_.index_begin, index.data(), index.size());
  std::memcpy(begin, head.data(), head.size());
  if (options_.in_memory) FindHugePages();
  region_.Protect();
  if (options_.in_memory) {
    written_ = GiveName();
    return written_;
  }
  writer_ = std::thread([this] {
    written_ = WriteFile();
    if (!written_.ok() && !stop_) {
      spdlog::warn("{}: the weights are not kept: {}", options_.path, Message(written_));
    }
  });
  return absl::OkStatus();
}

void KeptWeights::FindHugePages() {
  constexpr int64_t kEnough = 8;  // all but one part in so many
  const auto bytes = static_cast<int64_t>(region_.bytes().size());
  if (options_.may_collapse) region_.Collapse(options_.run);
  if (region_.HugeBytes() > bytes - bytes / kEnough) return;
  if (options_.may_copy && PrivateMemoryMayBeHuge() && region_.MakePrivate(options_.run).ok()) {
    spdlog::info("{}: the system makes no huge pages of it; this rank has a copy on such",
                 options_.path);
  }
}

absl::Status KeptWeights::WriteFile() {
  const auto all = std::span<const std::byte>(region_.bytes());
  for (size_t begin = 0; begin < all.size() && !stop_; begin += kKeptPieceBytes) {
    const size_t bytes = std::min<size_t>(kKeptPieceBytes, all.size() - begin);
    TANDEM_RETURN_IF_ERROR(WriteAt(file_, static_cast<int64_t>(begin), all.subspan(begin, bytes)));
  }
  return stop_ ? absl::CancelledError("the process ends") : GiveName();
}

absl::Status KeptWeights::GiveName() {
  const std::string from = temporary_.empty() ? fmt::format("/proc/self/fd/{}", file_) : temporary_;
  // Another may have come first (a rank of before that still ends): then his stays.
  if (linkat(AT_FDCWD, from.c_str(), AT_FDCWD, options_.path.c_str(), AT_SYMLINK_FOLLOW) != 0 &&
      errno != EEXIST) {
    return ResourceExhausted("{}: {}", options_.path, ErrnoText(errno));
  }
  if (!temporary_.empty()) unlink(std::exchange(temporary_, "").c_str());
  return absl::OkStatus();
}

absl::Status KeptWeights::AwaitWritten() {
  if (writer_.joinable()) writer_.join();
  return written_;
}

bool RemoveUnlessHeld(const std::string& path) {
  const int file = open(path.c_str(), O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
  if (file < 0) return false;
  const bool removed = flock(file, LOCK_EX | LOCK_NB) == 0 && unlink(path.c_str()) == 0;
  close(file);
  return removed;
}

}  // namespace tandem::kv_store
