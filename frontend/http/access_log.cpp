#include "frontend/http/access_log.h"

#include <fmt/format.h>

#include <chrono>
#include <cmath>
#include <ctime>

#include "frontend/protocol/json_document.h"

namespace tandem::frontend {
namespace {

std::string TimeText() {
  const auto now = std::chrono::system_clock::now();
  const std::time_t seconds = std::chrono::system_clock::to_time_t(now);
  const auto millis =
      std::chrono::duration_cast<std::chrono::milliseconds>(now.time_since_epoch()).count() % 1000;
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  return fmt::format("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}Z", utc.tm_year + 1900,
                     utc.tm_mon + 1, utc.tm_mday, utc.tm_hour, utc.tm_min, utc.tm_sec, millis);
}

double Milliseconds(double seconds) { return std::round(seconds * 1e6) / 1e3; }

}  // namespace

std::string AccessLine(const AccessRecord& record) {
  nlohmann::ordered_json line = {{"time", TimeText()},
                                 {"id", record.request_id},
                                 {"peer", record.peer},
                                 {"method", record.method},
                                 {"route", record.route},
                                 {"status", record.status},
                                 {"ms", Milliseconds(record.seconds)}};
  if (!record.error.empty()) line["error"] = record.error;
  if (!record.tenant.empty()) line["tenant"] = record.tenant;
  if (record.stream) line["stream"] = true;
  if (record.first_token_seconds) {
    line["first_token_ms"] = Milliseconds(*record.first_token_seconds);
  }
  if (!record.finish_reason.empty()) line["finish_reason"] = record.finish_reason;
  if (record.usage) {
    line["prompt_tokens"] = record.usage->prompt_tokens;
    line["cached_tokens"] = record.usage->reused_tokens;
    line["completion_tokens"] = record.usage->completion_tokens;
    line["queue_ms"] = Milliseconds(record.usage->queue_seconds);
    line["prefill_ms"] = Milliseconds(record.usage->prefill_seconds);
    line["decode_ms"] = Milliseconds(record.usage->decode_seconds);
  }
  return DumpJson(line);
}

}  // namespace tandem::frontend
