#include "frontend/protocol/protocol_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <string_view>
#include <utility>

#include "frontend/chat/chat_template.h"

namespace tandem::frontend {

using Json = nlohmann::json;

namespace {

constexpr int kShownBytes = 40;  // of a found value, in messages

/// A number in [least, most], or in (least, most] where `open`.
struct NumberRange {
  double least;
  double most;
  bool open = false;
};

absl::Status CheckNumber(const Json& value, const std::string& name, NumberRange range) {
  const double number = value.is_number() ? value.get<double>() : std::nan("");
  const bool enough = range.open ? number > range.least : number >= range.least;
  if (!std::isfinite(number) || !enough || number > range.most) {
    return InvalidArgument("{}: expected a number {} {} and at most {}, found {}", name,
                           range.open ? "above" : "of at least", range.least, range.most,
                           Shown(value));
  }
  return absl::OkStatus();
}

template <typename Target>
absl::Status ReadFloat(const Json& object, const char* name, NumberRange range, Target& out) {
  const Json* value = FindField(object, name);
  if (value == nullptr) return absl::OkStatus();
  TANDEM_RETURN_IF_ERROR(CheckNumber(*value, name, range));
  out = static_cast<float>(value->get<double>());
  return absl::OkStatus();
}

absl::Status ReadSeed(const Json& object, std::optional<uint64_t>& out) {
  const Json* value = FindField(object, "seed");
  if (value == nullptr) return absl::OkStatus();
  if (value->is_number_unsigned()) {
    out = value->get<uint64_t>();
  } else if (const auto number = AsInteger(*value); number && *number >= 0) {
    out = static_cast<uint64_t>(*number);
  } else {
    return InvalidArgument(
        "seed: expected an integer from 0 to 18446744073709551615, found {}; leave it out for a "
        "random one",
        Shown(*value));
  }
  return absl::OkStatus();
}

absl::Status ReadStop(const Json& object, const ProtocolLimits& limits,
                      std::vector<std::string>& out) {
  const Json* value = FindField(object, "stop");
  if (value == nullptr) return absl::OkStatus();
  const Json list = value->is_string() ? Json::array({*value}) : *value;
  if (!list.is_array() || list.size() > static_cast<size_t>(limits.stop_strings)) {
    return InvalidArgument("stop: expected a string or a list of at most {} strings, found {}",
                           limits.stop_strings, Shown(*value));
  }
  for (const Json& entry : list) {
    const auto* text = entry.get_ptr<const std::string*>();
    if (text == nullptr || text->empty() || text->size() > static_cast<size_t>(limits.stop_bytes)) {
      return InvalidArgument("stop: expected strings of 1 to {} bytes, found {}", limits.stop_bytes,
                             Shown(entry));
    }
    out.push_back(*text);
  }
  return absl::OkStatus();
}

constexpr NumberRange kBiasRange{.least = -1000, .most = 1000};

/// {"7042": -1.5}, or [[7042, -1.5]]. Whether the tokens exist is checked against the model later.
absl::Status ReadLogitBias(const Json& object, const ProtocolLimits& limits,
                           std::vector<std::pair<int32_t, float>>& out) {
  const Json* value = FindField(object, "logit_bias");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_structured() || value->size() > static_cast<size_t>(limits.logit_biases)) {
    return InvalidArgument(
        "logit_bias: expected at most {} biases, like {{\"7042\": -1.5}}, found {}",
        limits.logit_biases, Shown(*value));
  }
  const auto add = [&](std::optional<int64_t> token, const Json& shown,
                       const Json& bias) -> absl::Status {
    if (!token || *token < 0 || *token > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument("logit_bias: expected a token id, found {}", Shown(shown));
    }
    TANDEM_RETURN_IF_ERROR(
        CheckNumber(bias, fmt::format("logit_bias of token {}", *token), kBiasRange));
    out.emplace_back(static_cast<int32_t>(*token), static_cast<float>(bias.get<double>()));
    return absl::OkStatus();
  };
  if (value->is_object()) {
    for (const auto& [key, bias] : value->items()) {
      const bool digits = !key.empty() && key.size() <= 10 &&
                          key.find_first_not_of("0123456789") == std::string::npos;
      TANDEM_RETURN_IF_ERROR(
          add(digits ? std::optional<int64_t>(std::stoll(key)) : std::nullopt, Json(key), bias));
    }
    return absl::OkStatus();
  }
  for (const Json& pair : *value) {
    if (!pair.is_array() || pair.size() != 2) {
      return InvalidArgument("logit_bias: expected [token, bias], found {}", Shown(pair));
    }
    TANDEM_RETURN_IF_ERROR(add(AsInteger(pair[0]), pair[0], pair[1]));
  }
  return absl::OkStatus();
}

/// Reads a field that has several names. kInvalidArgument where two of them say different things.
/// read(name, out): as ReadInteger does.
template <typename Value, typename Read>
absl::Status ReadAnyName(std::span<const char* const> names, std::optional<Value>& out, Read read) {
  const char* first = nullptr;
  for (const char* name : names) {
    std::optional<Value> value;
    TANDEM_RETURN_IF_ERROR(read(name, value));
    if (!value) continue;
    if (out && *out != *value) {
      return InvalidArgument("{}: {} stands beside {} {}, which means the same: send one of them",
                             name, *value, first, *out);
    }
    out = value;
    first = name;
  }
  return absl::OkStatus();
}

absl::Status ReadMaxTokens(const Json& object, std::optional<int64_t>& out) {
  constexpr const char* kNames[] = {"max_tokens", "max_completion_tokens", "n_predict"};
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  return ReadAnyName(kNames, out, [&](const char* name, std::optional<int64_t>& value) {
    // llama.cpp's server says -1 for the rest of the context.
    const int64_t least = name == std::string_view("n_predict") ? -1 : 0;
    TANDEM_RETURN_IF_ERROR(ReadInteger(object, name, least, kMost, value));
    if (value == -1) value.reset();
    return absl::OkStatus();
  });
}

absl::Status ReadMinTokens(const Json& object, int32_t& out) {
  constexpr const char* kNames[] = {"min_tokens", "min_new_tokens"};
  constexpr int64_t kMost = std::numeric_limits<int32_t>::max();
  std::optional<int64_t> tokens;
  TANDEM_RETURN_IF_ERROR(
      ReadAnyName(kNames, tokens, [&](const char* name, std::optional<int64_t>& value) {
        return ReadInteger(object, name, 0, kMost, value);
      }));
  out = static_cast<int32_t>(tokens.value_or(0));
  return absl::OkStatus();
}

absl::Status ReadStopTokens(const Json& object, const ProtocolLimits& limits,
                            std::vector<int32_t>& out) {
  const Json* value = FindField(object, "stop_token_ids");
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_array() || value->size() > static_cast<size_t>(limits.stop_tokens)) {
    return InvalidArgument("stop_token_ids: expected a list of at most {} token ids, found {}",
                           limits.stop_tokens, Shown(*value));
  }
  return ReadTokens(*value, "stop_token_ids", out);
}

