#include "frontend/protocol/protocol.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>

#include "fmt/format.h"
#include "frontend/protocol/known_fields.h"
#include "frontend/server/answer_frames.h"

namespace tandem::frontend {
namespace {

using ::testing::HasSubstr;

/// A chat frame with more fields, given as JSON text like `,"top_k":5`.
std::string Chat(const std::string& more) {
  return R"({"v":1,"type":"chat","id":"r1","messages":[{"role":"user","content":"Hi"}])" + more +
         "}";
}
std::string Complete(const std::string& more) {
  return R"({"v":1,"type":"complete","id":"r1")" + more + "}";
}

Request Accepted(const std::string& frame) {
  auto parsed = ParseRequest(frame, {});
  if (const auto* error = std::get_if<RequestError>(&parsed)) {
    ADD_FAILURE() << frame << " was refused: " << error->message;
    return {};
  }
  return std::get<Request>(parsed);
}

GenerateRequest AcceptedGenerate(const std::string& frame) {
  const Request request = Accepted(frame);
  const auto* generate = std::get_if<GenerateRequest>(&request.body);
  if (generate == nullptr) {
    ADD_FAILURE() << frame;
    return {};
  }
  return *generate;
}

TEST(ParseRequest, ReadsAChat) {
  const Request request = Accepted(
      R"({"v":1,"type":"chat","id":"r1","messages":[{"role":"system","content":"Be brief."},
      {"role":"user","content":"Hi \ud83d\ude80","name":"ignored"}],"max_tokens":64,"temperature":0.5,
      "top_k":40,"top_p":0.9,"min_p":0.05,"repetition_penalty":1.1,"seed":7,"stop":["\n\n","END"],
      "logit_bias":{"5":-1.5,"7":2},"deadline":2.5,"somebody's":"field"})");
  EXPECT_EQ(request.id, "r1");
  const auto& generate = std::get<GenerateRequest>(request.body);
  EXPECT_EQ(std::get<0>(generate.input),
            (std::vector<ChatMessage>{{"system", "Be brief."}, {"user", "Hi 🚀"}}));
  const GenerationParams& params = generate.params;
  EXPECT_EQ(params.max_tokens, 64);
  EXPECT_FLOAT_EQ(params.sampling.temperature, 0.5F);
  EXPECT_EQ(params.sampling.top_k, 40);
  EXPECT_FLOAT_EQ(params.sampling.top_p, 0.9F);
  EXPECT_FLOAT_EQ(params.sampling.min_p, 0.05F);
  EXPECT_FLOAT_EQ(params.sampling.repetition_penalty, 1.1F);
  EXPECT_EQ(params.seed, 7U);
  EXPECT_EQ(params.stop, (std::vector<std::string>{"\n\n", "END"}));
  EXPECT_EQ(params.sampling.logit_bias,
            (std::vector<std::pair<int32_t, float>>{{5, -1.5F}, {7, 2.0F}}));
  EXPECT_EQ(generate.deadline_seconds, 2.5);
}

TEST(ParseRequest, HasTheDefaultsOfTheProtocol) {
  const GenerateRequest request = AcceptedGenerate(Chat(""));
  EXPECT_FALSE(request.params.max_tokens);
  EXPECT_FALSE(request.params.seed);
  EXPECT_FALSE(request.deadline_seconds);
  EXPECT_TRUE(request.params.stop.empty());
  EXPECT_EQ(request.params.sampling.temperature, 0.0F);
  EXPECT_EQ(request.params.sampling.top_p, 1.0F);
  EXPECT_EQ(request.params.sampling.repetition_penalty, 1.0F);
}

