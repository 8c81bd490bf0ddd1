#include <algorithm>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/model/model.h"
#include "core/system/standard_output.h"
#include "core/system/text_file.h"
#include "frontend/chat/shared_prefix.h"
#include "frontend/text/name_number.h"
#include "kv_store/base/chain_blocks.h"
#include "kv_store/export/export_writer.h"
#include "kv_store/pages/pool_size.h"
#include "kv_store/records/record.h"
#include "launcher/commands/commands.h"
#include "launcher/commands/text_side.h"
#include "launcher/job/progress_display.h"
#include "launcher/kv/kv_text.h"
#include "launcher/state/host_kv.h"

/// `tandem kv export`.
namespace tandem::launcher {
namespace {

constexpr int32_t kBlock = core::kPageTokens;

struct Prefix {
  std::vector<int32_t> tokens;
  std::string what;  // as errors name it
  std::string hint;  // how its KV comes to be
};

absl::StatusOr<std::string> ReadText(const std::string& path) {
  auto text = ReadTextFile(path);
  if (!text.ok()) return InvalidArgument("--text-file: {}", Message(text.status()));
  return text;
}

absl::StatusOr<Prefix> PrefixOf(const KvOptions& options, const KvAccess& access,
                                const core::ModelFile& file) {
  Prefix prefix;
  if (!options.conversation.empty()) {
    const frontend::ConversationName name{.tenant = options.tenant, .id = options.conversation};
    for (const auto& [found, conversation] : access.conversations().conversations) {
      if (found == name) prefix.tokens = conversation.history.tokens;
    }
    prefix.what = fmt::format("conversation \"{}\"", options.conversation);
    prefix.hint = "let a turn of it be answered by tandem serve --state";
    if (prefix.tokens.empty()) {
      return NotFound(
          "--state {}: there is no {} of tenant \"{}\"; tandem kv ls tells those that "
          "have KV",
          options.state.directory, prefix.what, options.tenant);
    }
    return prefix;
  }
  TANDEM_ASSIGN_OR_RETURN(const auto text_model, LoadTextSide(file, options.chat_template, false));
  if (options.system) {
    prefix.what = "this system message";
    prefix.hint = "send one chat with it to a tandem serve --state of this directory";
    TANDEM_ASSIGN_OR_RETURN(prefix.tokens,
                            frontend::TokensOfSystemMessage(*text_model, *options.system));
    return prefix;
  }
  prefix.what = "this text";
  prefix.hint = "send one request to complete it to a tandem serve --state of this directory";
  TANDEM_ASSIGN_OR_RETURN(const std::string text, ReadText(options.text_file));
  TANDEM_ASSIGN_OR_RETURN(prefix.tokens, frontend::TokensOfText(*text_model, text));
  return prefix;
}

/// The records of a row of blocks: which are there, and where.
class Records {
 public:
  Records(KvAccess& access, const kv_store::Fingerprint& fingerprint,
          const core::KvGeometry& geometry, uint64_t tenant, std::span<const int32_t> tokens)
      : access_(access), fingerprint_(fingerprint), geometry_(geometry) {
    hashes_ = kv_store::FullBlocksOf(kv_store::TenantHash(tenant), tokens);
    std::vector<kv_store::RecordKey> keys;
    for (int32_t block = 0; block < blocks(); ++block) {
      for (int32_t group = 0; group < groups(); ++group) {
        for (int32_t head = 0; head < geometry_.kv_heads; ++head) {
          keys.push_back(StoredKey({.block = block, .group = group, .kv_head = head}));
        }
      }
    }
    exists_ = access_.tier().Exists(keys);
  }

  int32_t blocks() const { return static_cast<int32_t>(hashes_.size()); }
  int32_t groups() const { return static_cast<int32_t>(geometry_.groups.size()); }
  int32_t state_groups() const { return geometry_.StateGroups(); }

  /// How many blocks from the first on a chat could reuse.
  int32_t Usable() const {
    int32_t count = blocks();
    while (count > 0 && !IsUsable(count)) --count;
    return count;
  }

  bool HasGroup(int32_t block, int32_t group) const {
    const size_t first =
        static_cast<size_t>(block * groups() + group) * static_cast<size_t>(geometry_.kv_heads);
    for (size_t head = 0; head < static_cast<size_t>(geometry_.kv_heads); ++head) {
      if (!exists_[first + head]) return false;
    }
    return true;
  }

