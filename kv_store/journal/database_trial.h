#pragma once

#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

/// Tries in a process of its own what might end this one.
///
/// It is another process of this program, and not a fork alone: a fork of a process with several
/// threads has locks that nobody will ever release.
namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace tandem::kv_store {

/// Of files that may go with a loss of power: syncs none of them. Lives as long as the process.
rocksdb::Env* UnsyncedEnv();

/// Whether a process that main tells of this trial comes to its end, and is not ended by an
/// assertion or a bad address. Also true where none can be started, which is logged, and where the
/// trial takes longer than a minute.
bool TrialSurvives(const std::vector<std::string>& trial);
/// The words of a trial behind the program's name, if it is one; what this process writes to its
/// log goes nowhere from then on. Before main has called it nothing may be tried.
std::optional<std::vector<std::string_view>> TrialOf(std::span<const char* const> words);
/// Exit status of a trial that is none.
inline constexpr int kNoTrial = 2;
/// The end of a trial, whatever it has open.
[[noreturn]] void EndTrial();

/// Whether a trial survives what is done to the files of a folder: it is given another folder that
/// has them, which it may change. True where there is no room for that.
bool SurvivesFiles(const std::string& folder,
                   const std::function<bool(const std::string& folder)>& survives);

}  // namespace tandem::kv_store
