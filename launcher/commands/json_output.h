#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>

namespace tandem::launcher {

inline constexpr int kOneLine = -1;
inline constexpr int kIndented = 2;

/// A document as text that ends with a newline. Bytes that are no UTF-8 are replaced.
std::string JsonText(const nlohmann::json& document);
std::string JsonText(const nlohmann::ordered_json& document, int indent = kOneLine);

/// The same on standard output.
void PrintJson(const nlohmann::ordered_json& document, int indent = kOneLine);

}  // namespace tandem::launcher