  /// What is missing of a block. States are where a turn ended, and seldom else.
  std::string Missing(int32_t block) const {
    for (int32_t group = 0; group < groups() - state_groups(); ++group) {
      for (int32_t head = 0; head < geometry_.kv_heads; ++head) {
        const size_t index = (static_cast<size_t>(block) * static_cast<size_t>(groups()) +
                              static_cast<size_t>(group)) *
                             static_cast<size_t>(geometry_.kv_heads);
        if (!exists_[index + static_cast<size_t>(head)]) {
          return fmt::format("tokens {} to {}: KV head {} of layer group {}", block * kBlock,
                             (block + 1) * kBlock - 1, head, group);
        }
      }
    }
    return state_groups() == 0 ? ""
                               : fmt::format("the state before tokens {} to {}", block * kBlock,
                                             (block + 1) * kBlock - 1);
  }

  absl::StatusOr<std::vector<std::byte>> Read(const kv_store::ExportPlace& place) {
    const kv_store::RecordKey key = StoredKey(place);
    absl::Status last = NotFound("it is gone");
    for (const kv_store::TierKind kind : {kv_store::TierKind::kHost, kv_store::TierKind::kDisk}) {
      auto peeked = access_.tier().Peek(kind, std::span(&key, 1));
      if (peeked.front().state != kv_store::PeekedRecord::State::kThere) continue;
      auto record = Opened(place, std::move(peeked.front().bytes));
      if (record.ok()) return record;
      last = record.status();
    }
    // Another host may have it.
    if (auto found = access_.tier().Get(std::span(&key, 1)); found.front()) {
      auto record = Opened(place, std::move(found.front()->bytes));
      if (record.ok()) return record;
      last = record.status();
    }
    return absl::DataLossError(
        fmt::format("block {} (tokens {} to {}), KV head {}, layer group {} cannot be read: {}; "
                    "tandem kv verify tells more",
                    place.block, place.block * kBlock, (place.block + 1) * kBlock - 1,
                    place.kv_head, place.group, Message(last)));
  }

 private:
  /// A stored record, decrypted and checked.
  absl::StatusOr<std::vector<std::byte>> Opened(const kv_store::ExportPlace& place,
                                                kv_store::SharedBytes stored) {
    TANDEM_ASSIGN_OR_RETURN(const auto opened,
                            access_.names().Open(StoredKey(place), std::move(stored)));
    TANDEM_RETURN_IF_ERROR(
        kv_store::CheckRecord(opened.bytes, fingerprint_, NameOf(place), geometry_));
    return opened.bytes.Copy();
  }

  bool IsState(int32_t group) const { return geometry_.groups[static_cast<size_t>(group)].states; }

  bool IsUsable(int32_t count) const {
    for (int32_t block = 0; block < count; ++block) {
      bool any = state_groups() > 0;  // which need nothing of what is before them
      for (int32_t group = 0; group < groups(); ++group) {
        const bool seen = kv_store::NeedsBlock(geometry_.groups[static_cast<size_t>(group)],
                                               int64_t{count} * kBlock, block);
        const bool has = HasGroup(block, group);
        if (!has && seen) return false;
        any = any || has;
      }
      if (!any) return false;
    }
    return EndsWell(count - 1);
  }

  /// Whether an export may end with this block: at a state, or with all keys and values.
  bool EndsWell(int32_t last) const {
    bool keys = true;
    bool state = false;
    for (int32_t group = 0; group < groups(); ++group) {
      keys = keys && (IsState(group) || HasGroup(last, group));
      state = state || (IsState(group) && HasGroup(last, group));
    }
    return keys || state;
  }

  kv_store::RecordName NameOf(const kv_store::ExportPlace& place) const {
    return {.block = hashes_[static_cast<size_t>(place.block)],
            .tokens = kBlock,
            .kv_head = place.kv_head,
            .group = place.group};
  }
  kv_store::RecordKey StoredKey(const kv_store::ExportPlace& place) const {
    return access_.names().Key(kv_store::RecordKeyOf(fingerprint_, NameOf(place)));
  }

