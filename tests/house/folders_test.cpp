#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <map>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support/read_file.h"

/// Checks the house: a folder includes only folders that stand before it, and keeps out what does
/// not belong to it.
namespace tandem {
namespace {

namespace fs = std::filesystem;

const std::vector<std::string> kOrder = {"core", "kv_store", "parallel", "frontend", "launcher"};

/// The rooms of each folder, ground first. A room includes only itself and rooms before it; files
/// that stand in no room stand on top of all.
const std::map<std::string, std::vector<std::string>> kRooms = {
    {"core", {"base",         "system",          "model",          "formats",       "cpu/simd",
              "sampling",     "cpu/elementwise", "cpu/linear",     "cpu/attention", "cpu",
              "cuda/kernels", "cuda/copies",     "cuda/attention", "cuda/blas",     "cuda/graphs",
              "cuda",         "cuda/nccl",       "cuda/peer",      "device",        "transformer"}},
    {"kv_store",
     {"base", "weights", "pages", "records", "journal", "tiers", "catalog", "export", "agent_link",
      "peers", "agent"}},
    {"parallel",
     {"plan", "start", "communicators", "links", "sharding", "control", "engine", "placement",
      "rank", "schedule", "coordinator"}},
    {"frontend",
     {"text", "tokenizer", "jinja/values", "jinja/syntax", "jinja/builtins", "jinja", "chat",
      "protocol", "conversations", "client", "service", "server", "http/wire", "http/api", "http"}},
    {"launcher",
     {"options", "option_tables", "state", "job", "supervision", "commands", "kv", "bench"}},
};

constexpr int64_t kMostSourceFiles = 30;  // of a folder

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

/// Where the room of a path like "core/cpu/linear/linear.h" stands among the rooms of its folder;
/// behind all rooms if it is in none.
size_t PlaceOfRoom(const std::string& path) {
  const fs::path parent = fs::path(path).parent_path();
  const std::string folder = parent.begin()->string();
  const std::vector<std::string>& rooms = kRooms.at(folder);
  const std::string room = parent.lexically_relative(folder).string();
  return static_cast<size_t>(std::find(rooms.begin(), rooms.end(), room) - rooms.begin());
}

/// Whether the first parts of `path` are those of `beginning`.
bool StandsIn(const std::string& path, const std::string& beginning) {
  return path.compare(0, beginning.size() + 1, beginning + "/") == 0;
}

/// What is wrong with the rooms that the file at `path` includes: one line each.
std::vector<std::string> RoomViolations(const std::string& path, const std::string& text) {
  const std::string folder = path.substr(0, path.find('/'));
  std::vector<std::string> violations;
  for (const std::string& include : IncludesOf(text)) {
    if (StandsIn(include, folder) && PlaceOfRoom(include) > PlaceOfRoom(path)) {
      violations.push_back(path + " includes " + include + ", whose room stands after its own");
    }
    const bool ours = kRooms.contains(include.substr(0, include.find('/')));
    if (StandsIn(path, "frontend/jinja") && ours && !StandsIn(include, "frontend/jinja") &&
        !StandsIn(include, "core/base")) {
      violations.push_back(path + " includes " + include + "; the templates need core/base alone");
    }
  }
  return violations;
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

/// A header and its source: "core/base/isa" of "core/base/isa.h".
std::string UnitOf(const std::string& path) { return fs::path(path).replace_extension().string(); }

/// Which units the files of each unit include.
using UnitGraph = std::map<std::string, std::set<std::string>>;

void AddIncludes(const std::string& path, const std::string& text, UnitGraph& graph) {
  for (const std::string& include : IncludesOf(text)) {
    if (UnitOf(include) != UnitOf(path)) graph[UnitOf(path)].insert(UnitOf(include));
  }
}

/// Units that include each other in a circle, "a -> b -> a"; empty if there is none. `done`: units
/// from which no circle can be reached.
std::string CircleFrom(const std::string& unit, const UnitGraph& graph,
                       std::vector<std::string>& path, std::set<std::string>& done) {
  const auto before = std::find(path.begin(), path.end(), unit);
  if (before != path.end()) {
    std::string circle;
    for (auto it = before; it != path.end(); ++it) circle += *it + " -> ";
    return circle + unit;
  }
  const auto included = graph.find(unit);
  if (included == graph.end() || done.contains(unit)) return "";
  path.push_back(unit);
  for (const std::string& next : included->second) {
    const std::string circle = CircleFrom(next, graph, path, done);
    if (!circle.empty()) return circle;
  }
  path.pop_back();
  done.insert(unit);
  return "";
}

std::string AnyCircle(const UnitGraph& graph) {
  std::set<std::string> done;
  for (const auto& [unit, included] : graph) {
    std::vector<std::string> path;
    const std::string circle = CircleFrom(unit, graph, path, done);
    if (!circle.empty()) return circle;
  }
  return "";
}

bool IsSource(const fs::path& path) {
  static const std::vector<std::string> kExtensions = {".h", ".cpp", ".cu", ".cuh"};
  return std::find(kExtensions.begin(), kExtensions.end(), path.extension()) != kExtensions.end();
}

TEST(Folders, IncludeOnlyWhatStandsBefore) {
  const fs::path root = TANDEM_SOURCE_DIR;
  for (const std::string& folder : kOrder) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
      for (const std::string& violation : Violations(folder, testing::ReadFile(entry.path()))) {
        ADD_FAILURE() << entry.path().string() << ": " << violation;
      }
    }
  }
}

TEST(Folders, RoomsIncludeOnlyRoomsBefore) {
  const fs::path root = TANDEM_SOURCE_DIR;
  for (const auto& [folder, rooms] : kRooms) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
      const std::string path = entry.path().lexically_relative(root).string();
      if (PlaceOfRoom(path) == rooms.size() && folder != "launcher") {
        ADD_FAILURE() << path << " stands in no room of " << folder << "/";
      }
      for (const std::string& violation : RoomViolations(path, testing::ReadFile(entry.path()))) {
        ADD_FAILURE() << violation;
      }
    }
  }
}