TEST(ParseRequest, TakesOtherSpellings) {
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"stop":"END")")).params.stop,
            std::vector<std::string>{"END"});
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"max_tokens":64.0)")).params.max_tokens, 64);
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"max_tokens":null,"seed":null)")).params.seed, std::nullopt);
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"seed":18446744073709551615)")).params.seed,
            18446744073709551615U);
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"logit_bias":[[5,1]])")).params.sampling.logit_bias.size(),
            1U);
  EXPECT_EQ(std::get<1>(AcceptedGenerate(Complete(R"(,"prompt":"raw")")).input), "raw");
  EXPECT_EQ(std::get<2>(AcceptedGenerate(Complete(R"(,"tokens":[1,2])")).input),
            (std::vector<int32_t>{1, 2}));
  AcceptedGenerate(Chat(R"(,"conversation":null,"n":1,"logprobs":false,"tools":[],"echo":false)"));
  EXPECT_EQ(Accepted(R"({"type":"ping"})").id, "")
      << "v and id may be left out where nothing hangs "
         "on them";
  Accepted(R"({"v":1,"type":"status","id":"s"})");
  Accepted(R"({"v":1,"type":"cancel","id":"r1"})");
}

TEST(ParseRequest, ReadsWhatManyConversationsNeed) {
  const GenerateRequest chat = AcceptedGenerate(
      Chat(R"(,"conversation":"c1","tenant":"t","priority":-3,"logprobs":0,"cache":false,
              "speculate":false,"context_policy":"window:4096")"));
  EXPECT_EQ(chat.conversation, "c1");
  EXPECT_EQ(chat.tenant, "t");
  EXPECT_EQ(chat.params.priority, -3);
  EXPECT_EQ(chat.params.logprobs, 0);
  EXPECT_FALSE(chat.params.reuse);
  EXPECT_FALSE(chat.params.speculate);
  EXPECT_EQ(chat.context_policy,
            (ContextPolicy{.kind = ContextPolicy::Kind::kWindow, .window = 4096}));
  const GenerateRequest plain = AcceptedGenerate(Chat(""));
  EXPECT_FALSE(plain.conversation || plain.context_policy || plain.params.logprobs || plain.echo);
  EXPECT_TRUE(plain.params.reuse && plain.params.speculate);
  EXPECT_EQ(plain.samples, 1);
  const GenerateRequest complete =
      AcceptedGenerate(Complete(R"(,"prompt":"x","n":16,"echo":true,"logprobs":20)"));
  EXPECT_EQ(complete.samples, 16);
  EXPECT_TRUE(complete.echo);
  const Request resume = Accepted(R"({"type":"resume","id":"r1","last_seq":7})");
  EXPECT_EQ(std::get<ResumeRequest>(resume.body).last_seq, 7);
  const Request list =
      Accepted(R"({"type":"conversation.list","tenant":"t","after":"a","limit":5})");
  EXPECT_EQ(std::get<ConversationListRequest>(list.body).after, "a");
  const Request fork =
      Accepted(R"({"type":"conversation.fork","id":"f","conversation":"a","to":"b"})");
  EXPECT_EQ(std::get<ConversationForkRequest>(fork.body).to, "b");
}

TEST(ParseRequest, ReadsFieldsByTheirNamesElsewhere) {
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"max_completion_tokens":2)")).params.max_tokens, 2);
  EXPECT_EQ(
      AcceptedGenerate(Chat(R"(,"max_completion_tokens":2,"max_tokens":2)")).params.max_tokens, 2);
  EXPECT_EQ(AcceptedGenerate(Complete(R"(,"prompt":"x","n_predict":3)")).params.max_tokens, 3);
  EXPECT_FALSE(AcceptedGenerate(Complete(R"(,"prompt":"x","n_predict":-1)")).params.max_tokens);
  const GenerationParams params =
      AcceptedGenerate(Chat(R"(,"repeat_penalty":1.25,"stop_token_ids":[5,7],"ignore_eos":true,
                                "top_k":-1)"))
          .params;
  EXPECT_FLOAT_EQ(params.sampling.repetition_penalty, 1.25F);
  EXPECT_EQ(params.stop_tokens, (std::vector<int32_t>{5, 7}));
  EXPECT_TRUE(params.ignore_eos);
  EXPECT_EQ(params.sampling.top_k, 0);
  EXPECT_FALSE(AcceptedGenerate(Chat("")).params.ignore_eos);
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"min_tokens":3)")).params.min_tokens, 3);
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"min_new_tokens":3,"min_tokens":3)")).params.min_tokens, 3);
  EXPECT_EQ(AcceptedGenerate(Chat(R"(,"min_tokens":null)")).params.min_tokens, 0);
}

