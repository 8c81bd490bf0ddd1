#include "tests/support/read_file.h"

#include <gtest/gtest.h>

#include <fstream>
#include <iterator>

namespace tandem::testing {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path << " cannot be read";
  return {std::istreambuf_iterator<char>(file), {}};
}

}  // namespace tandem::testing
