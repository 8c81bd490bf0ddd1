#include "frontend/http/gateway_metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <algorithm>
#include <chrono>
#include <locale>
#include <map>
#include <sstream>
#include <utility>

#include "core/base/mutex.h"

namespace tandem::frontend {
namespace {

using prometheus::BuildCounter;
using prometheus::BuildGauge;
using prometheus::BuildHistogram;
using prometheus::Counter;
using prometheus::Family;
using prometheus::Gauge;
using prometheus::Histogram;
using Buckets = Histogram::BucketBoundaries;

const Buckets kFirstTokenBuckets = {0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1,  0.25, 0.5,
                                    0.75,  1.0,   2.5,  5.0,  7.5,  10.0, 20.0, 40.0, 80.0, 160.0};
const Buckets kTokenBuckets = {0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15,
                               0.2,    0.3,   0.4,  0.5,   0.75, 1.0,   2.5, 5.0};
const Buckets kRequestBuckets = {0.01, 0.05, 0.1,  0.3,  0.5,  0.8,  1.0,  1.5,   2.0,   2.5,
                                 5.0,  10.0, 15.0, 20.0, 30.0, 40.0, 60.0, 120.0, 240.0, 480.0};

}  // namespace

/// A counter that grows as another one does, which counts from zero when its engine starts again.
struct FollowedCounter {
  void Follow(double value) {
    counter.Increment(value < last ? value : value - last);
    last = value;
  }

  Counter& counter;
  double last = 0;
};

struct GatewayMetrics::Figures {
  explicit Figures(const std::string& model) : labels{{"model_name", model}} {}

  Histogram& HistogramOf(const std::string& name, const std::string& help, const Buckets& buckets) {
    return BuildHistogram().Name(name).Help(help).Register(registry).Add(labels, buckets);
  }
  Gauge& GaugeOf(const std::string& name, const std::string& help) {
    return BuildGauge().Name(name).Help(help).Register(registry).Add(labels);
  }
  Counter& CounterOf(const std::string& name, const std::string& help) {
    return BuildCounter().Name(name).Help(help).Register(registry).Add(labels);
  }
  FollowedCounter FollowedOf(const std::string& name, const std::string& help) {
    return {.counter = CounterOf(name, help)};
  }
  prometheus::Labels LabelsOf(const parallel::RankStatus& rank) const {
    prometheus::Labels all = labels;
    all["rank"] = std::to_string(rank.rank);
    all["host"] = rank.host;
    return all;
  }
  FollowedCounter& ReductionsOf(const parallel::RankStatus& rank)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(following) {
    return reductions_by_rank
        .try_emplace({rank.rank, rank.host},
                     FollowedCounter{.counter = reductions.Add(LabelsOf(rank))})
        .first->second;
  }
  Family<Counter>& CountersOf(const std::string& name, const std::string& help) {
    return BuildCounter().Name(name).Help(help).Register(registry);
  }
  void Count(Family<Counter>& family, const prometheus::Labels& more) {
    prometheus::Labels all = labels;
    all.insert(more.begin(), more.end());
    family.Add(all).Increment();
  }

  const prometheus::Labels labels;
  prometheus::Registry registry;
  Histogram& first_token = HistogramOf(
      "tandem:time_to_first_token_seconds",
      "From the arrival of a request to the first token of its answer.", kFirstTokenBuckets);
  Histogram& between_tokens =
      HistogramOf("tandem:inter_token_latency_seconds",
                  "Between pieces of text of an answer, which are a token mostly.", kTokenBuckets);
  Histogram& request_time =
      HistogramOf("tandem:e2e_request_latency_seconds",
                  "From the arrival of a request to the end of its answer.", kRequestBuckets);
  Histogram& queue_time = HistogramOf("tandem:request_queue_time_seconds",
                                      "That requests waited to run.", kRequestBuckets);
  Histogram& prefill_time = HistogramOf("tandem:request_prefill_time_seconds",
                                        "That prompts were read.", kRequestBuckets);
  Histogram& decode_time = HistogramOf("tandem:request_decode_time_seconds",
                                       "That answers were written.", kRequestBuckets);
  Counter& request_prompt_tokens =
      CounterOf("tandem:request_prompt_tokens_total", "Prompt tokens of answers over HTTP.");
  Counter& request_generation_tokens =
      CounterOf("tandem:request_generation_tokens_total", "Tokens of answers over HTTP.");
  Family<Counter>& successes =
      CountersOf("tandem:request_success_total", "Complete answers over HTTP, by what ended them.");
  Family<Counter>& errors =
      CountersOf("tandem:request_errors_total", "Requests over HTTP that failed, by code.");
  Family<Counter>& requests =
      CountersOf("tandem:http_requests_total", "Requests over HTTP, by route and status.");
  Gauge& connections = GaugeOf("tandem:http_connections", "Clients that are connected over HTTP.");

