#include "launcher/commands/status_screen.h"

#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>

#include "core/system/standard_output.h"
#include "launcher/commands/status_text.h"
#include "launcher/options/options.h"

namespace tandem::launcher {
namespace {

// ECMA-48 and xterm: the other screen, without a cursor; from its corner on; the rest of a line and
// of the screen.
constexpr char kEnter[] = "\033[?1049h\033[?25l";
constexpr char kLeave[] = "\033[?25h\033[?1049l";
constexpr char kHome[] = "\033[H";
constexpr char kClearLine[] = "\033[K";
constexpr char kClearBelow[] = "\033[J";

sigset_t TerminalSignals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGTSTP, SIGWINCH,
                           SIGUSR2 /* ends the thread that waits for them */}) {
    sigaddset(&set, signal);
  }
  return set;
}

}  // namespace

StatusScreen::StatusScreen() : terminal_(isatty(STDOUT_FILENO) != 0) {
  if (!terminal_) return;
  const sigset_t set = TerminalSignals();
  pthread_sigmask(SIG_BLOCK, &set, nullptr);
  Enter();
  signals_ = std::thread([this] { TakeSignals(); });
}

StatusScreen::~StatusScreen() {
  if (!terminal_) return;
  pthread_kill(signals_.native_handle(), SIGUSR2);
  signals_.join();
  Leave();
}

void StatusScreen::Enter() {
  WriteOutput(kEnter);
  (void)FlushOutput();
}

void StatusScreen::Leave() {
  WriteOutput(kLeave);
  WriteOutput(block_);
  (void)FlushOutput();
}

void StatusScreen::Show(const std::string& block) {
  const MutexLock lock(mutex_);
  if (terminal_) {
    block_ = block;
    Draw();
    return;
  }
  WriteOutput(block + "\n");
  (void)FlushOutput();
}

void StatusScreen::Draw() {
  winsize size{};
  const bool known = ioctl(STDOUT_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0;
  std::string out = kHome;
  for (const char c : FitTerminal(block_, known ? size.ws_col : 80, known ? size.ws_row : 24)) {
    if (c == '\n') out += kClearLine;
    out += c;
  }
  out += kClearBelow;
  WriteOutput(out);
  (void)FlushOutput();
}

void StatusScreen::TakeSignals() {
  const sigset_t set = TerminalSignals();
  for (int signal = 0; sigwait(&set, &signal) == 0 && signal != SIGUSR2;) {
    const MutexLock lock(mutex_);
    if (signal == SIGTSTP) {
      Leave();
      raise(SIGSTOP);  // and some time later, after SIGCONT
      Enter();
    } else if (signal != SIGWINCH) {
      Leave();
      // The other thread may wait for a server that is gone; it has nothing to clean up.
      std::_Exit(kExitDone);
    }
    Draw();
  }
}

}  // namespace tandem::launcher
