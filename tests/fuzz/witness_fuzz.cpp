#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "frontend/conversations/conversation_witness.h"
#include "kv_store/base/blake2b.h"

/// Slots of a witness: any bytes, with the checksum put right too, are refused or come back as they
/// were.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace tandem::frontend;
  if (size < sizeof(uint64_t)) return 0;
  uint64_t number = 0;
  std::copy_n(data, sizeof(number), reinterpret_cast<uint8_t*>(&number));
  const std::span raw(reinterpret_cast<const std::byte*>(data) + sizeof(number),
                      size - sizeof(number));
  for (const bool right : {false, true}) {
    std::vector<std::byte> bytes(raw.begin(), raw.end());
    if (right) {
      // The checksum as docs/state.md says, so that it does not keep the fuzzer out.
      bytes.resize(kWitnessSlotBytes);
      std::vector<std::byte> summed(bytes.begin(), bytes.end() - 8);
      summed.insert(summed.begin(), reinterpret_cast<const std::byte*>(&number),
                    reinterpret_cast<const std::byte*>(&number + 1));
      const auto sum = tandem::kv_store::Blake2b<std::array<std::byte, 16>>(summed);
      std::copy_n(sum.begin(), 8, bytes.end() - 8);
    }
    const auto slot = DecodeWitnessSlot(bytes, number);
    if (!slot.ok()) continue;
    const auto again = EncodeWitnessSlot(*slot, number);
    if (!std::equal(bytes.begin(), bytes.end(), again.begin(), again.end())) std::abort();
  }
  return 0;
}
