#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <regex>
#include <set>
#include <string>
#include <vector>

#include "tests/support/read_file.h"

/// Checks the documents: every file and folder of the repository that they name exists.
namespace tandem {
namespace {

namespace fs = std::filesystem;

fs::path Root() { return TANDEM_SOURCE_DIR; }

/// Folders of the repository that names begin with, and where a name without a folder is looked
/// for.
const std::vector<std::string> kFolders = {"core",     "kv_store", "parallel", "frontend",
                                           "launcher", "tests",    "cluster",  "docs"};

/// The names of all files in these folders, without their folders.
const std::set<std::string>& FileNames() {
  static const std::set<std::string> names = [] {
    std::set<std::string> found;
    for (const std::string& folder : kFolders) {
      for (const auto& entry : fs::recursive_directory_iterator(Root() / folder)) {
        found.insert(entry.path().filename());
      }
    }
    for (const auto& entry : fs::directory_iterator(Root())) found.insert(entry.path().filename());
    return found;
  }();
  return names;
}

/// "a/b.{h,cpp}" as "a/b.h" and "a/b.cpp".
std::vector<std::string> Spelled(const std::string& name) {
  static const std::regex kBraces(R"(^(.*)\{([^{}]*)\}(.*)$)");
  std::smatch match;
  if (!std::regex_match(name, match, kBraces)) return {name};
  std::vector<std::string> names;
  std::istringstream choices(match[2]);
  for (std::string choice; std::getline(choices, choice, ',');) {
    names.push_back(match[1].str() + choice + match[3].str());
  }
  return names;
}

/// Whether a word of a document looks like a file or folder of the repository.
bool LooksLikeName(const std::string& word) {
  static const std::regex kSource(R"(^\w+\.(h|cpp|md|py|svg)$)");
  const std::string first = word.substr(0, word.find('/'));
  const bool in_folder = word.find('/') != std::string::npos &&
                         std::find(kFolders.begin(), kFolders.end(), first) != kFolders.end();
  return in_folder || std::regex_match(word, kSource);
}

/// "docs/*.md" is there if any file matches.
bool Exists(const std::string& name, const fs::path& beside) {
  const size_t star = name.find('*');
  if (star != std::string::npos) {
    const fs::path folder = Root() / fs::path(name).parent_path();
    const std::string pattern = fs::path(name).filename();
    const std::string head = pattern.substr(0, pattern.find('*'));
    const std::string tail = pattern.substr(pattern.find('*') + 1);
    if (!fs::is_directory(folder)) return false;
    return std::any_of(fs::directory_iterator(folder), fs::directory_iterator(),
                       [&](const fs::directory_entry& entry) {
                         const std::string file = entry.path().filename();
                         return file.starts_with(head) && file.ends_with(tail);
                       });
  }
  if (name.find('/') == std::string::npos) return FileNames().contains(name);
  return fs::exists(Root() / name) || fs::exists(beside / name);
}

/// What a document in the folder `beside` names and is not there: the first word between
/// backquotes, and the targets of links.
std::vector<std::string> MissingNames(const std::string& text, const fs::path& beside) {
  static const std::regex kQuoted("`([^`\\s]+)[^`]*`");
  static const std::regex kLink(R"(\]\(([^)#:]+)\))");
  std::vector<std::string> missing;
  for (std::sregex_iterator it(text.begin(), text.end(), kQuoted), end; it != end; ++it) {
    for (const std::string& name : Spelled((*it)[1])) {
      if (LooksLikeName(name) && !Exists(name, beside)) missing.push_back(name);
    }
  }
  for (std::sregex_iterator it(text.begin(), text.end(), kLink), end; it != end; ++it) {
    if (!fs::exists(beside / (*it)[1].str())) missing.push_back((*it)[1]);
  }
  return missing;
}

TEST(Documents, NameOnlyWhatIsThere) {
  std::vector<fs::path> documents = {Root() / "ARCHITECTURE.md", Root() / "CONTRIBUTING.md",
                                     Root() / "README.md"};
  for (const fs::directory_entry& entry : fs::directory_iterator(Root() / "docs")) {
    if (entry.path().extension() == ".md") documents.push_back(entry.path());
  }
  for (const fs::path& document : documents) {
    const std::string text = testing::ReadFile(document);
    EXPECT_FALSE(text.empty()) << document;
    for (const std::string& name : MissingNames(text, document.parent_path())) {
      ADD_FAILURE() << document.string() << " names " << name << ", which is not there";
    }
  }
}

TEST(Documents, TheCheckFindsWrongNames) {
  const auto missing = [](const std::string& text) { return MissingNames(text, Root() / "docs"); };
  using Names = std::vector<std::string>;
  EXPECT_EQ(missing("`core/base/status.h`, `core/base`, `core/base/` and `status.h`"), Names());
  EXPECT_EQ(missing("`core/base/nothing.h`"), Names{"core/base/nothing.h"});
  EXPECT_EQ(missing("`core/nowhere/`"), Names{"core/nowhere/"});
  EXPECT_EQ(missing("`nothing_at_all.h`"), Names{"nothing_at_all.h"});
  EXPECT_EQ(missing("`tests/no_such_script --rounds 3` and `tests/run NAME`"),
            Names{"tests/no_such_script"});
  EXPECT_EQ(missing("`core/base/isa.{h,cpp,txt}`"), Names{"core/base/isa.txt"});
  EXPECT_EQ(missing("`docs/*.md`, `docs/*.none`"), Names{"docs/*.none"});
  EXPECT_EQ(missing("[state](state.md), [other](other.md), [web](https://a.b/c)"),
            Names{"other.md"});
  EXPECT_EQ(missing("`kv/HOST/`, `TANDEM_STATE`, `--state DIR`, `model.gguf`, `/proc/self`"),
            Names());
}

}  // namespace
}  // namespace tandem
