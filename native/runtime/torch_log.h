#pragma once

namespace jitflux {

// LibTorch's warnings go to log() (base/log.h) while there is a LogScope. Before the
// first scope; a second call does nothing.
void redirect_torch_warnings();

}  // namespace jitflux
