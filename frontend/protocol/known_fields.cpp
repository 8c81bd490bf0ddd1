#include "frontend/protocol/known_fields.h"

#include <algorithm>
#include <unordered_map>

#include "frontend/protocol/protocol_fields.h"

namespace tandem::frontend {
using Json = nlohmann::json;

std::span<const KnownField> KnownFields() {
  using enum FieldPlace;
  static constexpr KnownField kKnownFields[] = {
      // The protocol's own, and other names of them.
      {"v", kEverywhere, "read"},
      {"type", kEverywhere, "read"},
      {"id", kEverywhere, "read"},
      {"tenant", kEverywhere, "read"},
      {"conversation", kEverywhere, "read"},
      {"last_seq", kOther, "read"},
      {"ranks", kOther, "read"},
      {"after", kOther, "read"},
      {"limit", kOther, "read"},
      {"from", kOther, "read"},
      {"to", kOther, "read"},
      {"messages", kAnswer, "read"},
      {"prompt", kAnswer, "read"},
      {"tokens", kAnswer, "read"},
      {"echo", kAnswer, "read"},
      {"context_policy", kAnswer, "read"},
      {"add_generation_prompt", kChat, "read"},
      {"continue_final_message", kChat, "read"},
      {"chat_template_kwargs", kChat, "read"},
      {"accept_damage", kAnswer, "read"},
      {"max_tokens", kAnswer, "read"},
      {"max_completion_tokens", kAnswer, "read"},
      {"n_predict", kAnswer, "read"},
      {"min_tokens", kAnswer, "read"},
      {"min_new_tokens", kAnswer, "read"},
      {"temperature", kAnswer, "read"},
      {"top_k", kAnswer, "read"},
      {"top_p", kAnswer, "read"},
      {"min_p", kAnswer, "read"},
      {"repetition_penalty", kAnswer, "read"},
      {"repeat_penalty", kAnswer, "read"},
      {"presence_penalty", kAnswer, "read"},
      {"frequency_penalty", kAnswer, "read"},
      {"seed", kAnswer, "read"},
      {"stop", kAnswer, "read"},
      {"stop_token_ids", kAnswer, "read"},
      {"ignore_eos", kAnswer, "read"},
      {"logit_bias", kAnswer, "read"},
      {"deadline", kAnswer, "read"},
      {"n", kAnswer, "read"},
      {"logprobs", kAnswer, "read"},
      {"priority", kAnswer, "read"},
      {"cache", kAnswer, "read"},
      {"speculate", kAnswer, "read"},
      {"role", kMessage, "read"},
      {"content", kMessage, "read"},

      // OpenAI's.
      {"model", kAnswer, "any"},
      {"user", kAnswer, "any"},
      {"metadata", kAnswer, "any"},
      {"store", kAnswer, "any"},
      {"service_tier", kAnswer, "any"},
      {"safety_identifier", kAnswer, "any"},
      {"prompt_cache_key", kAnswer, "any"},
      {"prompt_cache_retention", kAnswer, "any"},
      {"prediction", kAnswer, "any"},
      {"parallel_tool_calls", kAnswer, "any"},
      {"stream", kAnswer, "any"},
      {"stream_options", kAnswer, "any"},
      {"max_tool_calls", kAnswer, "any"},
      {"audio", kAnswer, "off"},
      {"background", kAnswer, "off"},
      {"include", kAnswer, "off"},
      {"input", kAnswer, "off"},
      {"instructions", kAnswer, "off"},
      {"max_output_tokens", kAnswer, "null"},
      {"previous_response_id", kAnswer, "off"},
      {"text", kAnswer, R"(off, {"format":{"type":"text"}})"},
      {"truncation", kAnswer, R"(off, "disabled")"},
      {"best_of", kAnswer, "off, 1"},
      {"function_call", kAnswer, R"(off, "none", "auto")"},
      {"functions", kAnswer, "off"},
      {"modalities", kAnswer, R"(off, ["text"])"},
      {"reasoning", kAnswer, "off"},
      {"reasoning_effort", kAnswer, R"(off, "none")"},
      {"response_format", kAnswer, R"(off, {"type":"text"})"},
      {"suffix", kAnswer, "off"},
      {"tool_choice", kAnswer, R"(off, "none", "auto")"},
      {"tools", kAnswer, "off"},
      {"top_logprobs", kAnswer, "off"},
      {"verbosity", kAnswer, R"(off, "medium")"},
      {"web_search_options", kAnswer, "null"},

      // vLLM's.
      {"request_id", kAnswer, "any"},
      {"session_id", kAnswer, "any"},
      {"include_reasoning", kAnswer, "any"},
      {"length_penalty", kAnswer, "any"},
      {"truncation_side", kAnswer, "any"},
      {"guided_decoding_backend", kAnswer, "any"},
      {"guided_whitespace_pattern", kAnswer, "any"},
      {"media_io_kwargs", kAnswer, "any"},
      {"mm_processor_kwargs", kAnswer, "any"},
      {"return_mm_kwargs", kAnswer, "any"},
      {"return_token_offsets", kAnswer, "any"},
      {"routed_experts_prompt_start", kAnswer, "any"},
      {"stream_interval", kAnswer, "any"},
      {"add_generation_prompt", kComplete, "true"},
      {"add_special_tokens", kChat, "false"},
      {"add_special_tokens", kComplete, "true"},
      {"allowed_token_ids", kAnswer, "off"},
      {"bad_words", kAnswer, "off"},
      {"cache_salt", kAnswer, "off"},
      {"chat_template", kAnswer, "off"},
      {"chat_template_kwargs", kComplete, "off"},
      {"continue_final_message", kComplete, "off"},
      {"documents", kAnswer, "off"},
      {"early_stopping", kAnswer, "off"},
      {"ec_transfer_params", kAnswer, "off"},
      {"guided_choice", kAnswer, "off"},
      {"guided_grammar", kAnswer, "off"},
      {"guided_json", kAnswer, "null"},
      {"guided_json_object", kAnswer, "off"},
      {"guided_regex", kAnswer, "off"},
      {"include_stop_str_in_output", kAnswer, "off"},
      {"kv_transfer_params", kAnswer, "off"},
      {"logits_processors", kAnswer, "off"},
      {"logprob_token_ids", kAnswer, "off"},
      {"prompt_embeds", kAnswer, "off"},
      {"prompt_logprobs", kAnswer, "false"},
      {"repetition_detection", kAnswer, "off"},
      {"return_prompt_text", kAnswer, "off"},
      {"return_token_ids", kAnswer, "off"},
      {"return_tokens_as_token_ids", kAnswer, "off"},
      {"skip_special_tokens", kAnswer, "true"},
      {"spaces_between_special_tokens", kAnswer, "true"},
      {"structural_tag", kAnswer, "off"},
      {"structured_outputs", kAnswer, "off"},
      {"thinking_token_budget", kAnswer, "-1"},
      {"truncate_prompt_tokens", kAnswer, "null"},
      {"use_beam_search", kAnswer, "off"},
      {"vllm_xargs", kAnswer, "off"},
      {"watermarking", kAnswer, "off"},

      // llama.cpp's. Those of a sampler that is refused do nothing without it.
      {"cache_prompt", kAnswer, "any"},
      {"id_slot", kAnswer, "any"},
      {"slot_id", kAnswer, "any"},
      {"n_cache_reuse", kAnswer, "any"},
      {"n_discard", kAnswer, "any"},
      {"n_keep", kAnswer, "any"},
      {"adaptive_decay", kAnswer, "any"},
      {"backend_sampling", kAnswer, "any"},
      {"dry_allowed_length", kAnswer, "any"},
      {"dry_base", kAnswer, "any"},
      {"dry_penalty_last_n", kAnswer, "any"},
      {"dry_sequence_breakers", kAnswer, "any"},
      {"dynatemp_exponent", kAnswer, "any"},
      {"grammar_lazy", kAnswer, "any"},
      {"grammar_triggers", kAnswer, "any"},
      {"mirostat_eta", kAnswer, "any"},
      {"mirostat_tau", kAnswer, "any"},
      {"xtc_threshold", kAnswer, "any"},
      {"parse_tool_calls", kAnswer, "any"},
      {"post_sampling_probs", kAnswer, "any"},
      {"return_progress", kAnswer, "any"},
      {"speculative.n_max", kAnswer, "any"},
      {"speculative.n_min", kAnswer, "any"},
      {"speculative.p_min", kAnswer, "any"},
      {"speculative.type", kAnswer, "any"},
      {"sse_ping_interval", kAnswer, "any"},
      {"timings_per_token", kAnswer, "any"},
      {"adaptive_target", kAnswer, "-1"},
      {"dry_multiplier", kAnswer, "off"},
      {"dynatemp_range", kAnswer, "off"},
      {"grammar", kAnswer, "off"},
      {"image_data", kAnswer, "off"},
      {"input_extra", kAnswer, "off"},
      {"input_prefix", kAnswer, "off"},
      {"input_suffix", kAnswer, "off"},
      {"json_schema", kAnswer, "null"},
      {"lora", kAnswer, "off"},
      {"min_keep", kAnswer, "off, 1"},
      {"mirostat", kAnswer, "off"},
      {"multimodal_data", kAnswer, "off"},
      {"n_cmpl", kAnswer, "off, 1"},
      {"n_indent", kAnswer, "off"},
      {"n_probs", kAnswer, "off"},
      {"penalize_nl", kAnswer, "true", /*beside_penalty=*/true},
      {"preserved_tokens", kAnswer, "off"},
      {"reasoning_budget", kAnswer, "-1"},
      {"reasoning_budget_tokens", kAnswer, "-1"},
      {"reasoning_format", kAnswer, R"(off, "none", "auto")"},
      {"reasoning_in_content", kAnswer, "off, true"},
      {"repeat_last_n", kAnswer, "-1", /*beside_penalty=*/true},
      {"response_fields", kAnswer, "off"},
      {"return_tokens", kAnswer, "off"},
      {"samplers", kAnswer, "null"},
      {"system_prompt", kAnswer, "off"},
      {"t_max_predict_ms", kAnswer, "off, -1"},
      {"t_max_prompt_ms", kAnswer, "off, -1"},
      {"tfs_z", kAnswer, "1"},
      {"thinking_forced_open", kAnswer, "off"},
      {"top_n_sigma", kAnswer, "off, -1"},
      {"typ_p", kAnswer, "1"},
      {"typical_p", kAnswer, "1"},
      {"use_penalty_prompt_tokens", kAnswer, "off"},
      {"xtc_probability", kAnswer, "off"},

      // Others', that people bring along.
      {"keep_alive", kAnswer, "any"},
      {"rid", kAnswer, "any"},
      {"separate_reasoning", kAnswer, "any"},
      {"stream_reasoning", kAnswer, "any"},
      {"anthropic_version", kAnswer, "any"},
      {"details", kAnswer, "any"},
      {"dynatemp_high", kAnswer, "any"},
      {"dynatemp_low", kAnswer, "any"},
      {"pad_token_id", kAnswer, "any"},
      {"smoothing_curve", kAnswer, "any"},
      {"add_bos_token", kAnswer, "true"},
      {"ban_eos_token", kAnswer, "off"},
      {"bos_token_id", kAnswer, "null"},
      {"cfg_scale", kAnswer, "1"},
      {"context", kAnswer, "off"},
      {"custom_token_bans", kAnswer, "off"},
      {"do_sample", kAnswer, "null"},
      {"dynamic_temperature", kAnswer, "off"},
      {"ebnf", kAnswer, "off"},
      {"enable_thinking", kAnswer, "null"},
      {"encoder_repetition_penalty", kAnswer, "1"},
      {"eos_token_id", kAnswer, "null"},
      {"epsilon_cutoff", kAnswer, "off"},
      {"eta_cutoff", kAnswer, "off"},
      {"extra_body", kAnswer, "off"},
      {"format", kAnswer, "off"},
      {"grammar_string", kAnswer, "off"},
      {"guidance_scale", kAnswer, "1"},
      {"images", kAnswer, "off"},
      {"inputs", kAnswer, "off"},
      {"lora_path", kAnswer, "off"},
      {"max_length", kAnswer, "null"},
      {"max_new_tokens", kAnswer, "null"},
      {"max_tokens_to_sample", kAnswer, "null"},
      {"mcp_servers", kAnswer, "off"},
      {"min_length", kAnswer, "off"},
      {"mirostat_mode", kAnswer, "off"},
      {"negative_prompt", kAnswer, "off"},
      {"no_repeat_ngram_size", kAnswer, "off"},
      {"no_stop_trim", kAnswer, "off"},
      {"num_beams", kAnswer, "off, 1"},
      {"num_ctx", kAnswer, "null"},
      {"num_predict", kAnswer, "null"},
      {"num_return_sequences", kAnswer, "off, 1"},
      {"options", kAnswer, "off"},
      {"parameters", kAnswer, "off"},
      {"penalty_alpha", kAnswer, "off"},
      {"raw", kAnswer, "off"},
      {"regex", kAnswer, "off"},
      {"repetition_penalty_range", kAnswer, "off, -1", /*beside_penalty=*/true},
      {"return_full_text", kAnswer, "off"},
      {"sampler_order", kAnswer, "null"},
      {"sampler_priority", kAnswer, "null"},
      {"sampling_params", kAnswer, "off"},
      {"smoothing_factor", kAnswer, "off"},
      {"stop_regex", kAnswer, "off"},
      {"stop_sequences", kAnswer, "off"},
      {"stop_strings", kAnswer, "off"},
      {"system", kAnswer, "off"},
      {"temperature_last", kAnswer, "off"},
      {"template", kAnswer, "off"},
      {"think", kAnswer, "off"},
      {"thinking", kAnswer, R"(off, {"type":"disabled"})"},
      {"thinking_budget", kAnswer, "-1"},
      {"top_a", kAnswer, "off"},
      {"top_n_tokens", kAnswer, "off"},
      {"truncate", kAnswer, "null"},
      {"typical", kAnswer, "1"},
      {"watermark", kAnswer, "off"},

      // Of a message. No template that comes with a model reads a name.
      {"annotations", kMessage, "any"},
      {"cache_control", kMessage, "any"},
      {"id", kMessage, "any"},
      {"name", kMessage, "any"},
      {"tool_call_id", kMessage, "any"},
      {"attachments", kMessage, "off"},
      {"audio", kMessage, "off"},
      {"channel", kMessage, "off"},
      {"documents", kMessage, "off"},
      {"function_call", kMessage, "off"},
      {"images", kMessage, "off"},
      {"partial", kMessage, "off"},
      {"prefix", kMessage, "off"},
      {"reasoning", kMessage, "off"},
      {"reasoning_content", kMessage, "off"},
      {"refusal", kMessage, "off"},
      {"thinking", kMessage, "off"},
      {"tool_calls", kMessage, "off"},
      {"tool_plan", kMessage, "off"},
      {"tools", kMessage, "off"},
      {"type", kMessage, R"(off, "message")"},
      {"weight", kMessage, "off, 1"},
  };
  return kKnownFields;
}

namespace {

/// A field, with its values read.
struct ReadField {
  const KnownField* field;
  bool any = false;
  std::vector<Json> neutral = {};
};

ReadField Read(const KnownField& field) {
  constexpr std::string_view kOff = "off";
  ReadField read{.field = &field};
  read.any = field.neutral == "any" || field.neutral == "read";
  if (read.any) return read;
  std::string values(field.neutral);
  if (values.starts_with(kOff)) values.replace(0, kOff.size(), R"(false, 0, "", [], {})");
  read.neutral = Json::parse("[" + values + "]").get<std::vector<Json>>();
  return read;
}

bool IsFor(FieldPlace field, FieldPlace place) {
  const bool answer = place == FieldPlace::kChat || place == FieldPlace::kComplete;
  return field == place || (field == FieldPlace::kAnswer && answer) ||
         (field == FieldPlace::kEverywhere && place != FieldPlace::kMessage);
}

const ReadField* Find(std::string_view name, FieldPlace place) {
  static const auto* const kByName = [] {
    auto* by_name = new std::unordered_multimap<std::string_view, ReadField>;
    for (const KnownField& field : KnownFields()) by_name->emplace(field.name, Read(field));
    return by_name;
  }();
  const auto [begin, end] = kByName->equal_range(name);
  const auto found = std::find_if(
      begin, end, [&](const auto& entry) { return IsFor(entry.second.field->place, place); });
  return found == end ? nullptr : &found->second;
}

bool HasPenalty(const Json& object) {
  const auto is_set = [&](const char* name, int neutral) {
    const Json* value = FindField(object, name);
    return value != nullptr && *value != neutral;
  };
  return std::any_of(std::begin(kPenaltyNames), std::end(kPenaltyNames),
                     [&](const char* name) { return is_set(name, 1); }) ||
         is_set("presence_penalty", 0) || is_set("frequency_penalty", 0);
}

void Add(const std::string& name, UnknownFields& unknown) {
  ++unknown.count;
  if (unknown.names.size() == UnknownFields::kNames) return;
  // As JSON writes it: everything that is not printable ASCII is escaped. A character of four bytes
  // takes twelve letters, so that the beginning is enough.
  const std::string written =
      Json(name.substr(0, UnknownFields::kNameBytes))
          .dump(-1, ' ', /*ensure_ascii=*/true, Json::error_handler_t::replace);
  unknown.names.push_back(
      written.substr(1, std::min(written.size() - 2, UnknownFields::kNameBytes)));
}

}  // namespace

absl::Status CheckFields(const Json& object, FieldPlace place, UnknownFields& unknown) {
  for (auto it = object.begin(); it != object.end(); ++it) {
    const ReadField* known = Find(it.key(), place);
    if (known == nullptr) {
      Add(it.key(), unknown);
      continue;
    }
    if (place == FieldPlace::kOther || known->any || it->is_null()) continue;
    if (known->field->beside_penalty && !HasPenalty(object)) continue;
    const auto& neutral = known->neutral;
    if (std::find(neutral.begin(), neutral.end(), *it) == neutral.end()) {
      return Unimplemented("{}: this server does not have it yet; leave the field out (found {})",
                           it.key(), Shown(*it));
    }
  }
  return absl::OkStatus();
}

}  // namespace tandem::frontend