/// Samples of one prompt, what is told besides the text, and who is asking.
absl::Status ReadExtent(const Json& object, const ProtocolLimits& limits, GenerateRequest& out) {
  std::optional<int64_t> samples;
  TANDEM_RETURN_IF_ERROR(ReadInteger(object, "n", 1, limits.samples, samples));
  out.samples = static_cast<int32_t>(samples.value_or(1));
  // false, as some libraries send it, is none.
  if (const Json* logprobs = FindField(object, "logprobs");
      logprobs != nullptr && *logprobs != false) {
    std::optional<int64_t> best;
    TANDEM_RETURN_IF_ERROR(ReadInteger(object, "logprobs", 0, limits.logprobs, best));
    out.params.logprobs = static_cast<int32_t>(*best);
  }
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "cache", out.params.reuse));
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "speculate", out.params.speculate));
  std::optional<int64_t> priority;
  TANDEM_RETURN_IF_ERROR(
      ReadInteger(object, "priority", -limits.priority, limits.priority, priority));
  out.params.priority = static_cast<int32_t>(priority.value_or(0));
  std::optional<std::string> tenant;
  TANDEM_RETURN_IF_ERROR(ReadText(object, "tenant", 0, limits.tenant_bytes, tenant));
  out.tenant = tenant.value_or("");
  return absl::OkStatus();
}

