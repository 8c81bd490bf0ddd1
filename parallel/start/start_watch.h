#pragma once

#include <sys/resource.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>

#include "core/base/mutex.h"
#include "parallel/start/start_table.h"

namespace tandem::parallel {

/// A thread that gives signs of this rank's start as long as it goes on, and ends the rank when it
/// does not.
///
/// A start goes on while it enters phases, tells of progress, computes, or gets what it reads from
/// its disk, however slowly; and while it waits for other ranks or for what ends by itself. A rank
/// that is stopped gives no sign: that is for others to see, who get the signs by lines on standard
/// error and by whatever Publish names. Thread safety: all methods.
class StartWatch {
 public:
  using Duration = std::chrono::steady_clock::duration;
  /// What the rank does now.
  enum class Mode {
    kWorking,
    kMeeting,  // waits for the others, and looks after them itself
    kInside    // in a call that returns once all others have come to it
  };
  struct Options {
    int rank = 0;
    std::string host;
    Duration patience;
    Duration interval = std::chrono::seconds(1);  // between signs
    bool lines = false;  // somebody reads them: he names ranks that this one cannot see
    /// Ends the rank for this reason, and does not return (but in tests).
    std::function<void(const std::string& why)> end;
  };

  explicit StartWatch(Options options);
  ~StartWatch();
  StartWatch(const StartWatch&) = delete;
  StartWatch& operator=(const StartWatch&) = delete;

  void Enter(StartPhase phase);
  /// Of the phase, 0 to 1.
  void Progress(double fraction);
  void SetMode(Mode mode);
  /// Whether it works at what ends by itself.
  void SetPatient(bool patient);
  /// From now on each sign is also given to `publish`, by the watch's thread; null: to nobody more.
  /// Returns when the one before is not in use any more.
  void Publish(std::function<void(const StartNews& news)> publish);
  /// The start is over.
  void Finish();

  StartNews News();
  const Options& options() const { return options_; }

 private:
  void Watch();
  void Look();
  bool Moves();

  const Options options_;
  Mutex mutex_;
  CondVar changed_;
  StartNews news_ ABSL_GUARDED_BY(mutex_);
  Mode mode_ ABSL_GUARDED_BY(mutex_) = Mode::kWorking;
  bool patient_ ABSL_GUARDED_BY(mutex_) = false;
  bool moved_ ABSL_GUARDED_BY(mutex_) = true;  // since the last look
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  Mutex publishing_;
  std::function<void(const StartNews&)> publish_ ABSL_GUARDED_BY(publishing_);
  // Of the watch's thread.
  rusage used_{};
  Duration quiet_{0};
  Duration inside_{0};
  std::thread thread_;  // last: starts when all else is there
};

/// A part of the start that ends by itself, as long as it lives.
class PatientPart {
 public:
  explicit PatientPart(StartWatch& watch) : watch_(watch) { watch_.SetPatient(true); }
  ~PatientPart() { watch_.SetPatient(false); }
  PatientPart(const PatientPart&) = delete;
  PatientPart& operator=(const PatientPart&) = delete;

 private:
  StartWatch& watch_;
};

}  // namespace tandem::parallel
