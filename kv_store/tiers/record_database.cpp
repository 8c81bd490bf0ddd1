#include "kv_store/tiers/record_database.h"

#include <rocksdb/db.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/options.h>
#include <rocksdb/table.h>
#include <rocksdb/write_batch.h>
#include <sodium.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <thread>
#include <unordered_map>
#include <utility>

#include "kv_store/base/database_log.h"
#include "kv_store/base/files.h"

namespace tandem::kv_store {
namespace {

// The index's entries: one of these, the block's hash, and for a record its key.
constexpr char kBlockEntry = 'B';    // before, tenant, secret
constexpr char kRecordEntry = 'R';   // bytes as uint64
constexpr char kLastUseEntry = 'U';  // uint64
constexpr size_t kHashBytes = sizeof(BlockHash);
constexpr size_t kBlockValueBytes = kHashBytes + sizeof(uint64_t) + sizeof(BlockSecret);

constexpr char kRecordsFamily[] = "records";

rocksdb::Slice SliceOf(const std::array<uint8_t, 32>& bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

template <typename T>
void Append(std::string& text, const T& value) {
  text.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

template <typename T>
T ReadAt(const rocksdb::Slice& slice, size_t at) {
  T value{};
  std::memcpy(&value, slice.data() + at, sizeof(value));
  return value;
}

std::string EntryOf(char kind, const BlockHash& block) {
  std::string key(1, kind);
  Append(key, block);
  return key;
}

std::string RecordEntryOf(const BlockHash& block, const RecordKey& key) {
  std::string entry = EntryOf(kRecordEntry, block);
  Append(entry, key);
  return entry;
}

/// A record's cipher text, or its plain text again. The nonce may be the record's key: a secret is
/// of one block, in which every key stands for other bytes.
void Encrypt(std::byte* out, const void* in, size_t bytes, const RecordKey& key,
             const BlockSecret& secret) {
  static_assert(sizeof(RecordKey) >= crypto_stream_xchacha20_NONCEBYTES);
  static_assert(sizeof(BlockSecret) == crypto_stream_xchacha20_KEYBYTES);
  if (bytes == 0) return;
  crypto_stream_xchacha20_xor(reinterpret_cast<unsigned char*>(out),
                              static_cast<const unsigned char*>(in), bytes, key.data(),
                              secret.data());
}

absl::Status StatusOf(const rocksdb::Status& status, const std::string& directory,
                      std::string_view what) {
  if (status.ok()) return absl::OkStatus();
  const std::string message =
      fmt::format("KV store on disk, {}: {}: {}", directory, what, status.ToString());
  if (status.IsNoSpace()) {
    return absl::ResourceExhaustedError(message + "; make room on its file system");
  }
  if (status.IsIncomplete() || status.IsTimedOut() || status.IsBusy()) {
    return absl::ResourceExhaustedError(message + "; the disk does not keep up");
  }
  if (status.IsCorruption()) return absl::DataLossError(message);
  if (status.IsNotFound()) return absl::NotFoundError(message);
  return absl::UnavailableError(message);
}

/// Whether what is there cannot be read by anyone, so that nothing is lost by beginning anew. Not
/// where the system refused something: that passes.
bool IsDamaged(const rocksdb::Status& status) {
  return status.IsCorruption() || status.IsPathNotFound() || status.IsInvalidArgument() ||
         status.IsNotSupported();
}

rocksdb::ColumnFamilyOptions BlockIndexOptions() {
  rocksdb::ColumnFamilyOptions options;
  options.compression = rocksdb::kNoCompression;
  options.write_buffer_size = size_t{4} << 20;
  options.target_file_size_base = uint64_t{4} << 20;
  // Its few bytes never are a reason to make anybody wait.
  options.level0_slowdown_writes_trigger = 1000;
  options.level0_stop_writes_trigger = 2000;
  return options;
}

rocksdb::ColumnFamilyOptions RecordsOptions(int64_t memtable_bytes) {
  rocksdb::ColumnFamilyOptions options = BlockIndexOptions();
  options.write_buffer_size = static_cast<size_t>(memtable_bytes);
  options.max_write_buffer_number = 4;
  options.enable_blob_files = true;
  options.min_blob_size = 0;
  options.blob_file_size = uint64_t{256} << 20;
  options.blob_compression_type = rocksdb::kNoCompression;  // cipher text
  rocksdb::BlockBasedTableOptions table;
  table.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
  options.table_factory.reset(rocksdb::NewBlockBasedTableFactory(table));
  return options;
}

rocksdb::WriteOptions NoLog() {
  rocksdb::WriteOptions options;
  options.disableWAL = true;
  options.no_slowdown = true;  // Write waits itself, up to its deadline
  return options;
}

}  // namespace

struct RecordDatabase::Files {
  std::unique_ptr<rocksdb::DB> db;
  rocksdb::ColumnFamilyHandle* index = nullptr;
  rocksdb::ColumnFamilyHandle* records = nullptr;

  ~Files() {
    if (db == nullptr) return;
    if (index != nullptr) db->DestroyColumnFamilyHandle(index);
    if (records != nullptr) db->DestroyColumnFamilyHandle(records);
    static_cast<void>(db->Close());
  }
  std::vector<rocksdb::ColumnFamilyHandle*> families() const { return {index, records}; }
};

struct RecordDatabase::Batch::Changes {
  Changes(Files& of, size_t room) : files(of), batch(room) {}

  Files& files;
  rocksdb::WriteBatch batch;
  rocksdb::Status status;  // the first that failed
  std::string cipher;      // of one record after the other

  void Keep(const rocksdb::Status& made) {
    if (status.ok()) status = made;
  }
  void PutEntry(const std::string& entry, const std::string& value) {
    Keep(batch.Put(files.index, entry, value));
  }
  void DeleteEntry(const std::string& entry) { Keep(batch.Delete(files.index, entry)); }
};

RecordDatabase::Batch::Batch(RecordDatabase& database, size_t room)
    : changes_(std::make_unique<Changes>(*database.files_, room)) {}
RecordDatabase::Batch::~Batch() = default;

void RecordDatabase::Batch::PutBlock(const Block& block) {
  std::string value;
  Append(value, block.before);
  Append(value, block.tenant);
  Append(value, block.secret);
  changes_->PutEntry(EntryOf(kBlockEntry, block.block), value);
}

void RecordDatabase::Batch::PutLastUse(const BlockHash& block, uint64_t last_use) {
  std::string value;
  Append(value, last_use);
  changes_->PutEntry(EntryOf(kLastUseEntry, block), value);
}

void RecordDatabase::Batch::PutRecord(const TierRecord& record, const BlockSecret& secret) {
  std::string size;
  Append(size, static_cast<uint64_t>(record.bytes.size()));
  changes_->PutEntry(RecordEntryOf(record.block, record.key), size);
  std::string& cipher = changes_->cipher;
  cipher.resize(record.bytes.size());
  Encrypt(reinterpret_cast<std::byte*>(cipher.data()), record.bytes.data(), cipher.size(),
          record.key, secret);
  changes_->Keep(changes_->batch.Put(changes_->files.records, SliceOf(record.key), cipher));
}

void RecordDatabase::Batch::DeleteRecord(const BlockHash& block, const RecordKey& key) {
  changes_->DeleteEntry(RecordEntryOf(block, key));
  changes_->Keep(changes_->batch.Delete(changes_->files.records, SliceOf(key)));
}

void RecordDatabase::Batch::DeleteBlock(const BlockHash& block) {
  changes_->DeleteEntry(EntryOf(kBlockEntry, block));
  changes_->DeleteEntry(EntryOf(kLastUseEntry, block));
}

size_t RecordDatabase::Batch::bytes() const { return changes_->batch.GetDataSize(); }

RecordDatabase::RecordDatabase() = default;
RecordDatabase::~RecordDatabase() = default;

absl::Status RecordDatabase::Destroy(const std::string& directory) {
  TANDEM_RETURN_IF_ERROR(MakeWayInFolder(directory).status());
  std::error_code error;
  for (std::filesystem::directory_iterator it(directory, error), end; !error && it != end;
       it.increment(error)) {
    std::filesystem::remove_all(it->path(), error);
  }
  if (!error) return absl::OkStatus();
  return Unavailable("KV store on disk, {}: it is damaged and cannot be removed: {}", directory,
                     error.message());
}

absl::StatusOr<std::unique_ptr<RecordDatabase>> RecordDatabase::Open(const Options& options) {
  [[maybe_unused]] const int already = sodium_init();
  TANDEM_RETURN_IF_ERROR(MakeWay(options.directory, FileKind::kFolder));
  std::error_code error;
  std::filesystem::create_directories(options.directory, error);
  if (error) {
    return Unavailable("KV store on disk, {}: cannot be made: {}", options.directory,
                       error.message());
  }
  if (chmod(options.directory.c_str(), S_IRWXU) != 0) {
    return Unavailable("KV store on disk, {}: cannot be closed to other users (mode 0700): {}",
                       options.directory, std::generic_category().message(errno));
  }
  TANDEM_RETURN_IF_ERROR(MakeWayInFolder(options.directory).status());
  std::unique_ptr<RecordDatabase> database(new RecordDatabase());
  database->options_ = options;
  absl::Status opened = database->OpenFiles();
  if (absl::IsDataLoss(opened) && !options.keeps_damaged) {
    database->files_.reset();
    TANDEM_RETURN_IF_ERROR(Destroy(options.directory));
    database->began_anew_ = Message(opened);
    opened = database->OpenFiles();
  }
  TANDEM_RETURN_IF_ERROR(opened);
  return database;
}

absl::Status RecordDatabase::OpenFiles() {
  rocksdb::DBOptions options;
  options.create_if_missing = true;
  options.create_missing_column_families = true;
  options.atomic_flush = true;   // records and index agree, without a log
  options.max_open_files = 256;  // blob files may be thousands
  options.max_background_jobs = 2;
  options.avoid_flush_during_shutdown = false;
  options.manifest_preallocation_size = size_t{64} << 10;  // else 4 MiB of the disk a manifest
  options.info_log = MakeDatabaseLog(options_.directory);
  const std::vector<rocksdb::ColumnFamilyDescriptor> families = {
      {rocksdb::kDefaultColumnFamilyName, BlockIndexOptions()},
      {kRecordsFamily, RecordsOptions(options_.memtable_bytes)}};
  std::vector<rocksdb::ColumnFamilyHandle*> handles;
  rocksdb::DB* db = nullptr;
  const rocksdb::Status status =
      rocksdb::DB::Open(options, options_.directory, families, &handles, &db);
  if (!status.ok()) {
    if (IsDamaged(status)) {
      return absl::DataLossError(fmt::format("KV store on disk, {}: it is damaged: {}",
                                             options_.directory, status.ToString()));
    }
    if (status.ToString().find("lock") != std::string::npos) {
      return FailedPrecondition("KV store on disk, {}: another process has it open ({})",
                                options_.directory, status.ToString());
    }
    return StatusOf(status, options_.directory, "cannot be opened");
  }
  files_ = std::make_unique<Files>();
  files_->db.reset(db);
  files_->index = handles[0];
  files_->records = handles[1];
  // Damage in the index shows here, while beginning anew is still easy.
  return ForEachRecord([](const Block&, const RecordKey&, int64_t) {});
}

absl::Status RecordDatabase::ForEachRecord(
    const std::function<void(const Block& block, const RecordKey& key, int64_t bytes)>& visit) {
  std::unordered_map<BlockHash, Block, BlockHashBits> blocks;
  const std::unique_ptr<rocksdb::Iterator> it(
      files_->db->NewIterator(rocksdb::ReadOptions(), files_->index));
  const auto for_kind = [&](char kind, size_t key_bytes, size_t value_bytes, const auto& read) {
    for (it->Seek(std::string(1, kind)); it->Valid() && it->key()[0] == kind; it->Next()) {
      if (it->key().size() != key_bytes || it->value().size() != value_bytes) continue;
      read(ReadAt<BlockHash>(it->key(), 1));
    }
  };
  for_kind(kBlockEntry, 1 + kHashBytes, kBlockValueBytes, [&](const BlockHash& hash) {
    Block& block = blocks[hash];
    block.block = hash;
    block.before = ReadAt<BlockHash>(it->value(), 0);
    block.tenant = ReadAt<uint64_t>(it->value(), kHashBytes);
    block.secret = ReadAt<BlockSecret>(it->value(), kHashBytes + sizeof(uint64_t));
  });
  for_kind(kLastUseEntry, 1 + kHashBytes, sizeof(uint64_t), [&](const BlockHash& hash) {
    const auto block = blocks.find(hash);
    if (block != blocks.end()) block->second.last_use = ReadAt<uint64_t>(it->value(), 0);
  });
  for_kind(kRecordEntry, 1 + 2 * kHashBytes, sizeof(uint64_t), [&](const BlockHash& hash) {
    const auto block = blocks.find(hash);
    const auto bytes = ReadAt<uint64_t>(it->value(), 0);
    if (block == blocks.end() || bytes > (uint64_t{1} << 40)) return;
    visit(block->second, ReadAt<RecordKey>(it->key(), 1 + kHashBytes), static_cast<int64_t>(bytes));
  });
  return StatusOf(it->status(), options_.directory, "its index cannot be read");
}

absl::Status RecordDatabase::Write(Batch& batch) {
  rocksdb::WriteBatch& changes = batch.changes_->batch;
  TANDEM_RETURN_IF_ERROR(
      StatusOf(batch.changes_->status, options_.directory, "changes cannot be gathered"));
  if (changes.Count() == 0) return absl::OkStatus();
  const auto deadline = std::chrono::steady_clock::now() + options_.write_deadline;
  for (;;) {
    rocksdb::Status status = files_->db->Write(NoLog(), &changes);
    if (status.IsNoSpace()) {
      // The disk was full before. Is it still?
      status = files_->db->Resume();
      if (status.ok()) status = files_->db->Write(NoLog(), &changes);
    }
    if (!status.IsIncomplete() || std::chrono::steady_clock::now() >= deadline) {
      return StatusOf(status, options_.directory, "cannot be written");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
}

absl::StatusOr<std::vector<std::byte>> RecordDatabase::Read(const RecordKey& key,
                                                            const BlockSecret& secret) {
  rocksdb::ReadOptions options;
  options.fill_cache = false;
  rocksdb::PinnableSlice cipher;
  const rocksdb::Status status = files_->db->Get(options, files_->records, SliceOf(key), &cipher);
  if (status.IsNotFound()) return NotFound("no such record");
  if (!status.ok()) {
    return absl::DataLossError(fmt::format("KV store on disk, {}: a record cannot be read: {}",
                                           options_.directory, status.ToString()));
  }
  std::vector<std::byte> bytes(cipher.size());
  Encrypt(bytes.data(), cipher.data(), cipher.size(), key, secret);
  return bytes;
}

absl::Status RecordDatabase::Flush() {
  rocksdb::FlushOptions options;
  options.allow_write_stall = true;
  rocksdb::Status status = files_->db->Flush(options, files_->families());
  if (status.IsNoSpace()) {
    status = files_->db->Resume();
    if (status.ok()) status = files_->db->Flush(options, files_->families());
  }
  return StatusOf(status, options_.directory, "cannot be flushed");
}

absl::Status RecordDatabase::EraseDeletedBlocks() {
  TANDEM_RETURN_IF_ERROR(Flush());
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  const std::string begin(1, kBlockEntry);
  const std::string end(1, kBlockEntry + 1);
  const rocksdb::Slice first(begin);
  const rocksdb::Slice last(end);
  return StatusOf(files_->db->CompactRange(options, files_->index, &first, &last),
                  options_.directory, "erased blocks are still in its files");
}

int64_t RecordDatabase::BytesOnDisk() {
  int64_t bytes = 0;
  for (rocksdb::ColumnFamilyHandle* family : files_->families()) {
    rocksdb::ColumnFamilyMetaData data;
    files_->db->GetColumnFamilyMetaData(family, &data);
    bytes += static_cast<int64_t>(data.size + data.blob_file_size);
  }
  return bytes;
}

int64_t RecordDatabase::BlobFiles() {
  rocksdb::ColumnFamilyMetaData data;
  files_->db->GetColumnFamilyMetaData(files_->records, &data);
  return static_cast<int64_t>(data.blob_file_count);
}

absl::Status RecordDatabase::Collect(const Goal& goal, std::atomic<bool>& stop) {
  rocksdb::CompactRangeOptions options;
  options.exclusive_manual_compaction = false;
  options.canceled = &stop;
  // First without touching a live record: this lets go of blob files that hold none, and tells how
  // much of the others is dead.
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kDisable;
  rocksdb::Status status = files_->db->CompactRange(options, files_->records, nullptr, nullptr);
  options.bottommost_level_compaction = rocksdb::BottommostLevelCompaction::kForce;
  options.blob_garbage_collection_policy = rocksdb::BlobGarbageCollectionPolicy::kForce;
  constexpr int kMostPasses = 8;
  for (int pass = 0; pass < kMostPasses && status.ok() && !stop; ++pass) {
    rocksdb::ColumnFamilyMetaData data;
    files_->db->GetColumnFamilyMetaData(files_->records, &data);
    std::vector<rocksdb::BlobMetaData>& files = data.blob_files;
    std::sort(files.begin(), files.end(),
              [](const auto& a, const auto& b) { return a.blob_file_number < b.blob_file_number; });
    int64_t dead = 0;
    for (const auto& file : files) dead += static_cast<int64_t>(file.garbage_blob_bytes);
    const auto too_many = [&](size_t left, int64_t most) {
      return static_cast<int64_t>(left) > most;
    };
    if (dead <= goal.garbage_bytes && !too_many(files.size(), goal.files)) break;
    // RocksDB rewrites what lives in the oldest files; how many, we say.
    size_t oldest = 0;
    int64_t rewritten = 0;
    while (oldest < files.size() && (oldest == 0 || rewritten < goal.rewritten_bytes) &&
           (dead > goal.garbage_bytes / 2 || too_many(files.size() - oldest, goal.files / 2))) {
      dead -= static_cast<int64_t>(files[oldest].garbage_blob_bytes);
      rewritten +=
          static_cast<int64_t>(files[oldest].total_blob_bytes - files[oldest].garbage_blob_bytes);
      ++oldest;
    }
    options.blob_garbage_collection_age_cutoff =
        oldest == files.size()
            ? 1.0
            : (static_cast<double>(oldest) + 0.5) / static_cast<double>(files.size());
    status = files_->db->CompactRange(options, files_->records, nullptr, nullptr);
  }
  if (stop && status.IsIncomplete()) return absl::OkStatus();
  return StatusOf(status, options_.directory, "deleted records cannot be collected");
}

}  // namespace tandem::kv_store