  KvAccess& access_;
  const kv_store::Fingerprint& fingerprint_;
  const core::KvGeometry& geometry_;
  std::vector<kv_store::BlockHash> hashes_;  // [blocks]
  std::vector<bool> exists_;                 // [blocks, groups, kv_heads]
};

absl::Status Write(Records& records, int32_t blocks, kv_store::ExportHeader header,
                   const kv_store::SigningKey& key, const std::string& path, int64_t& bytes) {
  std::vector<kv_store::ExportPlace> places;
  for (int32_t block = 0; block < blocks; ++block) {
    for (int32_t group = 0; group < records.groups(); ++group) {
      if (!records.HasGroup(block, group)) continue;
      for (int32_t head = 0; head < header.kv_heads; ++head) {
        places.push_back({.block = block, .group = group, .kv_head = head});
      }
    }
  }
  header.records = static_cast<int64_t>(places.size());
  TANDEM_ASSIGN_OR_RETURN(const auto writer,
                          kv_store::ExportWriter::Create(path, std::move(header), key));
  ProgressDisplay display;
  for (size_t i = 0; i < places.size(); ++i) {
    TANDEM_ASSIGN_OR_RETURN(std::vector<std::byte> record, records.Read(places[i]));
    TANDEM_RETURN_IF_ERROR(writer->Add(places[i], std::move(record)));
    display.Show(static_cast<double>(i + 1) / static_cast<double>(places.size()), "exporting KV");
  }
  TANDEM_RETURN_IF_ERROR(writer->Finish());
  bytes = writer->bytes();
  return absl::OkStatus();
}

}  // namespace

absl::Status KvExport(const KvOptions& options) {
  const int named = (options.conversation.empty() ? 0 : 1) + (options.text_file.empty() ? 0 : 1) +
                    (options.system ? 1 : 0);
  if (named != 1) {
    return InvalidArgument("name one of --conversation, --system and --text-file to export");
  }
  TANDEM_ASSIGN_OR_RETURN(const ModelChoices choices, ModelChoices::From(options.model));
  TANDEM_ASSIGN_OR_RETURN(const auto file, OpenModel(options.model, choices));
  TANDEM_ASSIGN_OR_RETURN(const auto access,
                          KvAccess::Open(options.state, KvAccess::Purpose::kLook));
  TANDEM_ASSIGN_OR_RETURN(const Prefix prefix, PrefixOf(options, *access, *file));
  const size_t whole = prefix.tokens.size() / kBlock;
  if (whole == 0) {
    return FailedPrecondition("{} has {}; whole blocks of {} are exported, so there is none",
                              prefix.what,
                              Counted(static_cast<int64_t>(prefix.tokens.size()), "token"), kBlock);
  }
  const kv_store::Fingerprint fingerprint = KvFingerprintOf(*file, options.model, choices);
  const core::ModelConfig& config = file->config();
  const core::KvGeometry geometry = GeometryOf(config, choices);
  Records records(*access, fingerprint, geometry, frontend::NumberOf(options.tenant),
                  prefix.tokens);
  const int32_t blocks = records.Usable();
  if (blocks == 0) {
    return NotFound(
        "--state {}: the KV of {} is not there for tenant \"{}\" and model {} ({}): {}{}",
        options.state.directory, prefix.what, options.tenant, ShortFingerprint(fingerprint),
        records.Missing(0), prefix.hint,
        access->other_hosts().empty()
            ? ""
            : fmt::format("; if {} has it, its agent must run: start a server there",
                          fmt::join(access->other_hosts(), " or ")));
  }
  TANDEM_ASSIGN_OR_RETURN(const kv_store::SigningKey key,
                          kv_store::OpenSigningKey(options.state.directory, access->box()));
  kv_store::ExportHeader header;
  header.fingerprint = fingerprint;
  header.model = config.name;
  header.tokens.assign(prefix.tokens.begin(), prefix.tokens.begin() + blocks * kBlock);
  header.kv_heads = config.kv_heads;
  header.groups = records.groups();
  header.state_groups = records.state_groups();
  int64_t bytes = 0;
  TANDEM_RETURN_IF_ERROR(Write(records, blocks, header, key, options.file, bytes));
  const std::string missing = blocks < records.blocks() ? records.Missing(blocks) : std::string();
  if (options.json) {
    PrintJson({{"file", options.file},
               {"bytes", bytes},
               {"tokens", blocks * kBlock},
               {"tokens_of_text", prefix.tokens.size()},
               {"blocks", blocks},
               {"missing", missing},
               {"model", FullFingerprint(fingerprint)},
               {"public_key", kv_store::PublicKeyText(key.public_key())}});
    return absl::OkStatus();
  }
  PrintOutput("{}: {} of the {} of {} in {}, {}\nsigned by {}\n", options.file, blocks * kBlock,
              Counted(static_cast<int64_t>(prefix.tokens.size()), "token"), prefix.what,
              Counted(blocks, "block"), SizeText(bytes), kv_store::PublicKeyText(key.public_key()));
  if (!missing.empty()) {
    PrintOutput("what follows is not in {}: {}\n", options.state.directory, missing);
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
