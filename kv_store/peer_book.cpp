#include "kv_store/peer_book.h"

#include <fcntl.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr size_t kLargestFile = 1024;
constexpr const char* kKeyTitle = "tandem kv key 1";
constexpr const char* kListensTitle = "tandem kv listens 1";
constexpr const char* kPeerTitle = "tandem kv peer 1";

/// The lines of a small file that begins with `title`, without that; as many as are expected.
absl::StatusOr<std::vector<std::string>> ReadLines(const std::string& path,
                                                   const std::string& title, size_t count) {
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
  if (fd < 0) {
    const std::string why = std::strerror(errno);
    return errno == ENOENT ? NotFound("{}: {}", path, why) : Unavailable("{}: {}", path, why);
  }
  std::array<char, kLargestFile + 1> buffer{};
  size_t size = 0;
  while (size < buffer.size()) {
    const ssize_t got = read(fd, buffer.data() + size, buffer.size() - size);
    if (got <= 0) break;
    size += static_cast<size_t>(got);
  }
  close(fd);
  const std::string_view text(buffer.data(), size);
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) break;  // torn
    lines.emplace_back(text.substr(at, end - at));
    at = end + 1;
  }
  if (size > kLargestFile || lines.size() != count + 1 || lines.front() != title) {
    return absl::DataLossError(
        fmt::format("{}: it is damaged, expected \"{}\" and {} lines", path, title, count));
  }
  lines.erase(lines.begin());
  return lines;
}

/// Under another name first, so that a file is there whole or not at all. What a loss of power may
/// cost without being a loss need not be synced.
absl::Status WriteLines(const std::string& path, const std::string& title,
                        const std::vector<std::string>& lines, bool sync) {
  std::string text = title + "\n";
  for (const std::string& line : lines) text += line + "\n";
  const fs::path whole(path);
  const std::string part = whole.parent_path().string() + "/." + whole.filename().string();
  const int fd =
      open(part.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, S_IRUSR | S_IWUSR);
  if (fd < 0) return Unavailable("{}: {}", part, std::strerror(errno));
  const bool written = write(fd, text.data(), text.size()) == static_cast<ssize_t>(text.size()) &&
                       (!sync || fsync(fd) == 0);
  const int why = errno;
  close(fd);
  if (!written) return Unavailable("{}: {}", part, std::strerror(why));
  if (rename(part.c_str(), path.c_str()) != 0) {
    return Unavailable("{}: {}", path, std::strerror(errno));
  }
  return absl::OkStatus();
}

absl::StatusOr<CurveKeys> ReadKeys(const std::string& path) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> lines, ReadLines(path, kKeyTitle, 2));
  const CurveKeys keys{.public_key = lines[0], .secret_key = lines[1]};
  char derived[41] = {};
  if (keys.secret_key.size() != 40 || zmq_curve_public(derived, keys.secret_key.c_str()) != 0 ||
      keys.public_key != derived) {
    return absl::DataLossError(fmt::format("{}: it holds no key pair", path));
  }
  return keys;
}

template <typename T>
std::optional<T> ParseNumber(const std::string& text) {
  T number{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return number;
}

absl::StatusOr<KnownPeer> ReadPeer(const std::string& path, const std::string& host) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> lines, ReadLines(path, kPeerTitle, 4));
  const auto in_job = ParseNumber<int>(lines[2]);
  const auto met = ParseNumber<int64_t>(lines[3]);
  KnownPeer known{.peer = {.host = host, .endpoint = lines[0], .public_key = lines[1]},
                  .in_job = in_job == 1,
                  .met = met.value_or(0)};
  absl::Status status = CheckPeer(known.peer);
  if (status.ok() && (!in_job || *in_job < 0 || *in_job > 1 || !met)) {
    status = absl::DataLossError("no numbers where they belong");
  }
  if (!status.ok()) return absl::DataLossError(fmt::format("{}: {}", path, Message(status)));
  return known;
}

