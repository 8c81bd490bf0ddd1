#pragma once

#include <cstdint>
#include <string_view>

/// Rendezvous hashing (Thaler & Ravishankar 1998): of several hosts a thing prefers the one with
/// the highest score, so that a host that comes or goes moves only its own share.
namespace tandem::kv_store {

inline uint64_t MixedBits(uint64_t bits) {  // SplitMix64's finalizer
  bits = (bits ^ (bits >> 30)) * 0xbf58476d1ce4e5b9ULL;
  bits = (bits ^ (bits >> 27)) * 0x94d049bb133111ebULL;
  return bits ^ (bits >> 31);
}

/// How much a thing, of which these are uniform bits, prefers a host; the same in every process.
inline uint64_t RendezvousScore(uint64_t thing, std::string_view host) {
  uint64_t bits = 0xcbf29ce484222325ULL;  // FNV-1a
  for (const char c : host) bits = (bits ^ static_cast<uint8_t>(c)) * 0x100000001b3ULL;
  return MixedBits(thing ^ MixedBits(bits));
}

}  // namespace tandem::kv_store
