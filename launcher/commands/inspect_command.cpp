#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/formats/model_file.h"
#include "core/system/standard_output.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/json_output.h"

namespace tandem::launcher {
namespace {

using nlohmann::ordered_json;

constexpr size_t kShownCharacters = 60;  // of a string, in the table

/// A value of the metadata as JSON; of arrays only type and count.
ordered_json ValueJson(const core::GgufFile& file, const core::GgufEntry& entry) {
  using core::GgufType;
  if (entry.type == GgufType::kArray) {
    return {{"array_of", core::GgufTypeName(entry.element_type)}, {"count", entry.count}};
  }
  if (entry.type == GgufType::kString) {
    const auto text = file.String(entry.key);
    return text.ok() ? ordered_json(std::string(*text)) : ordered_json(nullptr);
  }
  if (entry.type == GgufType::kBool) {
    const auto value = file.Bool(entry.key);
    return value.ok() ? ordered_json(*value) : ordered_json(nullptr);
  }
  if (entry.type == GgufType::kFloat32 || entry.type == GgufType::kFloat64) {
    const auto value = file.Float(entry.key);
    return value.ok() ? ordered_json(*value) : ordered_json(nullptr);
  }
  const auto value = file.Integer(entry.key);
  return value.ok() ? ordered_json(*value) : ordered_json(nullptr);
}

ordered_json ConfigJson(const core::ModelConfig& config) {
  int windows = 0;
  for (const int window : config.layer_window) windows += window != 0 ? 1 : 0;
  return {{"family", core::FamilyName(config.family)},
          {"name", config.name},
          {"layers", config.layers},
          {"dim", config.dim},
          {"ffn_dim", config.ffn_dim},
          {"heads", config.heads},
          {"kv_heads", config.kv_heads},
          {"head_dim", config.head_dim},
          {"vocab", config.vocab},
          {"context", config.context},
          {"sliding_window_layers", windows},
          {"tied_head", config.tied_head}};
}

ordered_json InspectJson(const core::ModelFile& file) {
  const core::GgufFile& gguf = file.gguf();
  ordered_json metadata = ordered_json::object();
  for (const core::GgufEntry& entry : gguf.entries()) {
    metadata[std::string(entry.key)] = ValueJson(gguf, entry);
  }
  ordered_json tensors = ordered_json::array();
  for (const core::GgufTensor& tensor : gguf.tensors()) {
    ordered_json shape = ordered_json::array();
    for (size_t d = tensor.rank; d-- > 0;) shape.push_back(tensor.dims[d]);
    tensors.push_back({{"name", std::string(tensor.name)},
                       {"dtype", core::DTypeName(tensor.dtype)},
                       {"shape", shape},
                       {"bytes", tensor.data.size()}});
  }
  return {{"path", file.path()},
          {"bytes", gguf.bytes()},
          {"gguf_version", gguf.version()},
          {"fingerprint", fmt::format("{:016x}", file.fingerprint())},
          {"config", ConfigJson(file.config())},
          {"metadata", metadata},
          {"tensors", tensors}};
}

std::string InspectText(const ordered_json& document) {
  std::string text =
      fmt::format("{}\n{} bytes, GGUF version {}, fingerprint {}\n\n",
                  document["path"].get<std::string>(), document["bytes"].get<int64_t>(),
                  document["gguf_version"].get<int>(), document["fingerprint"].get<std::string>());
  const auto short_value = [](const ordered_json& value) {
    std::string shown = JsonText(value);
    shown.pop_back();  // the newline
    if (shown.size() > kShownCharacters) shown = shown.substr(0, kShownCharacters) + "...";
    return shown;
  };
  for (const auto& [key, value] : document["config"].items()) {
    text += fmt::format("{:<24} {}\n", key, short_value(value));
  }
  text += "\nmetadata\n";
  for (const auto& [key, value] : document["metadata"].items()) {
    text += fmt::format("  {:<44} {}\n", key, short_value(value));
  }
  text +=
      fmt::format("\n{}\n", Counted(static_cast<int64_t>(document["tensors"].size()), "tensor"));
  for (const ordered_json& tensor : document["tensors"]) {
    text += fmt::format("  {:<36} {:<5} {:<16} {} bytes\n", tensor["name"].get<std::string>(),
                        tensor["dtype"].get<std::string>(), tensor["shape"].dump(),
                        tensor["bytes"].get<int64_t>());
  }
  return text;
}

}  // namespace

absl::Status Inspect(const InspectOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const auto file, core::ModelFile::Open(options.model));
  const ordered_json document = InspectJson(*file);
  if (options.json) {
    PrintJson(document, kIndented);
  } else {
    WriteOutput(InspectText(document));
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
