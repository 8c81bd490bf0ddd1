#include <cctype>
#include <charconv>
#include <limits>
#include <nlohmann/json.hpp>
#include <sstream>
#include <tuple>
#include <utility>

#include "core/formats/gguf.h"
#include "core/system/standard_output.h"
#include "core/system/text_file.h"
#include "frontend/chat/chat_template.h"
#include "frontend/text/utf8.h"
#include "frontend/tokenizer/detokenizer.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/json_output.h"
#include "launcher/commands/text_side.h"

namespace tandem::launcher {
namespace {

using nlohmann::ordered_json;

struct OpenTokenizer {
  std::unique_ptr<core::GgufFile> file;
  std::unique_ptr<frontend::Tokenizer> tokenizer;
};

absl::StatusOr<OpenTokenizer> Open(const std::string& model) {
  OpenTokenizer open;
  TANDEM_ASSIGN_OR_RETURN(open.file, core::GgufFile::Open(model));
  TANDEM_ASSIGN_OR_RETURN(open.tokenizer, frontend::LoadTokenizer(*open.file));
  return open;
}

/// text: as the command line has it.
absl::StatusOr<std::string> OrStandardInput(const std::optional<std::string>& text) {
  if (text) return *text;
  TANDEM_ASSIGN_OR_RETURN(std::string input, ReadStandardInput());
  TANDEM_RETURN_IF_ERROR(CheckInputText(input));
  return input;
}

/// The text of a token between quotes, on one line: what is no UTF-8, or cannot be seen, as \\xNN.
std::string Quoted(const std::string& bytes) {
  std::string quoted = "\"";
  for (std::string_view rest = bytes; !rest.empty();) {
    const size_t valid = frontend::ValidUtf8Prefix(rest);
    for (const char c : rest.substr(0, valid)) {
      const auto byte = static_cast<unsigned char>(c);
      if (c == '"' || c == '\\') {
        quoted += {'\\', c};
      } else if (c == '\n') {
        quoted += "\\n";
      } else if (byte < ' ' || byte == 0x7F) {
        quoted += fmt::format("\\x{:02X}", byte);
      } else {
        quoted += c;
      }
    }
    rest.remove_prefix(valid);
    if (rest.empty()) break;
    quoted += fmt::format("\\x{:02X}", static_cast<unsigned char>(rest[0]));
    rest.remove_prefix(1);
  }
  return quoted + "\"";
}

/// Ids alone, of what Tokenize wrote; commas, of which each has an id on both sides, become spaces.
absl::StatusOr<std::string> WithoutQuotes(const std::string& text) {
  std::string ids;
  bool id_before = false;
  bool comma_before = false;
  for (size_t i = 0; i < text.size(); ++i) {
    if (text[i] != '"') {
      const bool comma = text[i] == ',';
      if (comma && !id_before) return InvalidArgument("'{}' has nothing before a comma", text);
      const bool blank = std::isspace(static_cast<unsigned char>(text[i])) != 0;
      if (!blank) std::tie(id_before, comma_before) = std::pair(!comma, comma);
      ids += comma ? ' ' : text[i];
      continue;
    }
    const size_t begin = i++;
    while (i < text.size() && text[i] != '"') i += text[i] == '\\' ? 2 : 1;
    if (i >= text.size()) {
      return InvalidArgument("the quote that begins at byte {} has no end", begin);
    }
  }
  if (comma_before) return InvalidArgument("'{}' has nothing behind a comma", text);
  return ids;
}

absl::StatusOr<ordered_json> ReadMessages(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text,
                          path == "-" ? ReadStandardInput() : ReadTextFile(path));
  ordered_json document = ordered_json::parse(text, nullptr, false);
  if (document.is_discarded()) {
    return InvalidArgument("{}: not JSON; expected [{{\"role\":\"user\",\"content\":\"...\"}}]",
                           path);
  }
  if (document.is_object() && document.contains("messages")) return document["messages"];
  return document;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseTokens(const std::string& given) {
  const std::string text(frontend::WithoutByteOrderMark(given));
  std::vector<int32_t> tokens;
  const size_t first = text.find_first_not_of(" \t\r\n");
  if (first != std::string::npos && (text[first] == '{' || text[first] == '[')) {
    const auto document = ordered_json::parse(text, nullptr, false);
    const auto& list =
        document.is_object() && document.contains("tokens") ? document["tokens"] : document;
    if (!list.is_array()) return InvalidArgument("expected [1,2,3] or {{\"tokens\":[1,2,3]}}");
    for (const auto& entry : list) {
      if (!entry.is_number_integer() || entry < 0 || entry > std::numeric_limits<int32_t>::max()) {
        return InvalidArgument("{} is no token id", entry.dump());
      }
      tokens.push_back(entry.get<int32_t>());
    }
    return tokens;
  }
  TANDEM_ASSIGN_OR_RETURN(const std::string spaced, WithoutQuotes(text));
  std::istringstream words(spaced);
  for (std::string word; words >> word;) {
    int32_t token = 0;
    const char* end = word.data() + word.size();
    const auto [rest, error] = std::from_chars(word.data(), end, token);
    if (error != std::errc() || rest != end || token < 0) {
      return InvalidArgument("'{}' is no token id; expected whole numbers, e.g. 1,2,3", word);
    }
    tokens.push_back(token);
  }
  return tokens;
}

absl::Status Tokenize(const TokenizeOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const OpenTokenizer open, Open(options.model));
  TANDEM_ASSIGN_OR_RETURN(const std::string text, OrStandardInput(options.text));
  TANDEM_ASSIGN_OR_RETURN(
      const std::vector<int32_t> ids,
      open.tokenizer->Encode(text, {.special = options.special, .bos = options.bos}));
  if (options.json) {
    PrintJson({{"tokens", ids}});
    return absl::OkStatus();
  }
  for (const int32_t id : ids) {
    PrintOutput("{:>8} {}\n", id, Quoted(open.tokenizer->TokenBytes(id)));
  }
  return absl::OkStatus();
}

absl::Status Detokenize(const DetokenizeOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const OpenTokenizer open, Open(options.model));
  TANDEM_ASSIGN_OR_RETURN(const std::string tokens, OrStandardInput(options.tokens));
  TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids, ParseTokens(tokens));
  TANDEM_ASSIGN_OR_RETURN(const std::string text,
                          frontend::Decode(*open.tokenizer, ids, {.special = options.special}));
  if (options.json) {
    PrintJson({{"text", text}});
  } else {
    WriteOutput(text);
  }
  return absl::OkStatus();
}