/// Whether it is no object and holds none.
bool IsPlain(const Json& value) {
  return value.is_array() ? std::all_of(value.begin(), value.end(), IsPlain) : !value.is_object();
}

absl::Status ReadTemplateVariables(const Json& object, const ProtocolLimits& limits,
                                   nlohmann::ordered_json& out) {
  constexpr const char* kName = "chat_template_kwargs";
  const Json* variables = FindField(object, kName);
  if (variables == nullptr) return absl::OkStatus();
  if (!variables->is_object()) {
    return InvalidArgument("{}: expected an object, like {{\"enable_thinking\":false}}, found {}",
                           kName, Shown(*variables));
  }
  const size_t bytes = variables->dump().size();
  if (variables->size() > static_cast<size_t>(limits.template_variables) ||
      bytes > static_cast<size_t>(limits.template_bytes)) {
    return InvalidArgument(
        "{}: expected at most {} variables and {} bytes of JSON, found {} and {}", kName,
        limits.template_variables, limits.template_bytes, variables->size(), bytes);
  }
  for (const auto& [name, value] : variables->items()) {
    if (IsTemplatesOwn(name)) {
      return InvalidArgument("{}: {} is what templates have already; choose another name", kName,
                             Shown(Json(name)));
    }
    if (!IsPlain(value)) {
      return InvalidArgument(
          "{}.{}: expected a number, a string, true, false, null or a list of "
          "such, found {}",
          kName, Shown(Json(name)), Shown(value));
    }
    out[name] = nlohmann::ordered_json(value);
  }
  return absl::OkStatus();
}

}  // namespace

std::string Shown(const Json& value) {
  std::string text = value.dump(-1, ' ', /*ensure_ascii=*/true);
  if (text.size() > kShownBytes) text = text.substr(0, kShownBytes) + "...";
  return text;
}

const Json* FindField(const Json& object, const char* name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::optional<int64_t> AsInteger(const Json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > uint64_t{std::numeric_limits<int64_t>::max()}) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    constexpr double kExact = 9007199254740992.0;  // 2^53
    const auto number = value.get<double>();
    if (std::abs(number) <= kExact && number == std::floor(number)) {
      return static_cast<int64_t>(number);
    }
  }
  return std::nullopt;
}

absl::Status ReadInteger(const Json& object, const char* name, int64_t least, int64_t most,
                         std::optional<int64_t>& out) {
  const Json* value = FindField(object, name);
  if (value == nullptr) return absl::OkStatus();
  const std::optional<int64_t> number = AsInteger(*value);
  if (!number || *number < least || *number > most) {
    return InvalidArgument("{}: expected an integer from {} to {}, found {}", name, least, most,
                           Shown(*value));
  }
  out = number;
  return absl::OkStatus();
}

absl::Status ReadBool(const Json& object, const char* name, bool& out) {
  const Json* value = FindField(object, name);
  if (value == nullptr) return absl::OkStatus();
  if (!value->is_boolean()) {
    return InvalidArgument("{}: expected true or false, found {}", name, Shown(*value));
  }
  out = value->get<bool>();
  return absl::OkStatus();
}

absl::Status ReadText(const Json& object, const char* name, int64_t least, int64_t most,
                      std::optional<std::string>& out) {
  const Json* value = FindField(object, name);
  if (value == nullptr) return absl::OkStatus();
  const auto* text = value->get_ptr<const std::string*>();
  if (text == nullptr || static_cast<int64_t>(text->size()) < least ||
      static_cast<int64_t>(text->size()) > most) {
    return InvalidArgument("{}: expected a string of {} to {} bytes, found {}", name, least, most,
                           Shown(*value));
  }
  out = *text;
  return absl::OkStatus();
}

