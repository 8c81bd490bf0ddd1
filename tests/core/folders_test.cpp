#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <regex>
#include <sstream>
#include <set>
#include <string>
#include <vector>

/// Checks the house: a folder includes only folders that stand before it, and keeps out what does
/// not belong to it.
namespace tandem {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kOrder = {"core", "kv_store", "parallel", "frontend", "launcher"};

/// Beginnings of included files that a folder must not reach for itself.
const std::map<std::string, std::vector<std::string>> kForbidden = {
    {"core",
     {"mpi.h", "zmq", "sys/socket.h", "netinet/", "arpa/", "netdb.h", "nlohmann/", "spdlog/",
      "boost/", "CLI/", "rocksdb/", "hiredis/", "sodium"}},
    {"kv_store", {"mpi.h", "nlohmann/", "boost/", "CLI/"}},
    {"parallel", {"nlohmann/", "boost/", "CLI/", "rocksdb/", "hiredis/", "pcre2", "utf8proc"}},
    {"frontend", {"mpi.h", "nccl", "cuda", "CLI/"}},
    {"launcher", {"mpi.h", "nccl"}},
};

/// What `#include` lines of a file name, with or without quotes.
std::vector<std::string> IncludesOf(const std::string& text) {
  static const std::regex kInclude(R"(^\s*#\s*include\s*[<"]([^>"]+)[>"])");
  std::vector<std::string> includes;
  std::istringstream lines(text);
  for (std::string line; std::getline(lines, line);) {
    std::smatch match;
    if (std::regex_search(line, match, kInclude)) includes.push_back(match[1]);
  }
  return includes;
}

/// What is wrong with the includes of a file in `folder`: one line each.
std::vector<std::string> Violations(const std::string& folder, const std::string& text) {
  const auto place = std::find(kOrder.begin(), kOrder.end(), folder);
  std::vector<std::string> violations;
  for (const std::string& include : IncludesOf(text)) {
    const std::string first = include.substr(0, include.find('/'));
    const auto included = std::find(kOrder.begin(), kOrder.end(), first);
    if (included != kOrder.end() && included > place && include != first) {
      violations.push_back(folder + "/ includes " + include + ", which stands after it");
    }
    if (first == "tests" || include.find("..") == 0) {
      violations.push_back(folder + "/ includes " + include + "; name files from the root");
    }
    for (const std::string& forbidden : kForbidden.at(folder)) {
      if (include.find(forbidden) == 0) {
        violations.push_back(folder + "/ includes " + include + ", which does not belong there");
      }
    }
  }
  return violations;
}

bool IsSource(const fs::path& path) {
  static const std::vector<std::string> kExtensions = {".h", ".cpp", ".cu", ".cuh"};
  return std::find(kExtensions.begin(), kExtensions.end(), path.extension()) != kExtensions.end();
}

std::string ReadText(const fs::path& path) {
  std::ifstream in(path);
  std::ostringstream text;
  text << in.rdbuf();
  return text.str();
}

TEST(Folders, IncludeOnlyWhatStandsBefore) {
  const fs::path root = TANDEM_SOURCE_DIR;
  for (const std::string& folder : kOrder) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
      for (const std::string& violation : Violations(folder, ReadText(entry.path()))) {
        ADD_FAILURE() << entry.path().string() << ": " << violation;
      }
    }
  }
}

TEST(Folders, MpiIsCalledByItsCommunicatorAlone) {
  const fs::path root = TANDEM_SOURCE_DIR;
  std::set<std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / "parallel")) {
    if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
    const std::vector<std::string> includes = IncludesOf(ReadText(entry.path()));
    if (std::count(includes.begin(), includes.end(), "mpi.h") != 0) {
      files.insert(entry.path().filename());
    }
  }
  // The exchange between hosts is a part of the communicator.
  EXPECT_EQ(files, (std::set<std::string>{"host_exchange.h", "mpi_communicator.cpp"}));
}

TEST(Folders, EveryHeaderIsIncludedOnce) {
  const fs::path root = TANDEM_SOURCE_DIR;
  for (const std::string& folder : kOrder) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (entry.path().extension() != ".h") continue;
      EXPECT_NE(ReadText(entry.path()).find("#pragma once\n"), std::string::npos) << entry.path();
    }
  }
}

TEST(Folders, TheCheckFindsViolations) {
  EXPECT_EQ(Violations("core", "#include \"parallel/engine.h\"\n").size(), 1U);
  EXPECT_EQ(Violations("core", "  #  include <mpi.h>\n").size(), 1U);
  EXPECT_EQ(Violations("core", "#include <zmq.hpp>\n#include <sys/socket.h>\n").size(), 2U);
  EXPECT_EQ(Violations("parallel", "#include <nlohmann/json.hpp>\n").size(), 1U);
  EXPECT_EQ(Violations("frontend", "#include \"launcher/cli.h\"\n").size(), 1U);
  EXPECT_EQ(Violations("frontend", "#include \"../core/dtype.h\"\n").size(), 1U);
  EXPECT_EQ(Violations("kv_store", "#include \"tests/support/models.h\"\n").size(), 1U);
  EXPECT_TRUE(Violations("parallel", "#include <mpi.h>\n#include \"core/shard.h\"\n").empty());
  EXPECT_TRUE(Violations("launcher", "#include \"frontend/server.h\"\n").empty());
  EXPECT_TRUE(Violations("core", "// #include <mpi.h> is not for core\n").empty());
}

}  // namespace
}  // namespace tandem