  // Of the engine, whatever its requests came by.
  Mutex following;  // counters that follow the engine's own
  Gauge& running = GaugeOf("tandem:num_requests_running", "Requests that are being computed.");
  Gauge& waiting = GaugeOf("tandem:num_requests_waiting", "Requests that wait to run.");
  Gauge& cache_used = GaugeOf("tandem:kv_cache_usage_perc",
                              "Part of the blocks of KV that running requests use, from 0 to 1.");
  Gauge& engine_up = GaugeOf("tandem:engine_up", "1 while the engine answers, else 0.");
  FollowedCounter prompt_tokens =
      FollowedOf("tandem:prompt_tokens_total", "Prompt tokens computed.");
  FollowedCounter generation_tokens =
      FollowedOf("tandem:generation_tokens_total", "Tokens generated.");
  FollowedCounter prefix_queries = FollowedOf("tandem:prefix_cache_queries_total",
                                              "Prompt tokens that were looked for in the cache.");
  FollowedCounter prefix_hits =
      FollowedOf("tandem:prefix_cache_hits_total", "Prompt tokens that were found there.");
  FollowedCounter preemptions = FollowedOf("tandem:num_preemptions_total",
                                           "Times that pages of a request were taken for others.");
  FollowedCounter restarts =
      FollowedOf("tandem:restarts_total", "Times that ranks were started again after one died.");
  FollowedCounter recovery_seconds = FollowedOf(
      "tandem:recovery_seconds_total", "Time without ranks, from a death until they were there.");
  Gauge& epoch = GaugeOf("tandem:epoch", "The number of this life of the ranks.");
  FollowedCounter steps = FollowedOf("tandem:engine_steps_total", "Forward passes.");
  Family<Counter>& reductions =
      CountersOf("tandem:allreduce_seconds_total",
                 "Time of a rank in all-reduces, with the wait for the slowest rank.");
  Family<Gauge>& weights_mapped =
      BuildGauge()
          .Name("tandem:weights_mapped")
          .Help("1 where a rank found its packed weights at its start, 0 where it read the model.")
          .Register(registry);
  std::map<std::pair<int, std::string>, FollowedCounter> reductions_by_rank
      ABSL_GUARDED_BY(following);
};

GatewayMetrics::GatewayMetrics(const std::string& model)
    : figures_(std::make_unique<Figures>(model)) {}
GatewayMetrics::~GatewayMetrics() = default;

void GatewayMetrics::NoteToken() {
  last_token_.store(std::chrono::steady_clock::now().time_since_epoch().count());
}

std::optional<double> GatewayMetrics::SecondsSinceToken() const {
  const int64_t last = last_token_.load();
  if (last == 0) return std::nullopt;
  const std::chrono::steady_clock::duration since =
      std::chrono::steady_clock::now().time_since_epoch() -
      std::chrono::steady_clock::duration(last);
  return std::chrono::duration<double>(since).count();
}

void GatewayMetrics::ObserveFirstToken(double seconds) {
  NoteToken();
  figures_->first_token.Observe(seconds);
}

void GatewayMetrics::ObserveBetweenTokens(double seconds) {
  NoteToken();
  figures_->between_tokens.Observe(seconds);
}

void GatewayMetrics::ObserveAnswer(std::string_view reason, const parallel::Usage& usage,
                                   double seconds) {
  figures_->request_time.Observe(seconds);
  figures_->queue_time.Observe(usage.queue_seconds);
  figures_->prefill_time.Observe(usage.prefill_seconds);
  figures_->decode_time.Observe(usage.decode_seconds);
  figures_->request_prompt_tokens.Increment(usage.prompt_tokens);
  figures_->request_generation_tokens.Increment(usage.completion_tokens);
  figures_->Count(figures_->successes, {{"finished_reason", std::string(reason)}});
}

void GatewayMetrics::CountError(std::string_view code) {
  figures_->Count(figures_->errors, {{"code", std::string(code)}});
}

void GatewayMetrics::CountRequest(std::string_view route, int status) {
  ++requests_;
  figures_->Count(figures_->requests,
                  {{"route", std::string(route)}, {"status", std::to_string(status)}});
}

std::string GatewayMetrics::Exposition(const parallel::EngineStatus* engine, int64_t connections) {
  Figures& figures = *figures_;
  figures.connections.Set(static_cast<double>(connections));
  figures.engine_up.Set(engine == nullptr || engine->recovery.down ? 0 : 1);
  if (engine != nullptr) {
    const MutexLock lock(figures.following);
    const auto follow = [](FollowedCounter& counter, uint64_t value) {
      counter.Follow(static_cast<double>(value));
    };
    figures.running.Set(engine->running);
    figures.waiting.Set(engine->waiting);
    const auto total = static_cast<double>(std::max<int64_t>(engine->blocks_total, 1));
    figures.cache_used.Set(static_cast<double>(engine->blocks_used) / total);
    follow(figures.prompt_tokens, engine->tokens_prefilled);
    follow(figures.generation_tokens, engine->tokens_generated);
    follow(figures.prefix_queries, engine->prompt_tokens);
    follow(figures.prefix_hits, engine->reused_tokens);
    follow(figures.preemptions, engine->preemptions);
    follow(figures.steps, engine->steps);
    follow(figures.restarts, engine->recovery.restarts);
    figures.recovery_seconds.Follow(engine->recovery.lost_seconds);
    figures.epoch.Set(static_cast<double>(engine->recovery.epoch));
    for (const parallel::RankStatus& rank : engine->ranks) {
      figures.ReductionsOf(rank).Follow(static_cast<double>(rank.reduce_nanoseconds) / 1e9);
      figures.weights_mapped.Add(figures.LabelsOf(rank)).Set(rank.weights_mapped ? 1 : 0);
    }
  }
  std::ostringstream out;
  out.imbue(std::locale::classic());
  prometheus::TextSerializer().Serialize(out, figures.registry.Collect());
  return out.str();
}

}  // namespace tandem::frontend
