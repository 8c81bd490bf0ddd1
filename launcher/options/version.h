#pragma once

namespace tandem::launcher {

inline constexpr char kVersion[] = "0.1.0";
/// Of the arithmetic: results of equal versions are equal bit for bit.
inline constexpr char kNumericsVersion[] = "1";

}  // namespace tandem::launcher
