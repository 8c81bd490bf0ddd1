#include "frontend/http/gateway_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

namespace tandem::frontend {
namespace {

using ::testing::HasSubstr;

parallel::EngineStatus EngineWith(uint64_t steps, uint64_t first_rank, uint64_t second_rank) {
  parallel::EngineStatus engine;
  engine.steps = steps;
  engine.ranks = {{.rank = 0, .host = "n0", .device = "cpu", .reduce_nanoseconds = first_rank},
                  {.rank = 1, .host = "n1", .device = "cpu", .reduce_nanoseconds = second_rank}};
  return engine;
}

TEST(GatewayMetrics, TellsTheTimeOfEachRankInReductions) {
  GatewayMetrics metrics("m");
  parallel::EngineStatus engine = EngineWith(1, 1'500'000'000, 250'000'000);
  std::string text = metrics.Exposition(&engine, 0);
  EXPECT_THAT(text, HasSubstr("# TYPE tandem:allreduce_seconds_total counter"));
  EXPECT_THAT(
      text,
      HasSubstr("tandem:allreduce_seconds_total{host=\"n0\",model_name=\"m\",rank=\"0\"} 1.5\n"));
  EXPECT_THAT(
      text,
      HasSubstr("tandem:allreduce_seconds_total{host=\"n1\",model_name=\"m\",rank=\"1\"} 0.25\n"));
  engine = EngineWith(2, 1'500'000'000, 500'000'000);
  text = metrics.Exposition(&engine, 0);
  EXPECT_THAT(text, HasSubstr("rank=\"0\"} 1.5\n"));
  EXPECT_THAT(text, HasSubstr("rank=\"1\"} 0.5\n"));
}

TEST(GatewayMetrics, TellsWhichRanksFoundTheirWeights) {
  GatewayMetrics metrics("m");
  parallel::EngineStatus engine = EngineWith(1, 0, 0);
  engine.ranks[1].weights_mapped = true;
  const std::string text = metrics.Exposition(&engine, 0);
  EXPECT_THAT(text, HasSubstr("# TYPE tandem:weights_mapped gauge"));
  EXPECT_THAT(text,
              HasSubstr("tandem:weights_mapped{host=\"n0\",model_name=\"m\",rank=\"0\"} 0\n"));
  EXPECT_THAT(text,
              HasSubstr("tandem:weights_mapped{host=\"n1\",model_name=\"m\",rank=\"1\"} 1\n"));
}

TEST(GatewayMetrics, GoesOnCountingWhereAnEngineStartsAgain) {
  GatewayMetrics metrics("m");
  parallel::EngineStatus engine = EngineWith(10, 0, 0);
  metrics.Exposition(&engine, 0);
  EXPECT_THAT(metrics.Exposition(nullptr, 0), HasSubstr("tandem:engine_up{model_name=\"m\"} 0\n"));
  engine = EngineWith(3, 0, 0);
  EXPECT_THAT(metrics.Exposition(&engine, 0),
              HasSubstr("tandem:engine_steps_total{model_name=\"m\"} 13\n"));
  engine = EngineWith(5, 0, 0);
  EXPECT_THAT(metrics.Exposition(&engine, 0),
              HasSubstr("tandem:engine_steps_total{model_name=\"m\"} 15\n"));
}

}  // namespace
}  // namespace tandem::frontend
