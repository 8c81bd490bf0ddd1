#pragma once

#include <functional>
#include <memory>
#include <string>

#include "gtest/gtest.h"
#include "kv_store/records/tier.h"
#include "kv_store/tiers/block_index.h"

namespace tandem::kv_store {

/// One kind of tier, for the suite that all of them pass (tier_suite.cpp).
struct TierMaker {
  std::string name;
  /// An empty tier, with all that it needs to live.
  std::function<std::shared_ptr<Tier>(const TierLimits& limits)> make;
  bool lists = true;  // tells what it has
};

class TierSuite : public ::testing::TestWithParam<TierMaker> {
 protected:
  std::shared_ptr<Tier> Make(const TierLimits& limits = {}) { return GetParam().make(limits); }
};

inline std::string TierMakerName(const ::testing::TestParamInfo<TierMaker>& info) {
  return info.param.name;
}

}  // namespace tandem::kv_store
