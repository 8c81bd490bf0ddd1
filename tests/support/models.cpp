#include "tests/support/models.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

namespace tandem::testing {
namespace {

std::filesystem::path ModelFolder() {
  if (const char* folder = std::getenv("TANDEM_MODELS"); folder != nullptr) return folder;
  if (const char* cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache != '\0') {
    return std::filesystem::path(cache) / "tandem/models";
  }
  const char* home = std::getenv("HOME");
  return std::filesystem::path(home != nullptr ? home : "/") / ".cache/tandem/models";
}

}  // namespace

std::string ModelPath(std::string_view file_name) {
  const std::filesystem::path path = ModelFolder() / file_name;
  if (!std::filesystem::exists(path)) {
    ADD_FAILURE() << "model " << path << " is missing: run tests/run, which fetches it";
  }
  return path.string();
}

}  // namespace tandem::testing
