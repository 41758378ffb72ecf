// Arithmetic that never leaves the registers: the bound above every other figure.
#pragma once

#include "harness.h"

namespace jitflux::bench {

// Rows and summaries of the widest multiply-adds of float32, bfloat16 and int8 that this CPU has,
// on all threads.
void measure_register_peaks(Report& report);

}  // namespace jitflux::bench