/// A chat or complete (or a message of a chat) with one field; `more`: another one.
std::string WithField(const KnownField& field, const std::string& value) {
  const std::string text = fmt::format(R"("{}":{})", field.name, value);
  if (field.place == FieldPlace::kMessage) {
    return R"({"type":"chat","id":"r1","messages":[{"role":"user","content":"Hi",)" + text + "}]}";
  }
  const std::string more = (field.beside_penalty ? R"(,"repeat_penalty":1.5,)" : ",") + text;
  return field.place == FieldPlace::kComplete ? Complete(R"(,"prompt":"x")" + more) : Chat(more);
}

TEST(KnownFields, ThatWouldChangeTheAnswerAreRefusedByName) {
  int refused = 0;
  for (const KnownField& field : KnownFields()) {
    if (field.neutral == "read") continue;
    const std::string strange = WithField(field, R"({"strange":["value"]})");
    const auto parsed = ParseRequest(strange, {});
    if (field.neutral == "any") {
      EXPECT_TRUE(std::holds_alternative<Request>(parsed)) << strange;
      continue;
    }
    ++refused;
    const auto* error = std::get_if<RequestError>(&parsed);
    ASSERT_NE(error, nullptr) << strange;
    EXPECT_EQ(error->code, ErrorCode::kUnimplemented) << strange;
    EXPECT_THAT(error->message, HasSubstr(std::string(field.name) + ": this server")) << strange;
    std::string neutral(field.neutral);
    if (neutral.starts_with("off")) neutral.replace(0, 3, R"(false, 0, 0.0, "", [], {})");
    for (const nlohmann::json& value : nlohmann::json::parse("[null, " + neutral + "]")) {
      const Request request = Accepted(WithField(field, value.dump()));
      EXPECT_EQ(request.unknown_fields.count, 0U) << field.name;
    }
  }
  EXPECT_GT(refused, 100);
}

TEST(KnownFields, DoWhatTheyDoElsewhere) {
  const auto refused = [](const std::string& frame) {
    const auto parsed = ParseRequest(frame, {});
    const auto* error = std::get_if<RequestError>(&parsed);
    return error == nullptr ? std::string() : error->message.substr(0, error->message.find(':'));
  };
  EXPECT_EQ(refused(Complete(R"(,"prompt":"x","continue_final_message":true)")),
            "continue_final_message");
  EXPECT_EQ(refused(Chat(R"(,"response_format":{"type":"json_object"})")), "response_format");
  EXPECT_EQ(refused(Chat(R"(,"json_schema":{})")), "json_schema") << "any JSON, but JSON";
  EXPECT_EQ(refused(Chat(R"(,"skip_special_tokens":false)")), "skip_special_tokens");
  EXPECT_EQ(refused(Chat(R"(,"repeat_last_n":64,"repeat_penalty":1.1)")), "repeat_last_n");
  EXPECT_EQ(refused(Chat(R"(,"repeat_last_n":64,"frequency_penalty":1)")), "repeat_last_n");
  EXPECT_EQ(refused(Chat(R"(,"repeat_last_n":64,"repeat_penalty":1)")), "");
  EXPECT_EQ(refused(Chat(R"(,"repeat_last_n":64)")), "");
  EXPECT_EQ(refused(Complete(R"(,"prompt":"x","add_special_tokens":false)")), "add_special_tokens");
  EXPECT_EQ(refused(Chat(R"(,"add_special_tokens":false)")), "");
  EXPECT_EQ(refused(R"({"type":"chat","id":"r1","messages":[{"role":"user","content":"x"},)"
                    R"({"role":"assistant","content":"","tool_calls":[{"id":"1"}]}]})"),
            "messages[1].tool_calls");
  EXPECT_EQ(refused(Chat(R"(,"prompt":"x")")), "prompt");
  EXPECT_EQ(refused(Chat(R"(,"max_output_tokens":5)")), "max_output_tokens");
  EXPECT_EQ(refused(Chat(R"(,"text":{"format":{"type":"json_schema"}})")), "text");
  EXPECT_EQ(refused(Chat(R"(,"truncation":"auto")")), "truncation");
  EXPECT_EQ(refused(Chat(R"(,"cfg_scale":1.5)")), "cfg_scale");
  EXPECT_EQ(refused(Complete(R"(,"prompt":"x","messages":[])")), "messages");
  EXPECT_EQ(refused(Chat(R"(,"model":"gpt-4o","user":"u","metadata":{"a":"b"},"store":true,)"
                         R"("service_tier":"flex","seed":1,"stream":true,)"
                         R"("stream_options":{"include_usage":true})")),
            "");
}

