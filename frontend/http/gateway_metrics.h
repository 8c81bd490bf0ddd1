#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "parallel/engine/engine.h"

namespace tandem::frontend {

/// Figures for Prometheus, with names as vLLM has them behind "tandem:". Thread safety: all
/// functions may be called from any thread.
class GatewayMetrics {
 public:
  explicit GatewayMetrics(const std::string& model);
  ~GatewayMetrics();
  GatewayMetrics(const GatewayMetrics&) = delete;
  GatewayMetrics& operator=(const GatewayMetrics&) = delete;

  void ObserveFirstToken(double seconds);
  void ObserveBetweenTokens(double seconds);
  /// Seconds since one of these two was called last; none: never.
  std::optional<double> SecondsSinceToken() const;
  /// An answer is complete, all its tokens included.
  void ObserveAnswer(std::string_view reason, const parallel::Usage& usage, double seconds);
  void CountError(std::string_view code);
  /// `route`: its pattern, of which there are few.
  void CountRequest(std::string_view route, int status);
  uint64_t requests() const { return requests_.load(); }  // that were counted

  /// The text of all figures (exposition format 0.0.4). `engine`: its figures, where it answers.
  std::string Exposition(const parallel::EngineStatus* engine, int64_t connections);

 private:
  struct Figures;
  void NoteToken();

  std::atomic<uint64_t> requests_{0};
  std::atomic<int64_t> last_token_{0};  // of the steady clock, in its own units; 0: never
  const std::unique_ptr<Figures> figures_;
};

inline constexpr std::string_view kMetricsType = "text/plain; version=0.0.4; charset=utf-8";

}  // namespace tandem::frontend
