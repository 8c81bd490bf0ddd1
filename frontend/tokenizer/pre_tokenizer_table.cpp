#include "frontend/tokenizer/pre_tokenizer_table.h"

#include <array>

namespace tandem::frontend {
namespace {

using std::string_view;

constexpr string_view kGpt2Words =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";
constexpr string_view kEachDigit = R"(\p{N})";
constexpr string_view kEachNewline = R"([\r\n])";
constexpr string_view kThreeDigits = R"(\p{N}{1,3})";

constexpr std::array kGpt2 = {kGpt2Words};
constexpr std::array kDigitsGpt2 = {kEachDigit, kGpt2Words};

// Of files older than the key tokenizer.ggml.pre, and of those that say "default".
constexpr std::array<string_view, 4> kDefault = {
    R"([\p{P}$+<=>^~|]+)",
    kGpt2Words,
    R"(\p{N}+)",
    R"([0-9][0-9][0-9])",
};

// The model's own list has a step for runs of digits besides, which works on spelled bytes; its
// merges never cross one, so that leaving it out gives the same tokens.
constexpr std::array<string_view, 3> kFalcon = {
    R"([\p{P}$+<=>^~|`]+)",
    kGpt2Words,
    R"([0-9][0-9][0-9])",
};

constexpr std::array<string_view, 1> kLlama3 = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

constexpr std::array<string_view, 1> kQwen2 = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

constexpr std::array<string_view, 1> kQwen35 = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N})"
    R"(| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

constexpr std::array<string_view, 2> kMiniCpm5 = {
    kThreeDigits,
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+)"
    R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

constexpr std::array<string_view, 1> kSeedCoder = {
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1})"
    R"(| ?[^\s\p{L}\p{N}\r\n]+|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

constexpr std::array<string_view, 1> kBailing = {
    R"('(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N})"
    R"(| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+)",
};

