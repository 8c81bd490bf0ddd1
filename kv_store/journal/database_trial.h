#pragma once

#include <functional>
#include <string>

/// Tries what is done to a database: RocksDB, as distributions build it, asserts much of
/// what it finds in its files.
namespace rocksdb {
class Env;
}  // namespace rocksdb

namespace tandem::kv_store {

/// Of files that may go with a loss of power: syncs none of them. Lives as long as the process.
rocksdb::Env* UnsyncedEnv();

/// Whether a process of its own does this, and is not ended by an assertion or a bad address. What
/// it does may start threads, but must wait for none of this process's.
bool Survives(const std::function<void()>& trial);

/// The same of what is done to the files of a folder: the trial is given another folder that has
/// them, which it may change. True where there is no room for that.
bool SurvivesFiles(const std::string& folder,
                   const std::function<void(const std::string& folder)>& trial);

}  // namespace tandem::kv_store