absl::Status Template(const TemplateOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(const OpenTokenizer open, Open(options.model));
  TANDEM_ASSIGN_OR_RETURN(const ordered_json messages, ReadMessages(options.messages));
  const frontend::Vocabulary& vocabulary = open.tokenizer->vocabulary();
  const auto spelling = [&](std::optional<int32_t> id) {
    return id ? std::string(vocabulary.text(*id)) : std::string();
  };
  std::optional<std::string> choice;
  if (!options.chat_template.empty()) choice = options.chat_template;
  std::optional<std::string> own;
  if (open.file->Has("tokenizer.chat_template")) {
    TANDEM_ASSIGN_OR_RETURN(const std::string_view text,
                            open.file->String("tokenizer.chat_template"));
    own = std::string(text);
  }
  TANDEM_ASSIGN_OR_RETURN(
      const frontend::SelectedTemplate selected,
      frontend::SelectTemplate(choice, own, options.bos_token.value_or(spelling(vocabulary.bos())),
                               options.eos_token.value_or(spelling(vocabulary.eos()))));
  if (!selected.note.empty()) fmt::print(stderr, "tandem: {}\n", selected.note);
  TANDEM_ASSIGN_OR_RETURN(const std::vector<frontend::TextSegment> segments,
                          selected.chat.Render(messages, !options.no_generation_prompt));
  const std::string text = frontend::JoinSegments(segments);
  if (options.json) {
    TANDEM_ASSIGN_OR_RETURN(const std::vector<int32_t> ids,
                            open.tokenizer->EncodeSegments(segments));
    PrintJson({{"text", text}, {"tokens", ids}});
  } else {
    WriteOutput(text);
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
