// Lets LeakSanitizer work in Node. Preloaded by scripts/test-asan.mjs, and opened as an addon by
// leak-check.ts.
//
// LeakSanitizer looks for pointers in globals, on stacks and in what malloc gave. V8 maps its heap
// itself, so that all that JavaScript objects own would be a leak: here the mapped memory is named
// as a place to look in, before the check at the end of a process and for `check()`. What a
// JavaScript object owns that only waits for its garbage collection does not show, therefore;
// test/lifetime/leaks.test.ts watches that.
#include <inttypes.h>
#include <node_api.h>
#include <sanitizer/lsan_interface.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { kMostRegions = 1 << 15 };

static struct {
  uintptr_t begin;
  size_t bytes;
} regions[kMostRegions];
static size_t region_count;

// AddressSanitizer's own on x86-64: its shadow, and its heap, which is looked through by rules of
// its own.
static bool is_sanitizer_memory(uintptr_t begin) {
  return (begin >= 0x00007fff7000 && begin < 0x10007fff8000) ||
         (begin >= 0x600000000000 && begin < 0x640000000000);
}

static void find_regions(void) {
  region_count = 0;
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == NULL) return;
  char line[4096];
  while (region_count < kMostRegions && fgets(line, sizeof line, maps) != NULL) {
    uintptr_t begin, end;
    char mode[5];
    int name = 0;
    if (sscanf(line, "%" SCNxPTR "-%" SCNxPTR " %4s %*x %*s %*u %n", &begin, &end, mode, &name) !=
        3)
      continue;
    // Anonymous memory that can be written to: it has no name.
    if (mode[0] != 'r' || mode[1] != 'w' || name == 0 || line[name] != '\0') continue;
    if (is_sanitizer_memory(begin)) continue;
    regions[region_count].begin = begin;
    regions[region_count++].bytes = end - begin;
  }
  fclose(maps);
}

static void name_regions(void) {
  find_regions();
  for (size_t i = 0; i < region_count; ++i)
    __lsan_register_root_region((const void*)regions[i].begin, regions[i].bytes);
}

static napi_value check(napi_env env, napi_callback_info info) {
  (void)info;
  name_regions();
  const bool found = __lsan_do_recoverable_leak_check() != 0;
  for (size_t i = 0; i < region_count; ++i)
    __lsan_unregister_root_region((const void*)regions[i].begin, regions[i].bytes);
  napi_value result;
  return napi_get_boolean(env, found, &result) == napi_ok ? result : NULL;
}

// Exports check(): whether there are leaks, which the sanitizer has reported then.
NAPI_MODULE_INIT() {
  napi_value function;
  if (napi_create_function(env, "check", NAPI_AUTO_LENGTH, check, NULL, &function) != napi_ok ||
      napi_set_named_property(env, exports, "check", function) != napi_ok)
    return NULL;
  return exports;
}

__attribute__((constructor)) static void begin(void) {
  char program[4096];
  const ssize_t length = readlink("/proc/self/exe", program, sizeof program - 1);
  program[length > 0 ? length : 0] = '\0';
  const char* slash = strrchr(program, '/');
  if (slash != NULL && strcmp(slash, "/node") == 0) {
    // Functions of atexit run in reverse: this one before LeakSanitizer's.
    atexit(name_regions);
  } else {
    // Shells, compilers and Pythons that tests start are none of our business.
    __lsan_disable();
  }
}
