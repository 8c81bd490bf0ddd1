#pragma once

#include <string>

#include "core/model/config.h"
#include "parallel/sharding/shard_plan.h"

namespace tandem::parallel {

/// The plan for people: a table of who holds which query heads, KV heads, feed-forward columns,
/// vocabulary rows and bytes, who records shared KV heads, and the predicted time over ideal. Lines
/// end with a newline.
std::string ToTable(const core::ModelConfig& config, const ShardPlan& plan);

}  // namespace tandem::parallel