// Cased words: an optional upper-case part, then lower case, and the other way round.
constexpr std::array<string_view, 1> kTekken = {
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

constexpr std::array<string_view, 1> kGpt4o = {
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

constexpr string_view kDeepSeekCjk = R"([\x{4E00}-\x{9FA5}\x{800}-\x{4E00}\x{AC00}-\x{D7FF}]+)";

constexpr std::array<string_view, 6> kDeepSeekLlm = {
    kEachNewline,
    // Letters of the scripts that have two cases.
    R"(\s?[)"
    R"(A-Za-z\x{B5}\x{C0}-\x{D6}\x{D8}-\x{F6}\x{F8}-\x{1BA}\x{1BC}-\x{1BF}\x{1C4}-\x{293})"
    R"(\x{295}-\x{2AF}\x{370}-\x{373}\x{376}\x{377}\x{37B}-\x{37D}\x{37F}\x{386})"
    R"(\x{388}-\x{38A}\x{38C}\x{38E}-\x{3A1}\x{3A3}-\x{3F5}\x{3F7}-\x{481}\x{48A}-\x{52F})"
    R"(\x{531}-\x{556}\x{10A0}-\x{10C5}\x{13A0}-\x{13F5}\x{13F8}-\x{13FD}\x{1C90}-\x{1CBA})"
    R"(\x{1CBD}-\x{1CBF}\x{1D00}-\x{1D2B}\x{1D6B}-\x{1D77}\x{1D79}-\x{1D9A}\x{1E00}-\x{1F15})"
    R"(\x{1F18}-\x{1F1D}\x{1F20}-\x{1F45}\x{1F48}-\x{1F4D}\x{1F50}-\x{1F57}\x{1F59}\x{1F5B})"
    R"(\x{1F5D}\x{1F5F}-\x{1F7D}\x{1F80}-\x{1FB4}\x{1FB6}-\x{1FBC}\x{1FBE}\x{1FC2}-\x{1FC4})"
    R"(\x{1FC6}-\x{1FCC}\x{1FD0}-\x{1FD3}\x{1FD6}-\x{1FDB}\x{1FE0}-\x{1FEC}\x{1FF2}-\x{1FF4})"
    R"(\x{1FF6}-\x{1FFC}\x{2102}\x{2107}\x{210A}-\x{2113}\x{2115}\x{2119}-\x{211D}\x{2124})"
    R"(\x{2126}\x{2128}\x{212A}-\x{212D}\x{212F}-\x{2134}\x{2139}\x{213C}-\x{213F})"
    R"(\x{2145}-\x{2149}\x{214E}\x{2183}\x{2184}\x{2C00}-\x{2C7B}\x{2C7E}-\x{2CE4})"
    R"(\x{2CEB}-\x{2CEE}\x{2CF2}\x{2CF3}\x{A640}-\x{A66D}\x{A680}-\x{A69B}\x{A722}-\x{A76F})"
    R"(\x{A771}-\x{A787}\x{A78B}-\x{A78E}\x{AB70}-\x{ABBF}\x{FB00}-\x{FB06}\x{FB13}-\x{FB17})"
    R"(\x{FF21}-\x{FF3A}\x{FF41}-\x{FF5A}\x{10400}-\x{1044F}\x{104B0}-\x{104D3})"
    R"(\x{104D8}-\x{104FB}\x{10C80}-\x{10CB2}\x{10CC0}-\x{10CF2}\x{118A0}-\x{118DF})"
    R"(\x{1E900}-\x{1E943})"
    R"(]+)",
    R"(\s?[!-/:-~\x{FF01}-\x{FF0F}\x{FF1A}-\x{FF5E}\x{2018}-\x{201F}\x{3000}-\x{3002}]+)",
    R"(\s+$)",
    kDeepSeekCjk,
    R"(\p{N}+)",
};

constexpr std::array<string_view, 5> kDeepSeekCoder = {
    kEachNewline, R"(\s?\p{L}+)", R"(\s?\p{P}+)", kDeepSeekCjk, kEachDigit,
};

constexpr std::array<string_view, 3> kDeepSeekV3 = {
    kThreeDigits,
    R"([\x{4E00}-\x{9FA5}\x{3040}-\x{309F}\x{30A0}-\x{30FF}]+)",
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
};

constexpr string_view kBloomWords =
    R"( ?[^(\s|.,!?\x{2026}\x{3002}\x{FF0C}\x{3001}\x{964}\x{6D4}\x{60C}]+)";
constexpr std::array kBloom = {kBloomWords};
constexpr std::array kViking = {kBloomWords, kEachDigit};

constexpr string_view kDefaultNames[] = {"default"};
constexpr string_view kGpt2Names[] = {
    "gpt-2",   "phi-2",  "jina-es", "jina-de", "jina-v2-es", "jina-v2-de",     "gigachat",
    "a.x-4.0", "mellum", "exaone4", "jais",    "trillion",   "granite-docling"};
// GPT-NeoX and its kin normalize.
constexpr string_view kNeoxNames[] = {"mpt", "olmo", "modern-bert"};
constexpr string_view kDigitsGpt2Names[] = {"smollm", "starcoder",  "refact", "codeshell",
                                            "exaone", "minerva-7b", "mellum2"};
constexpr string_view kCommandRNames[] = {"command-r"};
constexpr string_view kFalconNames[] = {"falcon"};
constexpr string_view kLlama3Names[] = {"llama-bpe", "llama3",  "llama-v3", "falcon3",
                                        "falcon-h1", "pixtral", "midm-2.0", "lfm2"};
constexpr string_view kLlama3MergedNames[] = {"dbrx", "smaug-bpe", "chatglm-bpe"};
constexpr string_view kGlm4Names[] = {"glm4", "glm5"};
constexpr string_view kQwen2Names[] = {"qwen2", "megrez", "kormo"};
constexpr string_view kQwen35Names[] = {"qwen35"};
constexpr string_view kQwen2PlainNames[] = {"deepseek-r1-qwen", "stablelm2", "hunyuan", "grok-2",
                                            "solar-open"};
constexpr string_view kMiniCpm5Names[] = {"minicpm5"};
constexpr string_view kSeedCoderNames[] = {"seed-coder"};
constexpr string_view kBailingNames[] = {"bailingmoe", "bailingmoe2", "llada-moe"};
constexpr string_view kTekkenNames[] = {"tekken"};
constexpr string_view kGpt4oNames[] = {"gpt-4o", "llama4", "kanana2", "minimax-m2"};
constexpr string_view kDeepSeekLlmNames[] = {"deepseek-llm"};
constexpr string_view kDeepSeekCoderNames[] = {"deepseek-coder"};
constexpr string_view kDeepSeekV3Names[] = {"deepseek-v3", "hunyuan-dense", "joyai-llm"};
constexpr string_view kBloomNames[] = {"bloom", "poro-chat", "gpt3-finnish"};
constexpr string_view kVikingNames[] = {"viking"};

constexpr PreTokenizerEntry kTable[] = {
    {.names = kDefaultNames, .patterns = kDefault},
    {.names = kGpt2Names, .patterns = kGpt2},
    {.names = kNeoxNames, .patterns = kGpt2, .normalizes = true},
    {.names = kDigitsGpt2Names, .patterns = kDigitsGpt2},
    {.names = kCommandRNames, .patterns = kDigitsGpt2, .normalizes = true},
    {.names = kFalconNames, .patterns = kFalcon},
    {.names = kLlama3Names, .patterns = kLlama3, .takes_whole_words = true, .adds_bos = true},
    {.names = kLlama3MergedNames, .patterns = kLlama3},
    {.names = kGlm4Names, .patterns = kLlama3, .takes_whole_words = true},
    {.names = kQwen2Names, .patterns = kQwen2, .normalizes = true},
    {.names = kQwen35Names, .patterns = kQwen35},
    {.names = kQwen2PlainNames, .patterns = kQwen2},
    {.names = kMiniCpm5Names, .patterns = kMiniCpm5, .takes_whole_words = true},
    {.names = kSeedCoderNames, .patterns = kSeedCoder},
    {.names = kBailingNames, .patterns = kBailing},
    {.names = kTekkenNames, .patterns = kTekken, .takes_whole_words = true, .adds_bos = true},
    {.names = kGpt4oNames, .patterns = kGpt4o},
    {.names = kDeepSeekLlmNames, .patterns = kDeepSeekLlm},
    {.names = kDeepSeekCoderNames, .patterns = kDeepSeekCoder},
    {.names = kDeepSeekV3Names, .patterns = kDeepSeekV3},
    {.names = kBloomNames, .patterns = kBloom},
    {.names = kVikingNames, .patterns = kViking},
};

}  // namespace

std::span<const PreTokenizerEntry> PreTokenizerTable() { return kTable; }

}  // namespace tandem::frontend
