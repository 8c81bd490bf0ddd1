#pragma once

#include <signal.h>

namespace tandem::launcher {

/// Ctrl-C as a question that the main thread asks, in place of the death of the process. The second
/// one ends the process. One may be there at a time. Thread safety: the thread that constructs it,
/// which is that of CleanupSignals where there are some.
class InterruptFlag {
 public:
  InterruptFlag() = default;
  ~InterruptFlag();
  InterruptFlag(const InterruptFlag&) = delete;
  InterruptFlag& operator=(const InterruptFlag&) = delete;

  /// From now on SIGINT raises the flag, unless the process was started with it ignored. Further
  /// calls do nothing.
  void Watch();
  bool raised() const;

 private:
  bool watches_ = false;
  struct sigaction before_ {};
  sigset_t mask_before_{};
};

/// Ends this process as SIGINT does, so that a shell's loop ends with it.
void DieInterrupted();

}  // namespace tandem::launcher
