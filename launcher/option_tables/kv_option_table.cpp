#include "launcher/option_tables/option_rows.h"
#include "launcher/option_tables/option_table.h"

// The options of `tandem kv`.
namespace tandem::launcher {
namespace {

/// Of all commands that look after the KV of a state directory.
Rows KvRows(KvOptions& o) {
  return {Required(Row("--state", Path(o.state.directory), "state directory of tandem serve")),
          Row("--state-key", Path(o.state.key_file),
              "key file with which what lies in --state is encrypted"),
          JsonRow(o.json)};
}

Rows KvConversationRows(KvOptions& o) {
  return {
      Row("--conversation", Text(o.conversation, 1, kMostName),
          "a conversation that the server keeps"),
      Row("--tenant", Text(o.tenant, 0, kMostName), "whose it is (default: the nameless tenant's)"),
  };
}

/// What besides the model's file decides which KV a server makes.
Rows KvModelRows(ModelOptions& o) {
  return {
      Row("--kv-dtype", {&o.kv_dtype},
          "of the server: f16, f32 or f8 (default f16; f32 with --activations f32)"),
      Row("--activations", {&o.activations}, "of the server: q8 or f32"),
      Row("--attention", {&o.attention}, "of the server (default dense)"),
  };
}

}  // namespace

Rows KvListRows(KvOptions& o) { return KvRows(o); }

Rows KvShowRows(KvOptions& o) {
  return Join({Row("PREFIX", {&o.prefix}, "id, or its beginning, as ls tells it")}, KvRows(o),
              KvConversationRows(o));
}

Rows KvCollectRows(KvOptions& o) {
  return Join(KvRows(o),
              Rows{Row("--older-than", {&o.older_than, {0, 36500 * kDay}, Unit::kAge},
                       "also what was used last longer ago than this, e.g. 12h, 30d"),
                   Row("--max-bytes", Size(o.max_bytes),
                       "also what was unused longest, until no more than this is left, e.g. 8GiB"),
                   Row("--dry-run", {&o.dry_run}, "tell what would go, and remove nothing"),
                   Row("--this-host-alone", {&o.this_host_alone},
                       "what is incomplete on this host is of no use: no other host has the rest "
                       "(default: so if no other host keeps KV in the directory)")});
}

Rows KvExportRows(KvOptions& o) {
  return Join(
      {Required(Row("MODEL", Path(o.model.model), "model file (.gguf) whose KV it is"))}, KvRows(o),
      KvConversationRows(o),
      Rows{Row("--system", Text(o.system), "what all chats with this system message begin with"),
           Row("--text-file", Path(o.text_file),
               "what all raw prompts begin with that begin with this file's text"),
           Row("--chat-template", {&o.chat_template},
               "of the server: chatml, zephyr, or a file with a Jinja template (default: the "
               "model's own)")},
      KvModelRows(o.model),
      Rows{Required(Row("-o,--output", Path(o.file), "file to write; replaced once it is whole"))});
}

Rows KvImportRows(KvOptions& o) {
  return Join(
      {Required(Row("FILE", Path(o.file), "file that tandem kv export wrote")),
       Row("MODEL", Path(o.model.model),
           "model file (.gguf) that is to use it: another one's KV is refused")},
      KvRows(o),
      Rows{
          Required(Row(
              "--trust", {&o.trust},
              "public key that may have signed it, as export prints it, or a file with such keys")),
          Row("--tenant", Text(o.tenant, 0, kMostName),
              "whose it will be (default: the nameless tenant's)")},
      KvModelRows(o.model));
}

}  // namespace tandem::launcher
