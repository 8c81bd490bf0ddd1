#pragma once

#include "core/wire.h"

namespace tandem::parallel {

using core::WireReader;
using core::WireWriter;

}  // namespace tandem::parallel