TEST(KnownFields, AcceptDamageIsOfChatAlone) {
  const auto parsed = ParseRequest(Complete(R"(,"prompt":"x","accept_damage":true)"), {});
  const auto* error = std::get_if<RequestError>(&parsed);
  ASSERT_NE(error, nullptr);
  EXPECT_EQ(error->code, ErrorCode::kInvalidArgument);
  EXPECT_THAT(error->message, HasSubstr("accept_damage: it is for chat, and not for complete"));
}

TEST(ParseRequest, AFieldThatIsGivenTwiceIsRefusedByName) {
  const auto refused = [](const std::string& frame) {
    const auto parsed = ParseRequest(frame, {});
    const auto* error = std::get_if<RequestError>(&parsed);
    return error == nullptr ? std::string("accepted") : error->id + ": " + error->message;
  };
  EXPECT_EQ(refused(Chat(R"(,"max_tokens":2,"max_tokens":6)")),
            "r1: \"max_tokens\": it is given twice in one object; send it once");
  EXPECT_THAT(refused(Chat(R"(,"max_tokens":2,"max\u005ftokens":2)")), HasSubstr("max_tokens"));
  EXPECT_THAT(refused(R"({"type":"chat","id":"r1","messages":[{"role":"user","content":"a",)"
                      R"("content":"b"}]})"),
              HasSubstr("\"content\": it is given twice"));
  EXPECT_THAT(refused(Chat(R"(,"metadata":{"a":{"b":1,"b":1}})")), HasSubstr("\"b\""));
  // The same name in several objects, and colons in texts.
  EXPECT_EQ(refused(Chat(R"(,"metadata":{"a:":":\":","c":[{"a":1},{"a":2}],"d":{}})")), "accepted");
}

TEST(KnownFields, OthersAreCounted) {
  const Request request = Accepted(
      R"({"type":"chat","id":"r1","messages":[{"role":"user","content":"x","mood":"good"}],
          "zeal":1,"\u001b[2J\u00e4":2,"model":"m"})");
  EXPECT_EQ(request.unknown_fields.count, 3U);
  std::vector<std::string> names = request.unknown_fields.names;
  std::sort(names.begin(), names.end());
  EXPECT_EQ(names, (std::vector<std::string>{"\\u001b[2J\\u00e4", "mood", "zeal"}));
  EXPECT_EQ(Accepted(R"({"type":"ping","zeal":1})").unknown_fields.count, 1U);
  EXPECT_EQ(Accepted(R"({"type":"conversation.list","after":"","limit":5})").unknown_fields.count,
            0U);
  std::string many;
  for (int i = 0; i < 500; ++i) many += fmt::format(R"(,"{}{}":1)", i, std::string(i, 'x'));
  const UnknownFields unknown = Accepted(Chat(many)).unknown_fields;
  EXPECT_EQ(unknown.count, 500U);
  EXPECT_EQ(unknown.names.size(), UnknownFields::kNames);
  for (const std::string& name : unknown.names) EXPECT_LE(name.size(), UnknownFields::kNameBytes);
}

TEST(KnownFields, AreThoseOfTheDocument) {
  std::ifstream file(TANDEM_SOURCE_DIR "/docs/protocol.md");
  const std::string document{std::istreambuf_iterator<char>(file), {}};
  for (const KnownField& field : KnownFields()) {
    const std::string name = fmt::format("`{}`", field.name);
    const auto has = [&](std::string_view text) {
      return document.find(text) != std::string::npos;
    };
    if (field.neutral == "read") {
      EXPECT_TRUE(has(name) || has(fmt::format("\"{}\"", field.name))) << name;
      continue;
    }
    // | neutral at | fields |
    const std::string row = fmt::format(
        "\n| {} |", field.neutral == "any" ? "any value" : fmt::format("`{}`", field.neutral));
    bool found = false;
    for (size_t at = document.find(row); at != std::string::npos && !found;
         at = document.find(row, at + 1)) {
      const size_t end = document.find('\n', at + 1);
      found = std::string_view(document).substr(at, end - at).find(name) != std::string::npos;
    }
    EXPECT_TRUE(found) << row << " " << name;
  }
}

