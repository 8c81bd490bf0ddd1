#pragma once

#include <cstdint>

#include "core/cpu/simd/host_device.h"
#include "core/cpu/simd/lanes_math.h"

/// What is computed of single logits, once for CPUs and GPUs.
namespace tandem::core {

inline constexpr int32_t kPaddingToken =
    -1;  // candidate of a shard with fewer rows than asked for; never chosen
inline constexpr int32_t kFailedToken =
    -2;  // "a logit of this shard is not finite": the request fails on all ranks

inline constexpr int32_t kSumRows = 1024;  // vocabulary rows of a block of sums
inline constexpr int32_t kSumLanes = 16;   // sums that SumOrder::kLanes begins with

/// In which order the weights of a block of sums are added: row after row; or, as those of
/// log-probabilities are (lane_sums.h), rows with the same number mod kSumLanes first.
enum class SumOrder : uint8_t { kRows, kLanes };

/// A token that may be chosen.
struct Candidate {
  float logit = 0.0F;
  int32_t token = kPaddingToken;
};

/// What turns logits into weights: exp((logit - best) / temperature), or 0 where that is less than
/// `smallest`.
struct Softmax {
  float best;
  float temperature;
  float smallest;

  template <typename Lanes>
  TANDEM_HOST_DEVICE Lanes Weights(Lanes logits) const {
    const Lanes w = LanesExp((logits - Lanes::Set(best)) / Lanes::Set(temperature));
    return Lanes::SelectLess(w, Lanes::Set(smallest), Lanes::Set(0.0F), w);
  }
};

/// The logit of a token that was seen before.
TANDEM_HOST_DEVICE inline float PenalizedLogit(float logit, float repetition_penalty) {
  return logit > 0.0F ? logit / repetition_penalty : logit * repetition_penalty;
}

/// The logit of an end token that may not be chosen yet: any other one is better, and its weight is
/// 0. It is finite, since infinity stands for a failed computation, which stays one.
inline constexpr float kWithheldLogit = -0x1.fffffep127F;
TANDEM_HOST_DEVICE inline float WithheldLogit(float logit) {
  return logit - logit == 0.0F ? kWithheldLogit : logit;
}

}  // namespace tandem::core
