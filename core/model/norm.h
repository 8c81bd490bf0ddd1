#pragma once

namespace tandem::core {

/// How a row x of n numbers is normalized, before weight and bias. Mean and variance are those of
/// the row, the variance over all n (population).
///
///     kRms    x / sqrt(mean(x^2) + epsilon) * weight + bias
///     kLayer  (x - mean) / sqrt(variance + epsilon) * weight + bias
///     kBatch  (x - running_mean) / sqrt(running_variance + epsilon) * weight + bias, with
///             statistics of each channel from training: x * scale + shift
///
/// Sources: Zhang & Sennrich 2019; Ba et al. 2016; Ioffe & Szegedy 2015.
enum class NormKind { kRms, kLayer, kBatch };

}  // namespace tandem::core
