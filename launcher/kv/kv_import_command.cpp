
#include <algorithm>
#include <array>
#include <nlohmann/json.hpp>

#include "core/base/counted.h"
#include "core/system/standard_output.h"
#include "frontend/text/name_number.h"
#include "kv_store/base/blake2b.h"
#include "kv_store/base/chain_blocks.h"
#include "kv_store/export/export_reader.h"
#include "kv_store/records/record.h"
#include "launcher/commands/commands.h"
#include "launcher/job/progress_display.h"
#include "launcher/kv/kv_text.h"
#include "launcher/state/host_kv.h"

/// `tandem kv import`.
namespace tandem::launcher {
namespace {

using RecordHash = std::array<uint8_t, 32>;

RecordHash HashOf(const kv_store::ExportRecord& record) {
  return kv_store::Blake2b<RecordHash>(record.bytes);
}

/// What the model that is to use it says of an exported file.
struct ExpectedModel {
  kv_store::Fingerprint fingerprint{};
  core::KvGeometry geometry;
  int32_t vocab = 0;
};

absl::StatusOr<std::optional<ExpectedModel>> ReadModel(const KvOptions& options) {
  if (options.model.model.empty()) return std::nullopt;
  TANDEM_ASSIGN_OR_RETURN(const ModelChoices choices, ModelChoices::From(options.model));
  TANDEM_ASSIGN_OR_RETURN(const auto file, OpenModel(options.model, choices));
  return ExpectedModel{.fingerprint = KvFingerprintOf(*file, options.model, choices),
                       .geometry = GeometryOf(file->config(), choices),
                       .vocab = file->config().vocab};
}

/// A file that is imported: read once to check all of it, then once more to take it.
class Import {
 public:
  Import(const KvOptions& options, std::optional<ExpectedModel> model)
      : options_(options), model_(std::move(model)) {}

  absl::Status Check() {
    const auto trusted = kv_store::ReadPublicKeys(options_.trust);
    if (!trusted.ok()) return InvalidArgument("--trust: {}", Message(trusted.status()));
    TANDEM_ASSIGN_OR_RETURN(source_, kv_store::FileSource::Open(options_.file));
    kv_store::ExportReader reader(*source_);
    TANDEM_ASSIGN_OR_RETURN(header_, Named(reader.ReadHeader()));
    if (std::find(trusted->begin(), trusted->end(), header_.signer) == trusted->end()) {
      return FailedPrecondition(
          "{}: it says that it was signed by {}, which --trust does not name; nothing was "
          "imported",
          options_.file, kv_store::PublicKeyText(header_.signer));
    }
    TANDEM_RETURN_IF_ERROR(CheckModel());
    ProgressDisplay display;
    for (;;) {
      TANDEM_ASSIGN_OR_RETURN(const auto record, Named(reader.NextRecord()));
      if (!record) break;
      TANDEM_RETURN_IF_ERROR(CheckShape(*record));
      hashes_.push_back(HashOf(*record));
      Show(display, reader, "checking the file");
    }
    return Named(reader.Finish());
  }

  /// Puts everything under the tenant's names.
  absl::Status Put(KvAccess& access) {
    TANDEM_RETURN_IF_ERROR(source_->Rewind());
    const uint64_t tenant = frontend::NumberOf(options_.tenant);
    const kv_store::BlockHash root = kv_store::TenantHash(tenant);
    const std::vector<kv_store::BlockHash> chain = kv_store::FullBlocksOf(root, header_.tokens);
    kv_store::ExportReader reader(*source_);
    TANDEM_ASSIGN_OR_RETURN(const kv_store::ExportHeader again, Named(reader.ReadHeader()));
    if (again != header_) return Changed();
    ProgressDisplay display;
    std::vector<kv_store::TierRecord> batch;
    int32_t batch_block = 0;
    for (size_t i = 0;; ++i) {
      TANDEM_ASSIGN_OR_RETURN(auto record, Named(reader.NextRecord()));
      if (!batch.empty() && (!record || record->place.block != batch_block)) {
        TANDEM_RETURN_IF_ERROR(PutBatch(access, batch));
        Show(display, reader, "importing KV");
      }
      if (!record) break;
      if (i >= hashes_.size() || HashOf(*record) != hashes_[i]) return Changed();
      batch_block = record->place.block;
      const auto block = static_cast<size_t>(batch_block);
      kv_store::MoveRecord(record->bytes, chain[block]);
      kv_store::RecordName name = record->header.name;
      name.block = chain[block];
      batch.push_back(access.names().Seal({.key = kv_store::RecordKeyOf(header_.fingerprint, name),
                                           .block = chain[block],
                                           .before = block > 0 ? chain[block - 1] : root,
                                           .tenant = tenant,
                                           .bytes = std::move(record->bytes)}));
    }
    return Settle(access);
  }

  const kv_store::ExportHeader& header() const { return header_; }
  int64_t bytes() const { return bytes_; }
  int64_t records() const { return static_cast<int64_t>(keys_.size()); }
  int64_t known() const { return known_; }

 private:
  template <typename Result>
  Result Named(Result result) const {
    const absl::Status status = StatusOf(result);
    if (status.ok()) return result;
    return absl::Status(
        status.code(), fmt::format("{}: {}; nothing was imported", options_.file, Message(status)));
  }
  static absl::Status StatusOf(const absl::Status& status) { return status; }
  template <typename T>
  static absl::Status StatusOf(const absl::StatusOr<T>& result) {
    return result.status();
  }

