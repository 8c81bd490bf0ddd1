#include "kv_store/journal/database_image.h"

#include <spdlog/spdlog.h>

#include <filesystem>
#include <system_error>

#include "kv_store/base/files.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr const char* kImage = ".before";  // whole, whenever it is there
constexpr const char* kPart = ".linking";  // not yet, or no longer
/// A file beside an image that this program took. Without it, a folder of that name is somebody's
/// own, an older copy perhaps.
constexpr const char* kMark = ".opening";

/// A link, or where the file system has none, a copy.
std::error_code LinkOrCopy(const fs::path& from, const fs::path& to) {
  std::error_code error;
  fs::create_hard_link(from, to, error);
  if (error) {
    error.clear();
    fs::copy_file(from, to, error);
  }
  return error;
}

/// From now on, and after a loss of power, it is no image.
absl::Status MoveImage(const std::string& folder, const std::string& to) {
  TANDEM_RETURN_IF_ERROR(Rename(folder + kImage, to));
  TANDEM_RETURN_IF_ERROR(Remove(folder + kMark));
  return SyncFolder(FolderOf(folder));
}

}  // namespace

absl::Status LinkFiles(const std::string& from, const std::string& to, std::string_view only) {
  std::error_code error;
  fs::create_directories(to, error);
  if (!error) fs::permissions(to, fs::perms::owner_all, error);
  for (auto entry = fs::directory_iterator(from, error);
       !error && entry != fs::directory_iterator(); entry.increment(error)) {
    const std::string name = entry->path().filename();
    if (!entry->is_regular_file() || name == "LOCK" || (!only.empty() && name != only)) continue;
    error = LinkOrCopy(entry->path(), fs::path(to) / name);
  }
  if (!error) return absl::OkStatus();
  static_cast<void>(Remove(to));
  return Unavailable("linking the files of {} in {}: {}", from, to, error.message());
}

bool DatabaseIsThere(const std::string& folder) {
  return Exists(folder) || Exists(folder + kRenewed) || Exists(folder + kImage);
}

absl::StatusOr<std::string> MakeWayForDatabase(const std::string& folder) {
  TANDEM_RETURN_IF_ERROR(MakeWay(folder + kMark, FileKind::kFile));
  for (const char* suffix : {kPart, kRenewed, kUnfinished, kTrialFolder}) {
    TANDEM_RETURN_IF_ERROR(MakeWay(folder + suffix, FileKind::kFolder));
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string moved, MakeWay(folder, FileKind::kFolder, folder));
  if (!moved.empty()) spdlog::warn("{}", moved);
  TANDEM_ASSIGN_OR_RETURN(const std::string within, MakeWayInFolder(folder));
  return fmt::format("{}{}{}", moved, moved.empty() || within.empty() ? "" : "; ", within);
}

absl::Status TakeImage(const std::string& folder) {
  for (const char* unfinished : {kPart, kUnfinished, kTrialFolder}) {
    TANDEM_RETURN_IF_ERROR(Remove(folder + unfinished));
  }
  std::error_code error;
  const bool is_folder =
      fs::symlink_status(folder + kImage, error).type() == fs::file_type::directory;
  if (is_folder && Exists(folder + kMark)) {
    TANDEM_RETURN_IF_ERROR(RestoreImage(folder));
  } else if (Exists(folder + kImage)) {
    const std::string aside = FreeName(folder, "aside");
    TANDEM_RETURN_IF_ERROR(Rename(folder + kImage, aside));
    spdlog::warn("{}{} is of no start that was interrupted; it is kept in {}", folder, kImage,
                 aside);
  }
  // A crash between two renames.
  if (!Exists(folder) && Exists(folder + kRenewed)) {
    TANDEM_RETURN_IF_ERROR(Rename(folder + kRenewed, folder));
  }
  if (!Exists(folder)) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(LinkFiles(folder, folder + kPart));
  TANDEM_RETURN_IF_ERROR(WriteWholeFile(folder + kMark, ""));
  return Rename(folder + kPart, folder + kImage);
}

bool HasImage(const std::string& folder) { return Exists(folder + kImage); }

std::string FilesBefore(const std::string& folder) {
  return HasImage(folder) ? folder + kImage : folder;
}

absl::Status RestoreImage(const std::string& folder) {
  if (!Exists(folder + kImage)) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(Remove(folder));
  return MoveImage(folder, folder);
}

absl::StatusOr<std::string> KeepImage(const std::string& folder) {
  if (!Exists(folder + kImage)) return "";
  std::string aside = FreeName(folder, "damaged");
  TANDEM_RETURN_IF_ERROR(MoveImage(folder, aside));
  return aside;
}

absl::Status DropImage(const std::string& folder) {
  if (!Exists(folder + kImage)) return absl::OkStatus();
  // Renamed first: what is half removed is no image.
  TANDEM_RETURN_IF_ERROR(MoveImage(folder, folder + kPart));
  if (const absl::Status status = Remove(folder + kPart); !status.ok()) {
    spdlog::warn("{}", Message(status));
  }
  return absl::OkStatus();
}

absl::Status DiscardFiles(const std::string& folder) {
  if (Exists(folder + kImage)) return Remove(folder);
  const std::string aside = FreeName(folder, "damaged");
  TANDEM_RETURN_IF_ERROR(Rename(folder, aside));
  spdlog::error("{} is kept in {}", folder, aside);
  return absl::OkStatus();
}

}  // namespace tandem::kv_store