/// A new field of the protocol's own that is missing in the table would count as nobody's.
TEST(KnownFields, HaveAllThatTheDocumentTellsOfItsOwn) {
  std::ifstream file(TANDEM_SOURCE_DIR "/docs/protocol.md");
  const std::string document{std::istreambuf_iterator<char>(file), {}};
  const size_t begin = document.find("Other fields of `chat` and `complete`:");
  const size_t end = document.find("\n- ", begin);
  ASSERT_NE(end, std::string::npos);
  std::istringstream table(document.substr(begin, end - begin));
  int told = 0;
  for (std::string line; std::getline(table, line);) {
    if (!line.starts_with("| `")) continue;
    const std::string name = line.substr(3, line.find('`', 3) - 3);
    ++told;
    EXPECT_TRUE(std::any_of(KnownFields().begin(), KnownFields().end(), [&](const auto& field) {
      return field.name == name && field.neutral == "read";
    })) << name;
  }
  EXPECT_GE(told, 9);
}

TEST(IdIn, FindsTheIdOfWhatIsNotThereAsAWhole) {
  const auto id = [](std::string_view beginning) { return IdIn(beginning, {}); };
  EXPECT_EQ(id(R"({"v":1,"type":"chat","id":"r1","messages":[{"role":"user","content":"aaa)"),
            "r1");
  EXPECT_EQ(id(R"({"messages":[{"id":"no"},["id"]],"n":-1.5e3,"x":{"id":"no"},"id":"r2"})"), "r2");
  EXPECT_EQ(id(R"({"id":"r\u00e4","oops)"), "rä");
  for (const std::string_view none :
       {R"({"messages":[{"id":"no","content":"aaa)", R"(["id","no"])", R"([{"id":"no"}])",
        R"("id")", R"({"id":7,"x":)", R"({"id":["no"]})", R"({"id":{"id":"no"}})", R"({"id":"no)",
        "", "{", R"({} {"id":"no"})", "nonsense"}) {
    EXPECT_EQ(id(none), "") << none;
  }
  EXPECT_EQ(id(R"({"id":")" + std::string(257, 'x') + R"("})"), "");
  EXPECT_EQ(id(std::string(100000, '[')), "");
}

TEST(ParseRequest, EqualRequestsHaveEqualFingerprints) {
  const uint64_t one = Accepted(Chat(R"(,"seed":1,"top_k":2)")).fingerprint;
  EXPECT_EQ(Accepted(Chat(R"(, "top_k":2,  "seed":1)")).fingerprint, one);
  EXPECT_NE(Accepted(Chat(R"(,"seed":2,"top_k":2)")).fingerprint, one);
}

struct Refusal {
  std::string frame;
  ErrorCode code;
  std::string says;  // part of the message
};