absl::Status ReadTokens(const Json& list, std::string_view name, std::vector<int32_t>& out) {
  for (size_t i = 0; i < list.size(); ++i) {
    const std::optional<int64_t> id = AsInteger(list[i]);
    if (!id || *id < 0 || *id > std::numeric_limits<int32_t>::max()) {
      return InvalidArgument("{}[{}]: expected a token id, found {}", name, i, Shown(list[i]));
    }
    out.push_back(static_cast<int32_t>(*id));
  }
  return absl::OkStatus();
}

absl::Status ReadRendering(const Json& object, const ProtocolLimits& limits, RenderOptions& out) {
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "continue_final_message", out.continue_final_message));
  out.add_generation_prompt = !out.continue_final_message;
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "add_generation_prompt", out.add_generation_prompt));
  if (out.continue_final_message && out.add_generation_prompt) {
    return InvalidArgument(
        "add_generation_prompt: true begins an answer, and continue_final_message goes on with the "
        "last message; send one of them");
  }
  return ReadTemplateVariables(object, limits, out.variables);
}

absl::Status ReadParams(const Json& object, const ProtocolLimits& limits, GenerateRequest& out) {
  constexpr int64_t kMostInt32 = std::numeric_limits<int32_t>::max();
  constexpr double kMostSeconds = 30.0 * 24 * 3600;
  core::SamplingParams& sampling = out.params.sampling;
  TANDEM_RETURN_IF_ERROR(ReadMaxTokens(object, out.params.max_tokens));
  TANDEM_RETURN_IF_ERROR(ReadMinTokens(object, out.params.min_tokens));
  TANDEM_RETURN_IF_ERROR(
      ReadFloat(object, "temperature", {.least = 0, .most = 100}, sampling.temperature));
  std::optional<int64_t> top_k;
  TANDEM_RETURN_IF_ERROR(ReadInteger(object, "top_k", -1, kMostInt32, top_k));
  // vLLM says -1 for all.
  sampling.top_k = static_cast<int32_t>(std::max<int64_t>(top_k.value_or(sampling.top_k), 0));
  TANDEM_RETURN_IF_ERROR(ReadFloat(object, "top_p", {.least = 0, .most = 1}, sampling.top_p));
  TANDEM_RETURN_IF_ERROR(ReadFloat(object, "min_p", {.least = 0, .most = 1}, sampling.min_p));
  std::optional<float> penalty;
  TANDEM_RETURN_IF_ERROR(
      ReadAnyName(kPenaltyNames, penalty, [&](const char* name, std::optional<float>& value) {
        return ReadFloat(object, name, {.least = 0.01, .most = 100}, value);
      }));
  sampling.repetition_penalty = penalty.value_or(sampling.repetition_penalty);
  TANDEM_RETURN_IF_ERROR(
      ReadFloat(object, "presence_penalty", {.least = -2, .most = 2}, sampling.presence_penalty));
  TANDEM_RETURN_IF_ERROR(
      ReadFloat(object, "frequency_penalty", {.least = -2, .most = 2}, sampling.frequency_penalty));
  TANDEM_RETURN_IF_ERROR(ReadSeed(object, out.params.seed));
  TANDEM_RETURN_IF_ERROR(ReadStop(object, limits, out.params.stop));
  TANDEM_RETURN_IF_ERROR(ReadStopTokens(object, limits, out.params.stop_tokens));
  TANDEM_RETURN_IF_ERROR(ReadBool(object, "ignore_eos", out.params.ignore_eos));
  TANDEM_RETURN_IF_ERROR(ReadLogitBias(object, limits, sampling.logit_bias));
  TANDEM_RETURN_IF_ERROR(ReadExtent(object, limits, out));
  if (const Json* deadline = FindField(object, "deadline"); deadline != nullptr) {
    TANDEM_RETURN_IF_ERROR(CheckNumber(*deadline, "deadline (seconds from now)",
                                       {.least = 0, .most = kMostSeconds, .open = true}));
    out.deadline_seconds = deadline->get<double>();
  }
  return absl::OkStatus();
}

}  // namespace tandem::frontend
