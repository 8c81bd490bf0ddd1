#pragma once

#include <array>
#include <cstdint>
#include <string>

/// Which process this is, for others on its host, and whether another one still lives.
namespace tandem::core {

/// As it travels between processes of one build.
struct ProcessName {
  /// Drawn once in each process: equal for its threads alone.
  std::array<uint8_t, 16> drawn = {};
  std::string boot = {};  // of the machine's kernel; empty where it tells none
  uint64_t names = 0;     // in which space of names `number` is one; 0 where that is not known
  int32_t number = 0;     // of the process
  friend bool operator==(const ProcessName&, const ProcessName&) = default;
};

/// Of this process. Thread safety: any thread.
ProcessName ThisProcess();

/// Looks after another process of this host. Thread safety: any thread.
class ProcessWatch {
 public:
  /// One that this process cannot see is never said to have ended.
  explicit ProcessWatch(const ProcessName& other);
  ~ProcessWatch();
  ProcessWatch(const ProcessWatch&) = delete;
  ProcessWatch& operator=(const ProcessWatch&) = delete;

  bool ended() const;

 private:
  int file_ = -1;
};

}  // namespace tandem::core
