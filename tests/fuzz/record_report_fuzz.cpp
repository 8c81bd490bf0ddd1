#include <algorithm>
#include <cstdlib>
#include <span>

#include "parallel/plan/record_report.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::parallel;
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto report = DecodeRecordReport(bytes);
  if (!report.ok()) return 0;
  const auto again = EncodeRecordReport(*report);
  if (again.size() != size || !std::equal(again.begin(), again.end(), bytes.begin())) std::abort();
  return 0;
}
