#include "launcher/bench/bench_result.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "fmt/format.h"
#include "launcher/commands/json_output.h"
#include "launcher/options/version.h"

namespace tandem::launcher {
namespace {

using core::Phase;
using core::PhaseTimes;
using nlohmann::ordered_json;

constexpr double kGiga = 1e9;

Phase PhaseAt(size_t index) { return static_cast<Phase>(index); }

double PerToken(int64_t nanoseconds, const PhaseTimes& times) {
  return times.tokens > 0
             ? static_cast<double>(nanoseconds) * 1e-6 / static_cast<double>(times.tokens)
             : 0;
}

double Percent(int64_t nanoseconds, const PhaseTimes& times) {
  const int64_t total = times.total_nanoseconds();
  return total > 0 ? 100.0 * static_cast<double>(nanoseconds) / static_cast<double>(total) : 0;
}

/// Seconds a step that the products took, on the average of the ranks; 0 if nothing was recorded.
double ProductSeconds(const std::vector<PhaseTimes>& ranks) {
  double nanoseconds = 0;
  int64_t steps = 0;
  for (const PhaseTimes& times : ranks) {
    nanoseconds += static_cast<double>(times.product_nanoseconds);
    steps += times.steps;
  }
  return steps > 0 ? nanoseconds * 1e-9 / static_cast<double>(steps) : 0;
}

double RateOf(double amount, double seconds) { return seconds > 0 ? amount / seconds : 0; }

/// A rate beside its ceiling, over the whole of the time and over that of the products alone.
struct Beside {
  double whole = 0;
  double products = 0;
  double ceiling = 0;
  double whole_fraction() const { return RateOf(whole, ceiling); }
  double products_fraction() const { return RateOf(products, ceiling); }
};

Beside PrefillBeside(const BenchResult& result) {
  const double operations = result.PrefillInt8();
  const ScenarioResult& prefill = result.prefill;
  const double speed = Median(prefill.tokens_per_second);
  // One prefill may be several steps.
  const double rounds = static_cast<double>(prefill.tokens_per_second.size());
  const double steps =
      prefill.phases.empty() ? 0 : static_cast<double>(prefill.phases[0].steps) / rounds;
  return {.whole = operations / prefill.scenario.prompt * speed,
          .products = RateOf(operations, steps * ProductSeconds(prefill.phases)),
          .ceiling = Median(result.int8_per_second)};
}

Beside DecodeBeside(const BenchResult& result, const ScenarioResult& decode) {
  const auto bytes = static_cast<double>(result.weights.bytes);
  return {.whole = bytes * Median(decode.tokens_per_second) / decode.scenario.sequences,
          .products = RateOf(bytes, ProductSeconds(decode.phases)),
          .ceiling = Median(result.read_bytes_per_second)};
}

ordered_json PhasesJson(const ScenarioResult& scenario) {
  ordered_json ranks = ordered_json::array();
  for (size_t rank = 0; rank < scenario.phases.size(); ++rank) {
    const PhaseTimes& times = scenario.phases[rank];
    ordered_json milliseconds;
    ordered_json percent;
    for (size_t i = 0; i < core::kPhases; ++i) {
      const std::string name(core::PhaseName(PhaseAt(i)));
      milliseconds[name] = PerToken(times[PhaseAt(i)], times);
      percent[name] = Percent(times[PhaseAt(i)], times);
    }
    ranks.push_back({{"rank", rank},
                     {"steps", times.steps},
                     {"tokens", times.tokens},
                     {"ms_per_token", milliseconds},
                     {"percent", percent},
                     {"products_percent", Percent(times.product_nanoseconds, times)}});
  }
  return ranks;
}

ordered_json DecodeJson(const BenchResult& result, const ScenarioResult& decode) {
  const Beside read = DecodeBeside(result, decode);
  return {{"sequences", decode.scenario.sequences},
          {"generated", decode.scenario.generated},
          {"tokens_per_second", Median(decode.tokens_per_second)},
          {"weights_gb_per_second", read.whole / kGiga},
          {"read_fraction", read.whole_fraction()},
          {"products_weights_gb_per_second", read.products / kGiga},
          {"products_read_fraction", read.products_fraction()},
          {"rounds", decode.tokens_per_second},
          {"phases", PhasesJson(decode)}};
}

ordered_json PrefillJson(const BenchResult& result) {
  const ScenarioResult& prefill = result.prefill;
  ordered_json json = {{"tokens", prefill.scenario.prompt},
                       {"tokens_per_second", Median(prefill.tokens_per_second)}};
  const char* const kFields[] = {"int8_gmac_per_second", "int8_fraction",
                                 "products_int8_gmac_per_second", "products_int8_fraction"};
  if (result.PrefillInt8() > 0) {
    const Beside int8 = PrefillBeside(result);
    json[kFields[0]] = int8.whole / kGiga;
    json[kFields[1]] = int8.whole_fraction();
    json[kFields[2]] = int8.products / kGiga;
    json[kFields[3]] = int8.products_fraction();
  } else {
    for (const char* field : kFields) json[field] = nullptr;
  }
  json["rounds"] = prefill.tokens_per_second;
  json["phases"] = PhasesJson(prefill);
  return json;
}

/// A rate, its part of the ceiling, and the ceiling: "24.8 GB/s, 61 % of 40.4".
std::string BesideText(double rate, double ceiling, const char* unit) {
  return fmt::format("{:.1f} {}, {:.0f} % of {:.1f}", rate / kGiga, unit,
                     100 * RateOf(rate, ceiling), ceiling / kGiga);
}

std::string PhasesText(const char* what, const ScenarioResult& scenario) {
  std::string text = fmt::format("\n{:<8} rank", what);
  for (size_t i = 0; i < core::kPhases; ++i) {
    text += fmt::format("  {:>14}", core::PhaseName(PhaseAt(i)));
  }
  text += fmt::format("  {:>8}\n", "together");
  for (size_t rank = 0; rank < scenario.phases.size(); ++rank) {
    const PhaseTimes& times = scenario.phases[rank];
    text += fmt::format("{:>13}", rank);
    for (size_t i = 0; i < core::kPhases; ++i) {
      const int64_t nanoseconds = times[PhaseAt(i)];
      text += fmt::format("  {:>7.4f} {:>4.1f} %", PerToken(nanoseconds, times),
                          Percent(nanoseconds, times));
    }
    text += fmt::format("  {:>8.4f}\n", PerToken(times.total_nanoseconds(), times));
  }
  return text;
}

std::string HostsText(const std::vector<std::string>& hosts) {
  std::vector<std::string> names = hosts;
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return fmt::format("{}", fmt::join(names, ", "));
}

}  // namespace

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t middle = values.size() / 2;
  return values.size() % 2 == 1 ? values[middle] : (values[middle - 1] + values[middle]) / 2;
}

