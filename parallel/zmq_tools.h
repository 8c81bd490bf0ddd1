#pragma once

#include "kv_store/zmq_tools.h"

namespace tandem::parallel {

using kv_store::AllowList;
using kv_store::BeCurveClient;
using kv_store::BeCurveServer;
using kv_store::BytesOf;
using kv_store::CurveKeys;
using kv_store::DisconnectMonitor;
using kv_store::MakeCurveKeys;
using kv_store::Readable;
using kv_store::SendOutcome;
using kv_store::SetSafeOptions;
using kv_store::SocketLimits;
using kv_store::TrySend;
using kv_store::UserOf;
using kv_store::WakeUp;

}  // namespace tandem::parallel