TEST(Folders, NoUnitsIncludeEachOther) {
  const fs::path root = TANDEM_SOURCE_DIR;
  UnitGraph graph;
  for (const std::string& folder : kOrder) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
      AddIncludes(entry.path().lexically_relative(root).string(), testing::ReadFile(entry.path()),
                  graph);
    }
  }
  EXPECT_EQ(AnyCircle(graph), "");
}

TEST(Folders, NoneHasMoreFilesThanAReaderTakesIn) {
  const fs::path root = TANDEM_SOURCE_DIR;
  std::map<std::string, int64_t> files;
  for (const std::string& folder : kOrder) {
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (entry.is_regular_file() && IsSource(entry.path())) ++files[entry.path().parent_path()];
    }
  }
  for (const auto& [folder, count] : files) EXPECT_LE(count, kMostSourceFiles) << folder;
}

TEST(Folders, TestsMirrorTheRooms) {
  const fs::path root = TANDEM_SOURCE_DIR;
  for (const std::string& folder : kOrder) {
    for (const fs::directory_entry& entry :
         fs::recursive_directory_iterator(root / "tests" / folder)) {
      if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
      const fs::path room = entry.path().parent_path().lexically_relative(root / "tests");
      EXPECT_TRUE(fs::is_directory(root / room)) << entry.path() << ": there is no " << room;
    }
  }
}

TEST(Folders, MpiIsCalledByItsCommunicatorAlone) {
  const fs::path root = TANDEM_SOURCE_DIR;
  std::set<std::string> files;
  for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / "parallel")) {
    if (!entry.is_regular_file() || !IsSource(entry.path())) continue;
    const std::vector<std::string> includes = IncludesOf(testing::ReadFile(entry.path()));
    if (std::count(includes.begin(), includes.end(), "mpi.h") != 0) {
      files.insert(entry.path().filename());
    }
  }
  // The exchange between hosts and the meetings of a start are parts of the communicator.
  EXPECT_EQ(files,
            (std::set<std::string>{"host_exchange.h", "mpi_communicator.cpp", "start_meetings.h"}));
}

TEST(Folders, EveryHeaderIsIncludedOnce) {
  const fs::path root = TANDEM_SOURCE_DIR;
  for (const std::string& folder : kOrder) {
    if (!fs::exists(root / folder)) continue;
    for (const fs::directory_entry& entry : fs::recursive_directory_iterator(root / folder)) {
      if (entry.path().extension() != ".h") continue;
      EXPECT_NE(testing::ReadFile(entry.path()).find("#pragma once\n"), std::string::npos)
          << entry.path();
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
  EXPECT_EQ(
      RoomViolations("core/model/config.h", "#include \"core/cpu/cpu_operations.h\"\n").size(), 1U);
  EXPECT_EQ(RoomViolations("core/cpu/linear/a.h", "#include \"core/cpu/b.h\"\n").size(), 1U);
  EXPECT_EQ(RoomViolations("frontend/jinja/a.h", "#include \"frontend/text/b.h\"\n").size(), 1U);
  EXPECT_TRUE(RoomViolations("core/cpu/a.h", "#include \"core/cpu/linear/b.h\"\n").empty());
  EXPECT_TRUE(RoomViolations("launcher/main.cpp", "#include \"launcher/kv/b.h\"\n").empty());
  EXPECT_TRUE(Violations("core", "// #include <mpi.h> is not for core\n").empty());
  UnitGraph graph;
  AddIncludes("core/a.cpp", "#include \"core/a.h\"\n#include \"core/b.h\"\n", graph);
  AddIncludes("core/b.cpp", "#include \"core/b.h\"\n#include \"core/c.h\"\n", graph);
  EXPECT_EQ(AnyCircle(graph), "");
  AddIncludes("core/c.h", "#include \"core/b.h\"\n", graph);
  EXPECT_EQ(AnyCircle(graph), "core/b -> core/c -> core/b");
}

}  // namespace
}  // namespace tandem
