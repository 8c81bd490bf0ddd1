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

absl::Status LinkFiles(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::create_directory(to, error);
  if (!error) fs::permissions(to, fs::perms::owner_all, error);
  for (auto entry = fs::directory_iterator(from, error);
       !error && entry != fs::directory_iterator(); entry.increment(error)) {
    if (!entry->is_regular_file() || entry->path().filename() == "LOCK") continue;
    error = LinkOrCopy(entry->path(), to / entry->path().filename());
  }
  if (!error) return absl::OkStatus();
  static_cast<void>(Remove(to));
  return Unavailable("linking the files of {} in {}: {}", from, to, error.message());
}

}  // namespace

bool DatabaseIsThere(const std::string& folder) {
  return Exists(folder) || Exists(folder + ".new") || Exists(folder + kImage);
}

absl::Status TakeImage(const std::string& folder) {
  TANDEM_RETURN_IF_ERROR(Remove(folder + kPart));
  if (Exists(folder + kImage)) TANDEM_RETURN_IF_ERROR(RestoreImage(folder));
  // A crash between two renames.
  if (!Exists(folder) && Exists(folder + ".new")) {
    TANDEM_RETURN_IF_ERROR(Rename(folder + ".new", folder));
  }
  if (!Exists(folder)) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(LinkFiles(folder, folder + kPart));
  return Rename(folder + kPart, folder + kImage);
}

bool HasImage(const std::string& folder) { return Exists(folder + kImage); }

absl::Status RestoreImage(const std::string& folder) {
  if (!Exists(folder + kImage)) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(Remove(folder));
  return Rename(folder + kImage, folder);
}

std::string KeepImage(const std::string& folder) {
  if (!Exists(folder + kImage)) return "";
  std::string aside = FreeName(folder, "damaged");
  const absl::Status status = Rename(folder + kImage, aside);
  if (status.ok()) return aside;
  spdlog::error("{}", Message(status));
  return "";
}

void DropImage(const std::string& folder) {
  if (!Exists(folder + kImage)) return;
  // Renamed first: what is half removed is no image.
  absl::Status status = Rename(folder + kImage, folder + kPart);
  if (status.ok()) status = Remove(folder + kPart);
  if (!status.ok()) spdlog::warn("{}", Message(status));
}

absl::Status DiscardFiles(const std::string& folder) {
  if (Exists(folder + kImage)) return Remove(folder);
  const std::string aside = FreeName(folder, "damaged");
  TANDEM_RETURN_IF_ERROR(Rename(folder, aside));
  spdlog::error("{} is kept in {}", folder, aside);
  return absl::OkStatus();
}

}  // namespace tandem::kv_store
