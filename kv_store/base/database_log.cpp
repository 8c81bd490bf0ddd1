#include "kv_store/base/database_log.h"

#include <rocksdb/env.h>
#include <spdlog/spdlog.h>

#include <array>
#include <cstdarg>
#include <cstdio>
#include <utility>

namespace tandem::kv_store {
namespace {

class DatabaseLog final : public rocksdb::Logger {
 public:
  explicit DatabaseLog(std::string folder)
      : rocksdb::Logger(rocksdb::InfoLogLevel::WARN_LEVEL), folder_(std::move(folder)) {}

  using rocksdb::Logger::Logv;
  void Logv(const char* format, va_list arguments) override {
    std::array<char, 1024> line{};
    std::vsnprintf(line.data(), line.size(), format, arguments);
    spdlog::debug("{}: {}", folder_, line.data());
  }

 private:
  const std::string folder_;
};

}  // namespace

std::shared_ptr<rocksdb::Logger> MakeDatabaseLog(std::string folder) {
  return std::make_shared<DatabaseLog>(std::move(folder));
}

}  // namespace tandem::kv_store
