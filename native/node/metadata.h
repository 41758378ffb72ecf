// Texts of weight files as JavaScript values.
#pragma once

#include "node/napi_setup.h"
#include "weights/weight_file.h"

namespace jitflux::addon {

// WeightFile::metadata() as a list of [name, text], since a name may be any: "__proto__", too.
Napi::Array metadata_to_js(Napi::Env env, const WeightFile& file);

}  // namespace jitflux::addon