  absl::Status Changed() const {
    return FailedPrecondition("{}: it was changed while it was read; import it again",
                              options_.file);
  }

  void Show(ProgressDisplay& display, const kv_store::ExportReader& reader,
            std::string_view what) const {
    display.Show(static_cast<double>(reader.bytes_read()) / static_cast<double>(source_->size()),
                 what);
  }

  absl::Status CheckModel() const {
    if (!model_) return absl::OkStatus();
    if (header_.fingerprint != model_->fingerprint) {
      return FailedPrecondition(
          "{}: its KV is of model {} (\"{}\"), not of {} with these --kv-dtype, --activations and "
          "--attention ({}); nothing was imported",
          options_.file, ShortFingerprint(header_.fingerprint), header_.model, options_.model.model,
          ShortFingerprint(model_->fingerprint));
    }
    const auto high = std::max_element(header_.tokens.begin(), header_.tokens.end());
    if (header_.kv_heads != model_->geometry.kv_heads ||
        static_cast<size_t>(header_.groups) != model_->geometry.groups.size() ||
        *high >= model_->vocab) {
      return FailedPrecondition(
          "{}: {}, {}, tokens up to {}; model {} has {}, {} and {} tokens; nothing was imported",
          options_.file, Counted(header_.kv_heads, "KV head"),
          Counted(static_cast<int64_t>(header_.groups), "layer group"), *high, options_.model.model,
          model_->geometry.kv_heads, model_->geometry.groups.size(), model_->vocab);
    }
    return absl::OkStatus();
  }

  absl::Status CheckShape(const kv_store::ExportRecord& record) const {
    if (!model_) return absl::OkStatus();
    return Named(kv_store::CheckRecord(record.bytes, model_->fingerprint, record.header.name,
                                       model_->geometry));
  }

  absl::Status PutBatch(KvAccess& access, std::vector<kv_store::TierRecord>& batch) {
    for (const kv_store::TierRecord& record : batch) {
      keys_.push_back(record.key);
      bytes_ += static_cast<int64_t>(record.bytes.size());
    }
    const std::vector<bool> exists = access.tier().Exists(std::span(keys_).last(batch.size()));
    known_ += std::count(exists.begin(), exists.end(), true);
    const absl::Status status = access.tier().Put(batch);
    batch.clear();
    return Unfinished(status);
  }

  absl::Status Settle(KvAccess& access) {
    if (const absl::Status flushed = access.tier().Flush(); !flushed.ok()) {
      return absl::Status(
          flushed.code(),
          fmt::format("{}: {} put, but not all is safe yet: {}", options_.file,
                      Counted(static_cast<int64_t>(keys_.size()), "record was", "records were"),
                      Message(flushed)));
    }
    const std::vector<bool> exists = access.tier().Exists(keys_);
    const auto lost = std::count(exists.begin(), exists.end(), false);
    if (lost == 0) return absl::OkStatus();
    TANDEM_RETURN_IF_ERROR(access.CheckAlive());
    return ResourceExhausted(
        "{}: {} of {} found no room in {}; give it more (--kv-disk, --kv-tenant), or "
        "remove what is unused (tandem kv gc)",
        options_.file, lost, Counted(static_cast<int64_t>(keys_.size()), "record"), access.path());
  }

  /// What came before an error is of use, and stays.
  absl::Status Unfinished(const absl::Status& status) const {
    if (status.ok()) return status;
    return absl::Status(status.code(),
                        fmt::format("{}: not all of it was imported (import it again once that is "
                                    "mended): {}",
                                    options_.file, Message(status)));
  }

  const KvOptions& options_;
  const std::optional<ExpectedModel> model_;
  std::unique_ptr<kv_store::FileSource> source_;
  kv_store::ExportHeader header_;
  std::vector<RecordHash> hashes_;         // [records]
  std::vector<kv_store::RecordKey> keys_;  // as stored, of what was put
  int64_t known_ = 0;                      // of them, there before
  int64_t bytes_ = 0;
};

}  // namespace

absl::Status KvImport(const KvOptions& options) {
  TANDEM_ASSIGN_OR_RETURN(std::optional<ExpectedModel> model, ReadModel(options));
  Import import(options, std::move(model));
  TANDEM_RETURN_IF_ERROR(import.Check());
  TANDEM_ASSIGN_OR_RETURN(const auto access,
                          KvAccess::Open(options.state, KvAccess::Purpose::kPut));
  TANDEM_RETURN_IF_ERROR(import.Put(*access));
  const kv_store::ExportHeader& header = import.header();
  if (options.json) {
    PrintJson({{"file", options.file},
               {"tokens", header.tokens.size()},
               {"blocks", header.tokens.size() / core::kPageTokens},
               {"records", import.records()},
               {"records_known", import.known()},
               {"bytes", import.bytes()},
               {"model", FullFingerprint(header.fingerprint)},
               {"model_name", header.model},
               {"tenant", options.tenant},
               {"signed_by", kv_store::PublicKeyText(header.signer)}});
    return absl::OkStatus();
  }
  PrintOutput("{}: {} of model {} in {}, {}; {} of them there before\n", options.file,
              Counted(static_cast<int64_t>(header.tokens.size()), "token"),
              ShortFingerprint(header.fingerprint),
              Counted(static_cast<int64_t>(import.records()), "record"), SizeText(import.bytes()),
              import.known());
  if (options.model.model.empty()) {
    PrintOutput("no MODEL was given to compare: only a server of just that model uses it\n");
  }
  return absl::OkStatus();
}

}  // namespace tandem::launcher
