#include "frontend/chat/logprobs_json.h"

#include <cmath>
#include <string>

#include "frontend/text/utf8.h"

namespace tandem::frontend {
namespace {

using Json = nlohmann::ordered_json;

Json TokenJson(const TextModel& model, const parallel::TokenLogprob& token) {
  const std::string bytes = model.TokenBytes(token.token);
  Json json = {{"token", token.token}, {"text", ReplaceInvalidUtf8(bytes)}};
  if (ValidUtf8Prefix(bytes) != bytes.size()) {
    Json& list = json["bytes"] = Json::array();
    for (const char byte : bytes) list.push_back(static_cast<unsigned char>(byte));
  }
  json["logprob"] = std::isfinite(token.logprob) ? Json(token.logprob) : Json();
  return json;
}

}  // namespace

Json LogprobsJson(const TextModel& model, std::span<const parallel::TokenLogprobs> tokens) {
  Json list = Json::array();
  for (const parallel::TokenLogprobs& token : tokens) {
    Json json = TokenJson(model, token.chosen);
    Json& top = json["top"] = Json::array();
    for (const parallel::TokenLogprob& other : token.top) top.push_back(TokenJson(model, other));
    list.push_back(std::move(json));
  }
  return list;
}

}  // namespace tandem::frontend
