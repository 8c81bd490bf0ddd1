#include <cstdlib>
#include <vector>

#include "parallel/plan/step_plan_codec.h"
#include "parallel/rank/slot_table.h"

/// Plans under a right hash, so that the parser is reached, and what it accepts given to a slot
/// table, which must refuse or apply it without a fault.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::parallel;
  const auto* bytes = reinterpret_cast<const std::byte*>(data);
  static_cast<void>(DecodeStepPlan({bytes, size}));

  std::vector<std::byte> encrypted(bytes, bytes + size);
  const Digest hash = DigestOf(encrypted);
  const auto raw = std::as_bytes(std::span(hash));
  encrypted.insert(encrypted.end(), raw.begin(), raw.end());
  const auto plan = DecodeStepPlan(encrypted);
  if (!plan.ok()) return 0;
  if (EncodeStepPlan(*plan) != encrypted) std::abort();
  SlotTable slots(4, {{.window = 0, .layers = {0}}, {.window = 70, .layers = {1}}}, {8, 8}, 100);
  static_cast<void>(slots.Apply(*plan));
  static_cast<void>(slots.Apply(*plan));
  return 0;
}
