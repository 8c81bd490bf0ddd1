#pragma once

#include <memory>
#include <string>

namespace rocksdb {
class Logger;
}  // namespace rocksdb

namespace tandem::kv_store {

/// A RocksDB's own log, as lines of this program's debug log that begin with `folder`; warnings and
/// errors only. Every database needs one: the file that RocksDB 7.8 logs to by default ends the
/// process, by a failed assertion, when it is written to after the disk was full.
std::shared_ptr<rocksdb::Logger> MakeDatabaseLog(std::string folder);

}  // namespace tandem::kv_store
