#pragma once

namespace tandem::core {

/// Natural logarithm and power in double by our own explicit operations, so that every processor
/// gives the same bits (numerics.md, rule 5: libm picks code by CPU). Made for tables at load, not
/// for speed. Relative error at most 4e-16 for Log, 1e-15 for Pow.

/// x: positive, finite and normal.
double Log(double x);

/// base^exponent. base: positive, finite and normal. A result outside the normal range becomes 0 or
/// infinity.
double Pow(double base, double exponent);

}  // namespace tandem::core
