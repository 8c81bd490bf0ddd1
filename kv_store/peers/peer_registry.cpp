#include "kv_store/peers/peer_registry.h"

#include <spdlog/spdlog.h>
#include <sys/stat.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <system_error>
#include <utility>

#include "kv_store/base/files.h"

namespace tandem::kv_store {
namespace {

namespace fs = std::filesystem;

constexpr const char* kKeyTitle = "tandem kv key 1";
constexpr const char* kListensTitle = "tandem kv listens 1";
constexpr const char* kPeerTitle = "tandem kv peer 1";

/// The lines of a small file that begins with `title`, without that; as many as are expected.
absl::StatusOr<std::vector<std::string>> DecodeLines(std::string_view text,
                                                     const std::string& title, size_t count) {
  std::vector<std::string> lines;
  while (!text.empty() && lines.size() <= count) {
    const size_t end = text.find('\n');
    if (end == std::string_view::npos) break;  // torn
    lines.emplace_back(text.substr(0, end));
    text.remove_prefix(end + 1);
  }
  if (!text.empty() || lines.size() != count + 1 || lines.front() != title) {
    return absl::DataLossError(
        fmt::format("it is damaged, expected \"{}\" and {} lines", title, count));
  }
  lines.erase(lines.begin());
  return lines;
}

std::string EncodeLines(const std::string& title, const std::vector<std::string>& lines) {
  std::string text = title + "\n";
  for (const std::string& line : lines) text += line + "\n";
  return text;
}

absl::StatusOr<std::vector<std::string>> ReadLines(const std::string& path,
                                                   const std::string& title, size_t count) {
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadSmallFile(path));
  auto lines = DecodeLines(text, title, count);
  if (lines.ok()) return lines;
  return absl::DataLossError(fmt::format("{}: {}", path, Message(lines.status())));
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

void Order(std::vector<KnownPeer>& peers) {
  std::stable_sort(peers.begin(), peers.end(), [](const KnownPeer& a, const KnownPeer& b) {
    return std::pair(a.in_job, a.met) > std::pair(b.in_job, b.met);
  });
  if (peers.size() > kMostAgentPeers) peers.resize(kMostAgentPeers);
}

}  // namespace

std::string EncodePeer(const KnownPeer& known) {
  return EncodeLines(kPeerTitle, {known.peer.endpoint, known.peer.public_key,
                                  known.in_job ? "1" : "0", fmt::format("{}", known.met)});
}

absl::StatusOr<KnownPeer> DecodePeer(const std::string& host, std::string_view text) {
  TANDEM_ASSIGN_OR_RETURN(const std::vector<std::string> lines, DecodeLines(text, kPeerTitle, 4));
  const auto met = ParseNumber<int64_t>(lines[3]);
  if ((lines[2] != "0" && lines[2] != "1") || !met) {
    return absl::DataLossError("it is damaged, expected 0 or 1 and a time in its last lines");
  }
  KnownPeer known{.peer = {.host = host, .endpoint = lines[0], .public_key = lines[1]},
                  .in_job = lines[2] == "1",
                  .met = *met};
  TANDEM_RETURN_IF_ERROR(CheckPeer(known.peer));
  return known;
}

absl::StatusOr<PeerRegistry> PeerRegistry::Open(const std::string& directory) {
  const std::string path = directory + "/agent.key";
  absl::StatusOr<CurveKeys> keys = ReadKeys(path);
  if (!keys.ok()) {
    if (!absl::IsNotFound(keys.status())) {
      const std::string aside = FreeName(path, "damaged");
      spdlog::warn(
          "{}; it is kept in {} and a new one is made, and hosts that know the old one do not know "
          "this agent until a job brings them together",
          Message(keys.status()), aside);
      TANDEM_RETURN_IF_ERROR(Rename(path, aside));
    }
    keys = MakeCurveKeys();
    TANDEM_RETURN_IF_ERROR(WriteWholeFile(
        path, EncodeLines(kKeyTitle, {keys->public_key, keys->secret_key}), /*sync=*/true));
  }
  TANDEM_RETURN_IF_ERROR(MakeWay(directory + "/peers", FileKind::kFolder));
  std::error_code error;
  fs::create_directories(directory + "/peers", error);
  if (error) return Unavailable("{}/peers: {}", directory, error.message());
  return PeerRegistry(directory, fs::path(directory).filename().string(), *std::move(keys));
}

std::vector<KnownPeer> PeerRegistry::Peers() const {
  std::vector<KnownPeer> peers;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(directory_ + "/peers", error)) {
    const std::string host = entry.path().filename().string();
    if (host.starts_with('.')) continue;
    const std::string path = entry.path().string();
    const absl::StatusOr<std::string> text = ReadSmallFile(path);
    absl::StatusOr<KnownPeer> known = text.ok() ? DecodePeer(host, *text) : text.status();
    if (!known.ok()) {
      spdlog::warn("{}: {}; that host is not known until a job meets it again", path,
                   Message(known.status()));
      continue;
    }
    if (host == host_ || known->peer.public_key == keys_.public_key) continue;
    peers.push_back(*std::move(known));
  }
  Order(peers);
  return peers;
}

int64_t PeerRegistry::Stamp() const {
  struct stat facts {};
  if (stat((directory_ + "/peers").c_str(), &facts) != 0) return 0;
  return int64_t{facts.st_mtim.tv_sec} * 1'000'000'000 + facts.st_mtim.tv_nsec;
}

absl::Status PeerRegistry::SetPeers(std::vector<KnownPeer> peers) const {
  Order(peers);
  absl::Status first;
  std::set<std::string> kept;
  for (const KnownPeer& known : peers) {
    kept.insert(known.peer.host);
    const std::string path = PathOf(known.peer.host);
    absl::Status status = MakeWay(path, FileKind::kFile, AsideOf(known.peer.host)).status();
    // A loss of power may cost it without being a loss.
    if (status.ok()) status = WriteWholeFile(path, EncodePeer(known), /*sync=*/false);
    if (first.ok()) first = std::move(status);
  }
  std::error_code error;
  std::vector<fs::path> gone;
  for (const auto& entry : fs::directory_iterator(directory_ + "/peers", error)) {
    const bool is_file = entry.symlink_status(error).type() == fs::file_type::regular;
    if (is_file && !kept.contains(entry.path().filename().string())) gone.push_back(entry.path());
  }
  for (const fs::path& path : gone) fs::remove(path, error);
  return first;
}

std::optional<PeerRegistry::Listens> PeerRegistry::ReadListens() const {
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

absl::Status PeerRegistry::WriteListens(const Listens& listens) const {
  TANDEM_RETURN_IF_ERROR(MakeWay(directory_ + "/listens", FileKind::kFile));
  return WriteWholeFile(
      directory_ + "/listens",
      EncodeLines(kListensTitle, {listens.endpoint, fmt::format("{}", listens.copies)}),
      /*sync=*/false);
}

}  // namespace tandem::kv_store
