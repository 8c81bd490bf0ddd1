#pragma once

#include <iterator>
#include <string>
#include <utility>
#include <vector>

#include "frontend/protocol/request.h"
#include "launcher/options/option_row.h"

/// What the tables of options are written with.
namespace tandem::launcher {

using Rows = std::vector<OptionRow>;

inline constexpr double kMostSteps = 1 << 20;
inline constexpr double kMostTokens = 1 << 24;
inline constexpr double kMostCount = 0x1p31;
inline constexpr double kMostClients = 65536;
inline constexpr double kMostRanks = 65536;
inline constexpr double kKiB = 0x1p10;
inline constexpr double kMiB = 0x1p20;
inline constexpr double kGiB = 0x1p30;
inline constexpr double kMostBytes = 0x1p50;
inline constexpr double kMostText = 0x1p40;
inline constexpr double kMostName =
    frontend::ProtocolLimits().tenant_bytes;  // of conversations too
inline constexpr double kDay = 86400;
inline constexpr bool kSame = true;  // on all ranks of a job
inline constexpr OptionValue::Limits kSpeeds = {1e-6, 1e6};
inline constexpr char kJsonHelp[] = "one JSON document on standard output";

inline OptionRow Row(std::string name, OptionValue value, std::string help, bool same = false) {
  return {std::move(name), std::move(value), std::move(help), same};
}

inline OptionRow Required(OptionRow row) {
  row.required = true;
  return row;
}

template <typename T>
OptionValue Size(T& target, double least = 0, double most = kMostBytes) {
  return {&target, {least, most}, Unit::kSize};
}
inline OptionValue Path(std::string& target) { return {&target, {}, Unit::kPath}; }
template <typename T>
OptionValue Text(T& target, double least = 0, double most = kMostText) {
  return {&target, {least, most}, Unit::kText};
}

/// Several rows as one list, in this order.
template <typename... More>
Rows Join(Rows rows, More... more) {
  const auto append = [&rows](Rows& others) {
    std::move(others.begin(), others.end(), std::back_inserter(rows));
  };
  (append(more), ...);
  return rows;
}

inline OptionRow ModelArgument(std::string& model) {
  return Required(Row("MODEL", Path(model), "model file (.gguf)"));
}

inline OptionRow JsonRow(bool& json) { return Row("--json", {&json}, kJsonHelp); }

}  // namespace tandem::launcher
