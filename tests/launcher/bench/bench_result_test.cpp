#include "launcher/bench/bench_result.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace tandem::launcher {
namespace {

using nlohmann::json;
using ::testing::HasSubstr;

constexpr int64_t kMillisecond = 1000000;

/// Two ranks; every number is easy to follow.
BenchResult Sample() {
  BenchResult result;
  result.file = "m.gguf";
  result.weights = {.bytes = 100'000'000,
                    .multiply_adds = 200'000'000,
                    .quantized_layers = 150'000'000,
                    .quantized_head = 50'000'000};
  result.hosts = {"a", "a"};
  result.processor = "P";
  result.read_bytes_per_second = {30e9, 50e9, 40e9};
  result.int8_per_second = {200e9, 100e9, 300e9};
  result.prefill.scenario = {.sequences = 0, .prompt = 100};
  result.prefill.tokens_per_second = {500, 400, 900};
  // Three prefills of two steps; products take 20 and 40 ms a step.
  result.prefill.phases = {
      {.nanoseconds = {60 * kMillisecond, 90 * kMillisecond, 0, 150 * kMillisecond},
       .product_nanoseconds = 120 * kMillisecond,
       .steps = 6,
       .tokens = 300},
      {.nanoseconds = {300 * kMillisecond},
       .product_nanoseconds = 240 * kMillisecond,
       .steps = 6,
       .tokens = 300}};
  ScenarioResult decode;
  decode.scenario = {.sequences = 1, .prompt = 1, .generated = 10};
  decode.tokens_per_second = {200};
  decode.phases = {{.nanoseconds = {0, 0, 0, 0, 0, 50 * kMillisecond},
                    .product_nanoseconds = 40 * kMillisecond,
                    .steps = 10,
                    .tokens = 10}};
  ScenarioResult four = decode;
  four.scenario.sequences = 4;
  four.tokens_per_second = {400};
  result.decodes = {decode, four};
  return result;
}

TEST(Median, IsTheMiddle) {
  EXPECT_EQ(Median({3, 1, 2}), 2);
  EXPECT_EQ(Median({4, 1, 2, 3}), 2.5);
  EXPECT_EQ(Median({7}), 7);
  EXPECT_EQ(Median({}), 0);
}

TEST(BenchJson, HoldsRatesBesideTheirCeilings) {
  const json document = json::parse(BenchJson(Sample()));
  EXPECT_DOUBLE_EQ(document["ceilings"]["read_gb_per_second"].get<double>(), 40);
  EXPECT_DOUBLE_EQ(document["ceilings"]["int8_gmac_per_second"].get<double>(), 200);

  // 150 million a token and 50 million for the last one, in 100 / 500 s.
  const json& prefill = document["prefill"];
  EXPECT_DOUBLE_EQ(prefill["tokens_per_second"].get<double>(), 500);
  EXPECT_DOUBLE_EQ(prefill["int8_gmac_per_second"].get<double>(), 15.05 / 0.2);
  EXPECT_DOUBLE_EQ(prefill["int8_fraction"].get<double>(), 15.05 / 0.2 / 200);
  // Two steps with 30 ms of products each.
  EXPECT_DOUBLE_EQ(prefill["products_int8_gmac_per_second"].get<double>(), 15.05 / 0.06);

  const json& decode = document["decode"];
  EXPECT_DOUBLE_EQ(decode["weights_gb_per_second"].get<double>(), 0.1 * 200);
  EXPECT_DOUBLE_EQ(decode["read_fraction"].get<double>(), 0.5);
  EXPECT_DOUBLE_EQ(decode["products_weights_gb_per_second"].get<double>(), 0.1 / 0.004);

  ASSERT_EQ(document["batches"].size(), 2U);
  EXPECT_EQ(document["batches"][0], decode);
  // Four tokens for each time the weights are read.
  EXPECT_DOUBLE_EQ(document["batches"][1]["weights_gb_per_second"].get<double>(), 0.1 * 100);
}

TEST(BenchJson, HoldsThePhasesOfEveryRank) {
  const json phases = json::parse(BenchJson(Sample()))["prefill"]["phases"];
  ASSERT_EQ(phases.size(), 2U);
  EXPECT_EQ(phases[0]["rank"], 0);
  EXPECT_EQ(phases[0]["ms_per_token"]["attention"], 0.2);
  EXPECT_EQ(phases[0]["ms_per_token"]["all-reduce"], 0.5);
  EXPECT_EQ(phases[0]["percent"]["feed-forward"], 30.0);
  EXPECT_EQ(phases[0]["products_percent"], 40.0);
  EXPECT_EQ(phases[1]["percent"]["attention"], 100.0);
  EXPECT_EQ(phases[1]["percent"].size(), core::kPhases);
}

TEST(BenchJson, SaysNullWhereNothingIsMultipliedIn8Bits) {
  BenchResult floats = Sample();
  floats.weights.quantized_layers = 0;
  floats.weights.quantized_head = 0;
  EXPECT_TRUE(json::parse(BenchJson(floats))["prefill"]["int8_fraction"].is_null());
  EXPECT_THAT(BenchText(floats), HasSubstr("no quantized products"));
  BenchResult reference = Sample();
  reference.eight_bit = false;
  EXPECT_TRUE(json::parse(BenchJson(reference))["prefill"]["products_int8_fraction"].is_null());
}

TEST(BenchText, ShowsEveryScenarioAndRank) {
  const std::string text = BenchText(Sample());
  EXPECT_THAT(text, HasSubstr("2 ranks of 1 thread"));
  EXPECT_THAT(text, HasSubstr("prefill 100"));
  EXPECT_THAT(text, HasSubstr("decode 10, batch 1"));
  EXPECT_THAT(text, HasSubstr("decode 10, batch 4"));
  EXPECT_THAT(text, HasSubstr("20.0 GB/s, 50 % of 40.0"));
}

}  // namespace
}  // namespace tandem::launcher
