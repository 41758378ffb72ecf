// The only place that includes napi.h; its macros are set by CMakeLists.txt.
#pragma once

#include <napi.h>
