#include "tests/support/disk_image.h"

#include <chrono>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <optional>
#include <stdexcept>
#include <thread>

namespace tandem::testing {
namespace {

namespace fs = std::filesystem;
using Contents = std::map<fs::path, std::string>;

/// Nothing where a file went away meanwhile.
std::optional<Contents> Read(const fs::path& directory) {
  Contents contents;
  std::error_code error;
  for (auto file = fs::recursive_directory_iterator(directory, error);
       !error && file != fs::recursive_directory_iterator(); file.increment(error)) {
    std::string& bytes = contents[file->path().lexically_relative(directory)];
    if (fs::is_directory(file->path(), error)) continue;
    std::ifstream stream(file->path(), std::ios::binary);
    if (!stream) return std::nullopt;
    bytes.assign(std::istreambuf_iterator<char>(stream), {});
  }
  if (error) return std::nullopt;
  return contents;
}

}  // namespace

void CopyAsOfAMoment(const std::string& from, const std::string& to) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (std::chrono::steady_clock::now() < end) {
    fs::remove_all(to);
    std::error_code error;
    fs::copy(from, to, fs::copy_options::recursive, error);
    // All was copied before any of it is read again: equal bytes are those of the time between.
    if (!error) {
      const std::optional<Contents> now = Read(from);
      if (now && now == Read(to)) return;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  throw std::runtime_error("'" + from + "' changes without a pause, so that no image of it is one");
}

}  // namespace tandem::testing