const ScenarioResult& BenchResult::decode() const {
  return *std::find_if(decodes.begin(), decodes.end(),
                       [](const ScenarioResult& result) { return result.scenario.sequences == 1; });
}

double BenchResult::PrefillInt8() const {
  if (!eight_bit) return 0;
  // The head is multiplied with the last token only.
  return static_cast<double>(weights.quantized_layers) * prefill.scenario.prompt +
         static_cast<double>(weights.quantized_head);
}

std::string BenchJson(const BenchResult& r) {
  ordered_json batches = ordered_json::array();
  for (const ScenarioResult& decode : r.decodes) batches.push_back(DecodeJson(r, decode));
  const ordered_json document = {{"version", kVersion},
                                 {"model",
                                  {{"file", r.file},
                                   {"name", r.name},
                                   {"weight_bytes_per_token", r.weights.bytes},
                                   {"multiply_adds_per_token", r.weights.multiply_adds}}},
                                 {"machine",
                                  {{"hosts", r.hosts},
                                   {"processor", r.processor},
                                   {"processors", r.processors},
                                   {"huge_pages", r.huge_pages}}},
                                 {"run",
                                  {{"ranks", r.hosts.size()},
                                   {"threads", r.threads},
                                   {"isa", r.isa},
                                   {"activations", r.activations},
                                   {"kv_dtype", r.kv_dtype},
                                   {"attention", r.attention},
                                   {"prefill_chunk", r.prefill_chunk},
                                   {"context", r.decode().scenario.prompt},
                                   {"rounds", r.read_bytes_per_second.size()}}},
                                 {"ceilings",
                                  {{"read_gb_per_second", Median(r.read_bytes_per_second) / kGiga},
                                   {"int8_gmac_per_second", Median(r.int8_per_second) / kGiga}}},
                                 {"prefill", PrefillJson(r)},
                                 {"decode", DecodeJson(r, r.decode())},
                                 {"batches", std::move(batches)}};
  return JsonText(document, kIndented);
}

std::string BenchText(const BenchResult& r) {
  std::string text = fmt::format(
      "{}: {:.1f} MB of weights a token\n"
      "{} of {}, {}, activations {}, KV {}, {} attention, on {}: {}, {}, huge pages "
      "{}\n"
      "medians of {}; ceilings measured in the same rounds: read {:.1f} GB/s, int8 {:.1f} "
      "Gmac/s\n\n",
      r.file, static_cast<double>(r.weights.bytes) / 1e6,
      Counted(static_cast<int64_t>(r.hosts.size()), "rank"), Counted(r.threads, "thread"), r.isa,
      r.activations, r.kv_dtype, r.attention, HostsText(r.hosts), r.processor,
      Counted(r.processors, "processor"), r.huge_pages,
      Counted(static_cast<int64_t>(r.read_bytes_per_second.size()), "round"),
      Median(r.read_bytes_per_second) / kGiga, Median(r.int8_per_second) / kGiga);

  text += fmt::format("{:<22} {:>9}  {:<28} {}\n", "", "tokens/s", "over the whole time",
                      "over the matrix products alone");
  const Beside int8 = PrefillBeside(r);
  const bool quantized = r.PrefillInt8() > 0;
  const std::string none = "no quantized products";
  text += fmt::format("{:<22} {:>9.1f}  {:<28} {}\n",
                      fmt::format("prefill {}", r.prefill.scenario.prompt),
                      Median(r.prefill.tokens_per_second),
                      quantized ? BesideText(int8.whole, int8.ceiling, "Gmac/s") : none,
                      quantized ? BesideText(int8.products, int8.ceiling, "Gmac/s") : "");
  for (const ScenarioResult& decode : r.decodes) {
    const Beside read = DecodeBeside(r, decode);
    text += fmt::format(
        "{:<22} {:>9.1f}  {:<28} {}\n",
        fmt::format("decode {}, batch {}", decode.scenario.generated, decode.scenario.sequences),
        Median(decode.tokens_per_second), BesideText(read.whole, read.ceiling, "GB/s"),
        BesideText(read.products, read.ceiling, "GB/s"));
  }
  text += "\nTime of each phase, milliseconds a token and part of the whole:\n";
  text += PhasesText("prefill", r.prefill);
  text += PhasesText("decode", r.decode());
  return text;
}

}  // namespace tandem::launcher