TEST(ParseRequest, RefusesAndSaysWhatWhereAndHow) {
  constexpr ErrorCode kInvalid = ErrorCode::kInvalidArgument;
  constexpr ErrorCode kUnbuilt = ErrorCode::kUnimplemented;
  const std::vector<Refusal> refusals = {
      {"", kInvalid, "empty"},
      {"{", kInvalid, "at byte 2"},
      {"nonsense", kInvalid, "not JSON"},
      {"\xff\xfe{}", kInvalid, "not JSON in UTF-8"},
      {"{\"v\":1,\"type\":\"ping\",\"id\":\"\xff\"}", kInvalid, "at byte"},
      {R"({"v":1,"id":"\ud800"})", kInvalid, "at byte"},
      {"{} {}", kInvalid, "not JSON"},
      {std::string("{}\0", 3), kInvalid, "not JSON"},
      {"[]", kInvalid, "not a JSON object, but []"},
      {"17", kInvalid, "not a JSON object, but 17"},
      {std::string(33, '[') + std::string(33, ']'), kInvalid, "33 levels deep, at most 32"},
      {std::string(100000, '['), kInvalid, "levels deep"},
      {"{}", kInvalid, "type: expected"},
      {R"({"v":1,"type":7,"id":"x"})", kInvalid, "found 7"},
      {R"({"v":1,"type":"frobnicate","id":"x"})", kInvalid, "found \"frobnicate\""},
      {R"({"v":2,"type":"ping"})", kInvalid, "version 1"},
      {R"({"v":"1","type":"ping"})", kInvalid, "send \"v\":1"},
      {R"({"v":1,"type":"chat","messages":[{"role":"user","content":"x"}]})", kInvalid,
       "id: a chat needs one"},
      {R"({"v":1,"type":"cancel"})", kInvalid, "id: a cancel needs one"},
      {R"({"v":1,"type":"ping","id":7})", kInvalid, "id: expected a string"},
      {R"({"v":1,"type":"ping","id":""})", kInvalid, "id: expected a string of 1 to 256"},
      {R"({"v":1,"type":"ping","id":")" + std::string(257, 'x') + R"("})", kInvalid, "256 bytes"},
      {R"({"v":1,"type":"resume","last_seq":3})", kInvalid, "id: a resume needs one"},
      {R"({"v":1,"type":"resume","id":"r1","last_seq":-2})", kInvalid, "last_seq"},
      {R"({"v":1,"type":"resume","id":"r1","last_seq":"x"})", kInvalid, "last_seq"},
      {R"({"v":1,"type":"conversation.rename","id":"r1"})", kInvalid, "conversation.fork"},
      {R"({"v":1,"type":"conversation.","id":"r1"})", kInvalid, "type: expected one of"},
      {R"({"v":1,"type":"conversation.list","id":"r1","limit":1001})", kInvalid, "limit"},
      {R"({"v":1,"type":"conversation.list","id":"r1","tenant":7})", kInvalid, "tenant"},
      {R"({"v":1,"type":"conversation.get","id":"r1"})", kInvalid,
       "conversation: expected the name"},
      {R"({"v":1,"type":"conversation.get","id":"r1","conversation":"c","from":-1})", kInvalid,
       "from"},
      {R"({"v":1,"type":"conversation.delete","id":"r1","conversation":""})", kInvalid,
       "conversation: expected a string of 1 to 256 bytes"},
      {R"({"v":1,"type":"conversation.fork","id":"r1","conversation":"c"})", kInvalid,
       "to: expected"},
      {R"({"v":1,"type":"conversation.fork","id":"r1","conversation":"c","to":")" +
           std::string(257, 'x') + R"("})",
       kInvalid, "to: expected a string of 1 to 256 bytes"},
      {R"({"v":1,"type":"chat","id":"r1"})", kInvalid, "messages: expected a list"},
      {R"({"v":1,"type":"chat","id":"r1","messages":[]})", kInvalid, "messages: expected a list"},
      {R"({"v":1,"type":"chat","id":"r1","messages":["Hi"]})", kInvalid, "messages[0]: expected"},
      {R"({"v":1,"type":"chat","id":"r1","messages":[{"role":"root","content":"x"}]})", kInvalid,
       "messages[0].role"},
      {R"({"v":1,"type":"chat","id":"r1","messages":[{"role":["user"],"content":"x"}]})", kInvalid,
       "messages[0].role"},
      {R"({"v":1,"type":"chat","id":"r1","messages":[{"role":"user","content":"x"},{"role":"user"}]})",
       kInvalid, "messages[1].content: expected a string, found nothing"},
      {Chat(R"(,"max_tokens":-1)"), kInvalid, "max_tokens: expected an integer from 0"},
      {Chat(R"(,"max_tokens":1.5)"), kInvalid, "found 1.5"},
      {Chat(R"(,"max_tokens":1e300)"), kInvalid, "max_tokens"},
      {Chat(R"(,"max_tokens":99999999999999999999)"), kInvalid, "max_tokens"},
      {Chat(R"(,"max_tokens":"64")"), kInvalid, "found \"64\""},
      {Chat(R"(,"max_tokens":true)"), kInvalid, "found true"},
      {Chat(R"(,"temperature":-0.1)"), kInvalid, "temperature: expected a number of at least 0"},
      {Chat(R"(,"temperature":"hot")"), kInvalid, "temperature"},
      {Chat(R"(,"temperature":NaN)"), kInvalid, "not JSON"},
      {Chat(R"(,"temperature":1e999)"), kInvalid, "too large"},
      {Chat(R"(,"top_k":-5)"), kInvalid, "top_k"},
      {Chat(R"(,"top_p":-0.1)"), kInvalid,
       "top_p: expected a number of at least 0 and at most 1, found -0.1"},
      {Chat(R"(,"top_p":1.1)"), kInvalid, "top_p"},
      {Chat(R"(,"min_p":2)"), kInvalid, "min_p"},
      {Chat(R"(,"repetition_penalty":0)"), kInvalid, "repetition_penalty"},
      {Chat(R"(,"seed":-1)"), kInvalid, "leave it out for a random one"},
      {Chat(R"(,"seed":"x")"), kInvalid, "seed"},
      {Chat(R"(,"stop":[""])"), kInvalid, "stop: expected strings of 1 to"},
      {Chat(R"(,"stop":[1])"), kInvalid, "stop: expected strings"},
      {Chat(R"(,"stop":{"a":"b"})"), kInvalid, "stop: expected a string or a list"},
      {Chat(R"(,"stop":")" + std::string(5000, 'x') + "\""), kInvalid, "4096 bytes"},
      {Chat(R"(,"logit_bias":7)"), kInvalid, "logit_bias"},
      {Chat(R"(,"logit_bias":{"five":1})"), kInvalid, "expected a token id, found \"five\""},
      {Chat(R"(,"logit_bias":{"-5":1})"), kInvalid, "expected a token id"},
      {Chat(R"(,"logit_bias":{"5":1e6})"), kInvalid, "logit_bias of token 5"},
      {Chat(R"(,"logit_bias":[[5]])"), kInvalid, "expected [token, bias]"},
      {Chat(R"(,"deadline":0)"), kInvalid, "deadline"},
      {Chat(R"(,"conversation":7)"), kInvalid, "conversation: expected a string"},
      {Chat(R"(,"conversation":"")"), kInvalid, "conversation: expected a string of 1 to 256"},
      {Chat(R"(,"conversation":"c","n":2)"), kInvalid, "a conversation goes on with one answer"},
      {Chat(R"(,"n":0)"), kInvalid, "n: expected an integer from 1 to 16"},
      {Chat(R"(,"n":17)"), kInvalid, "n: expected an integer from 1 to 16"},
      {Chat(R"(,"logprobs":true)"), kInvalid, "logprobs: expected an integer from 0 to 20"},
      {Chat(R"(,"logprobs":21)"), kInvalid, "logprobs"},
      {Chat(R"(,"echo":true)"), kInvalid, "echo: it is for complete"},
      {Chat(R"(,"echo":1)"), kInvalid, "echo: expected true or false"},
      {Chat(R"(,"priority":101)"), kInvalid, "priority: expected an integer from -100 to 100"},
      {Chat(R"(,"tenant":")" + std::string(257, 'x') + R"(")"), kInvalid, "tenant"},
      {Chat(R"(,"cache":"no")"), kInvalid, "cache: expected true or false"},
      {Chat(R"(,"speculate":1)"), kInvalid, "speculate: expected true or false"},
      {Chat(R"(,"context_policy":"slide")"), kInvalid, "context_policy: expected"},
      {Chat(R"(,"context_policy":"window:0")"), kInvalid, "window:N"},
      {Chat(R"(,"context_policy":"window:-5")"), kInvalid, "window:N"},
      {Chat(R"(,"context_policy":"window:99999999999")"), kInvalid, "window:N"},
      {Chat(R"(,"context_policy":"window:5x")"), kInvalid, "window:N"},
      {Chat(R"(,"context_policy":5)"), kInvalid, "context_policy: expected a string"},
      {Complete(R"(,"prompt":"x","conversation":"c")"), kInvalid, "conversation: it is for chat"},
      {Complete(R"(,"prompt":"x","context_policy":"stop")"), kInvalid, "context_policy: it is"},
      {Chat(R"(,"tools":[{}])"), kUnbuilt, "tools"},
      {Chat(R"(,"max_completion_tokens":2,"max_tokens":3)"), kInvalid,
       "max_completion_tokens: 2 stands beside max_tokens 3"},
      {Chat(R"(,"repeat_penalty":1.5,"repetition_penalty":1.25)"), kInvalid,
       "repeat_penalty: 1.5 stands beside repetition_penalty 1.25"},
      {Chat(R"(,"n_predict":-2)"), kInvalid, "n_predict: expected an integer from -1"},
      {Chat(R"(,"stop_token_ids":7)"), kInvalid, "stop_token_ids: expected a list"},
      {Chat(R"(,"stop_token_ids":[-1])"), kInvalid, "stop_token_ids[0]: expected a token id"},
      {Chat(R"(,"ignore_eos":1)"), kInvalid, "ignore_eos: expected true or false"},
      {Chat(R"(,"min_tokens":-1)"), kInvalid, "min_tokens: expected an integer from 0"},
      {Chat(R"(,"min_tokens":2147483648)"), kInvalid, "min_tokens: expected an integer from 0"},
      {Chat(R"(,"min_new_tokens":2,"min_tokens":3)"), kInvalid,
       "min_new_tokens: 2 stands beside min_tokens 3"},
      {R"({"v":1,"type":"chat","id":"r1",,)", kInvalid, "not JSON"},
      {Complete(""), kInvalid, "found neither"},
      {Complete(R"(,"prompt":"x","tokens":[1])"), kInvalid, "found both"},
      {Complete(R"(,"prompt":7)"), kInvalid, "prompt: expected a string"},
      {Complete(R"(,"tokens":[])"), kInvalid, "tokens: expected a list of at least one"},
      {Complete(R"(,"tokens":[1,-2])"), kInvalid, "tokens[1]: expected a token id, found -2"},
      {Complete(R"(,"tokens":[4294967296])"), kInvalid, "tokens[0]"},
      {std::string((1 << 20) + 1, ' '), ErrorCode::kTooLarge, "at most 1048576"},
  };
  for (const Refusal& refusal : refusals) {
    const auto parsed = ParseRequest(refusal.frame, {});
    const auto* error = std::get_if<RequestError>(&parsed);
    ASSERT_NE(error, nullptr) << refusal.frame.substr(0, 200);
    EXPECT_EQ(ErrorCodeName(error->code), ErrorCodeName(refusal.code))
        << refusal.frame.substr(0, 200);
    EXPECT_THAT(error->message, HasSubstr(refusal.says)) << refusal.frame.substr(0, 200);
    EXPECT_LT(error->message.size(), 400U) << "a message quotes little of the frame";
    if (refusal.frame.find(R"("id":"r1")") != std::string::npos) {
      EXPECT_EQ(error->id, "r1") << refusal.frame;
    }
    // The answer is valid JSON whatever it quotes.
    const auto frame =
        nlohmann::json::parse(ErrorFrame(error->id, error->code, error->message), nullptr, false);
    EXPECT_EQ(frame.value("type", ""), "error");
  }
}

TEST(AnswerFrames, HaveTheFieldsInTheOrderOfTheProtocol) {
  EXPECT_EQ(AcceptedFrame("r1"), R"({"v":1,"id":"r1","type":"accepted"})");
  EXPECT_EQ(DeltaFrame("r1", 0, "Hel\"\n"),
            R"({"v":1,"id":"r1","type":"delta","seq":0,"text":"Hel\"\n"})");
  EXPECT_EQ(ErrorFrame("", ErrorCode::kTooLarge, "m"),
            R"({"v":1,"id":null,"type":"error","code":"too_large","message":"m"})");
  EXPECT_EQ(PongFrame("", true), R"({"v":1,"type":"pong","ready":true})");
  EXPECT_EQ(DeltaFrame("r1", 1, "\xff"),
            "{\"v\":1,\"id\":\"r1\",\"type\":\"delta\",\"seq\":1,\"text\":\"\uFFFD\"}")
      << "never an exception";
}

}  // namespace
}  // namespace tandem::frontend
