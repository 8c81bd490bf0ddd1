#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "core/base/phase_times.h"
#include "core/formats/weight_count.h"
#include "launcher/bench/bench_scenario.h"

namespace tandem::launcher {

/// One scenario over all rounds.
struct ScenarioResult {
  BenchScenario scenario;
  std::vector<double> tokens_per_second;  // [rounds]
  std::vector<core::PhaseTimes> phases;   // [ranks] sums over the rounds
};

/// Everything that `tandem bench` measured, and what it measured with.
struct BenchResult {
  // The model.
  std::string file;
  std::string name;
  core::WeightCount weights;

  // The machine of rank 0, and the ranks.
  std::vector<std::string> hosts;  // [ranks]
  std::string processor;
  int processors = 1;
  std::string huge_pages;
  int threads = 1;  // a rank
  std::string isa;
  std::string activations;
  std::string kv_dtype;
  std::string attention;
  int prefill_chunk = 0;
  bool eight_bit = true;  // quantized weights are multiplied by 8-bit activations

  // What the machines can do at most, all ranks together. [rounds]
  std::vector<double> read_bytes_per_second;
  std::vector<double> int8_per_second;  // multiply-adds

  ScenarioResult prefill;
  std::vector<ScenarioResult> decodes;  // as asked for, and one sequence before them if it was not

  /// The scenario of a single sequence.
  const ScenarioResult& decode() const;
  /// 8-bit multiply-adds of a prefill; 0 if the file has no quantized weights.
  double PrefillInt8() const;
};

double Median(std::vector<double> values);

/// One JSON document; its fields are described in docs/performance.md.
std::string BenchJson(const BenchResult& result);
/// Tables for people.
std::string BenchText(const BenchResult& result);

}  // namespace tandem::launcher