void Order(std::vector<KnownPeer>& peers) {
  std::stable_sort(peers.begin(), peers.end(), [](const KnownPeer& a, const KnownPeer& b) {
    return std::pair(a.in_job, a.met) > std::pair(b.in_job, b.met);
  });
  if (peers.size() > kMostAgentPeers) peers.resize(kMostAgentPeers);
}

}  // namespace

absl::StatusOr<PeerBook> PeerBook::Open(const std::string& directory) {
  const std::string path = directory + "/agent.key";
  absl::StatusOr<CurveKeys> keys = ReadKeys(path);
  if (!keys.ok()) {
    if (!absl::IsNotFound(keys.status())) {
      spdlog::warn(
          "{}; a new one is made, and hosts that know the old one do not know this agent "
          "until a job brings them together",
          Message(keys.status()));
    }
    keys = MakeCurveKeys();
    TANDEM_RETURN_IF_ERROR(
        WriteLines(path, kKeyTitle, {keys->public_key, keys->secret_key}, /*sync=*/true));
  }
  std::error_code error;
  fs::create_directories(directory + "/peers", error);
  if (error) return Unavailable("{}/peers: {}", directory, error.message());
  return PeerBook(directory, fs::path(directory).filename().string(), *std::move(keys));
}

std::vector<KnownPeer> PeerBook::Peers() const {
  std::vector<KnownPeer> peers;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_ + "/peers", error)) {
    const std::string host = entry.path().filename().string();
    if (host.starts_with('.')) continue;
    absl::StatusOr<KnownPeer> known = ReadPeer(entry.path().string(), host);
    if (!known.ok()) {
      spdlog::warn("{}; that host is not known until a job meets it again",
                   Message(known.status()));
      continue;
    }
    if (host == host_ || known->peer.public_key == keys_.public_key) continue;
    peers.push_back(*std::move(known));
  }
  Order(peers);
  return peers;
}

int64_t PeerBook::Stamp() const {
  struct stat facts {};
  if (stat((directory_ + "/peers").c_str(), &facts) != 0) return 0;
  return int64_t{facts.st_mtim.tv_sec} * 1'000'000'000 + facts.st_mtim.tv_nsec;
}

absl::Status PeerBook::SetPeers(std::vector<KnownPeer> peers) const {
  Order(peers);
  absl::Status first;
  std::set<std::string> kept;
  for (const KnownPeer& known : peers) {
    kept.insert(known.peer.host);
    absl::Status status = WriteLines(PathOf(known.peer.host), kPeerTitle,
                                     {known.peer.endpoint, known.peer.public_key,
                                      known.in_job ? "1" : "0", fmt::format("{}", known.met)},
                                     /*sync=*/false);
    if (first.ok()) first = std::move(status);
  }
  std::error_code error;
  std::vector<fs::path> gone;
  for (const auto& entry : fs::directory_iterator(directory_ + "/peers", error)) {
    if (!kept.contains(entry.path().filename().string())) gone.push_back(entry.path());
  }
  for (const fs::path& path : gone) fs::remove(path, error);
  return first;
}

std::optional<PeerBook::Listens> PeerBook::ReadListens() const {
  const auto lines = ReadLines(directory_ + "/listens", kListensTitle, 2);
  if (!lines.ok()) {
    if (!absl::IsNotFound(lines.status())) spdlog::warn("{}", Message(lines.status()));
    return std::nullopt;
  }
  const auto copies = ParseNumber<uint32_t>((*lines)[1]);
  const absl::Status status =
      CheckPeer({.host = "self", .endpoint = (*lines)[0], .public_key = keys_.public_key});
  if (!copies || !status.ok()) {
    spdlog::warn("{}/listens: it is damaged", directory_);
    return std::nullopt;
  }
  return Listens{.endpoint = (*lines)[0], .copies = *copies};
}

absl::Status PeerBook::WriteListens(const Listens& listens) const {
  return WriteLines(directory_ + "/listens", kListensTitle,
                    {listens.endpoint, fmt::format("{}", listens.copies)}, /*sync=*/false);
}

}  // namespace tandem::kv_store
