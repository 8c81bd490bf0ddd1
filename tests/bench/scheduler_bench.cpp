#include <benchmark/benchmark.h>

#include <utility>
#include <vector>

#include "parallel/plan/step_plan_codec.h"
#include "parallel/schedule/scheduler.h"

/// What the coordinator does for a step besides computing it: schedule, encode and hash the plan,
/// commit. `sequences` decode together, each behind `history` tokens; with `waiting` others in the
/// queue that do not fit.
namespace tandem::parallel {
namespace {

void Step(benchmark::State& state) {
  const auto sequences = static_cast<int32_t>(state.range(0));
  const auto history = static_cast<int32_t>(state.range(1));
  const auto waiting = static_cast<RequestId>(state.range(2));
  constexpr int32_t kContext = 1 << 20;
  const SchedulerOptions options{
      .vocab = 50'000,
      .largest_vocab_shard = 50'000,
      .context = kContext,
      .groups = {{.window = 0, .layers = {0}}, {.window = 1024, .layers = {1}}},
      .blocks = {kContext, kContext},
      .max_running = sequences,
      .prefill_chunk = 1 << 16};
  Scheduler scheduler(options);
  RequestId id = 1;
  const auto add = [&] {
    EngineRequest request;
    for (int32_t i = 0; i < history; ++i) {
      request.prompt.push_back((i * 7 + static_cast<int32_t>(id)) % options.vocab);
    }
    request.max_tokens = kContext;
    request.client = id % 16;
    scheduler.Add(id++, std::move(request));
  };
  for (int32_t i = 0; i < sequences; ++i) add();
  const auto step = [&] {
    const std::optional<ScheduledStep> scheduled = scheduler.Schedule();
    if (!scheduled) return state.SkipWithError("nothing to schedule");
    benchmark::DoNotOptimize(EncodeStepPlan(scheduled->plan));
    StepResult result;
    for (const SequenceWork& work : scheduled->plan.sequences) {
      SequenceResult sequence;
      if (work.sample) sequence.tokens = {work.start_position % options.vocab};
      result.sequences.push_back(std::move(sequence));
    }
    benchmark::DoNotOptimize(scheduler.Commit(*scheduled, result));
  };
  for (int i = 0; i < sequences * history / options.prefill_chunk + 10; ++i) step();
  for (RequestId i = 0; i < waiting; ++i) add();
  for (auto _ : state) step();
}

BENCHMARK(Step)
    ->ArgNames({"sequences", "history", "waiting"})
    ->Args({1, 1000, 0})
    ->Args({16, 4000, 0})
    ->Args({64, 1000, 0})
    ->Args({64, 8000, 0})
    ->Args({64, 8000, 256})
    ->Unit(benchmark::kMicrosecond);

}  // namespace
}  // namespace tandem::parallel

BENCHMARK_MAIN();
