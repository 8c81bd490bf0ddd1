#include "launcher/commands/json_output.h"

#include <nlohmann/json.hpp>

#include "core/system/standard_output.h"

namespace tandem::launcher {

using nlohmann::json;
using nlohmann::ordered_json;

std::string JsonText(const json& document) {
  return document.dump(kOneLine, ' ', false, json::error_handler_t::replace) + "\n";
}

std::string JsonText(const ordered_json& document, int indent) {
  return document.dump(indent, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

void PrintJson(const ordered_json& document, int indent) {
  WriteOutput(JsonText(document, indent));
}

}  // namespace tandem::launcher
