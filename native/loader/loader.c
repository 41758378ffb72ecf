// jit_flux.node: opens the libraries it is told to, and nothing else.
//
// It is not linked to LibTorch, so that `require` of the package never fails because LibTorch is
// missing; where the libraries are is decided in src/engine/load.ts. Exports one function:
//
//   load({ libraries: string[], entry: string }): object
//
// opens `libraries` in order and then `entry` (the core after LibTorch, or the weights library
// alone), all by absolute path, and returns what the `jit_flux_init(napi_env, napi_value exports)`
// of the latter put into its exports. Every call initialises it anew: the caller sees to it that
// there is one of each per environment (worker thread). The
// libraries are process-wide and never closed. Errors are JavaScript Errors with code
// ERR_JITFLUX_NATIVE_LOAD, and TypeErrors for wrong arguments.
#include <dlfcn.h>
#include <limits.h>
#include <node_api.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#define ERROR_CODE "ERR_JITFLUX_NATIVE_LOAD"
#define ARGUMENT_CODE "ERR_JITFLUX_INVALID_ARGUMENT"
#define ENTRY_INIT "jit_flux_init"
#define TORCH_LIBRARY_NAME "libtorch_cpu.so"
#define MAX_MESSAGE 8192

typedef napi_value (*init_function)(napi_env env, napi_value exports);

// Throws `code`: "<what> <path>: <reason>", unless an exception is pending already.
static void throw_load_error(napi_env env, const char* what, const char* path, const char* reason) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return;
  // dlerror begins with the path if it is about the library itself rather than one of its
  // dependencies.
  size_t length = strlen(path);
  if (strncmp(reason, path, length) == 0 && strncmp(reason + length, ": ", 2) == 0)
    reason += length + 2;
  char message[MAX_MESSAGE];
  snprintf(message, sizeof message, "%s %s: %s", what, path, reason);
  napi_throw_error(env, ERROR_CODE, message);
}

static void throw_argument_error(napi_env env, const char* message) {
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) == napi_ok && pending) return;
  napi_throw_type_error(env, ARGUMENT_CODE, message);
}

// The string as a malloc'ed UTF-8 copy; NULL, with an exception pending, unless it is an absolute
// path without NULs.
static char* absolute_path(napi_env env, napi_value value, const char* what) {
  char message[256];
  napi_valuetype type;
  size_t length = 0;
  if (napi_typeof(env, value, &type) != napi_ok || type != napi_string ||
      napi_get_value_string_utf8(env, value, NULL, 0, &length) != napi_ok) {
    snprintf(message, sizeof message, "Expected a string for %s", what);
    throw_argument_error(env, message);
    return NULL;
  }
  char* path = malloc(length + 1);
  if (path == NULL) {
    throw_load_error(env, "Cannot load", what, "out of memory");
    return NULL;
  }
  if (napi_get_value_string_utf8(env, value, path, length + 1, &length) != napi_ok) {
    free(path);
    throw_argument_error(env, "Cannot read a path");
    return NULL;
  }
  if (path[0] != '/' || strlen(path) != length) {
    snprintf(message, sizeof message, "Expected an absolute path for %s", what);
    free(path);
    throw_argument_error(env, message);
    return NULL;
  }
  return path;
}

static const char* base_name(const char* path) {
  const char* slash = strrchr(path, '/');
  return slash == NULL ? path : slash + 1;
}

// Two LibTorch copies in one process abort when the second one registers its operators. If a
// libtorch_cpu other than `path` is mapped, copies its path to `other` (PATH_MAX bytes) and returns
// true.
static bool other_torch_mapped(const char* path, char* other) {
  char wanted[PATH_MAX];
  if (realpath(path, wanted) == NULL) return false;  // dlopen will word the error
  FILE* maps = fopen("/proc/self/maps", "re");
  if (maps == NULL) return false;
  bool found = false;
  char* line = NULL;
  size_t capacity = 0;
  ssize_t length;
  while (!found && (length = getline(&line, &capacity, maps)) > 0) {
    if (line[length - 1] == '\n') line[length - 1] = '\0';
    char* mapped = strchr(line, '/');
    if (mapped == NULL) continue;
    // The file may have been replaced since (`setup --force`); to the linker it is still the same
    // one.
    char* deleted = strstr(mapped, " (deleted)");
    if (deleted != NULL) *deleted = '\0';
    if (strcmp(base_name(mapped), TORCH_LIBRARY_NAME) != 0 || strcmp(mapped, wanted) == 0) continue;
    snprintf(other, PATH_MAX, "%s", mapped);
    found = true;
  }
  free(line);
  fclose(maps);
  return found;
}

// False, with an exception pending, if `path` is a LibTorch and the process holds another one.
static bool check_torch(napi_env env, const char* path) {
  char other[PATH_MAX];
  if (strcmp(base_name(path), TORCH_LIBRARY_NAME) != 0 || !other_torch_mapped(path, other))
    return true;
  char reason[PATH_MAX + 256];
  snprintf(reason, sizeof reason,
           "another copy of LibTorch is already loaded in this process, from %s; a process can "
           "hold only one",
           other);
  throw_load_error(env, "Cannot load", path, reason);
  return false;
}

// What LibTorch takes beside its files: its global objects, and what Node needs meanwhile.
#define LOADING_BYTES ((size_t)96 << 20)

// Whether there is address space for libraries that are not open yet. LibTorch's global objects
// allocate while dlopen runs; nobody could catch what they throw.
static bool has_room(char** paths, uint32_t count) {
  size_t bytes = 0;
  for (uint32_t i = 0; i < count; i++) {
    struct stat info;
    void* open = dlopen(paths[i], RTLD_LAZY | RTLD_NOLOAD);
    if (open != NULL) {
      dlclose(open);
    } else if (stat(paths[i], &info) == 0) {
      bytes += (size_t)info.st_size;
    }
  }
  if (bytes == 0) return true;
  bytes += LOADING_BYTES;
  void* room = mmap(NULL, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (room == MAP_FAILED) return false;
  munmap(room, bytes);
  return true;
}

// dlopen for good. RTLD_LOCAL: LibTorch's symbols stay out of other addons' way; whoever is linked
// to it finds it by SONAME, since it is loaded already.
static void* open_library(napi_env env, const char* path) {
  void* handle = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
  if (handle == NULL) {
    const char* reason = dlerror();
    throw_load_error(env, "Cannot load", path, reason == NULL ? "unknown error" : reason);
  }
  return handle;
}

// Opens every library of the array, in order. All are checked before the first is opened: what is
// open stays, and a second libc10 would do so beside the first.
static bool open_libraries(napi_env env, napi_value libraries) {
  bool is_array = false;
  uint32_t count = 0;
  if (napi_is_array(env, libraries, &is_array) != napi_ok || !is_array ||
      napi_get_array_length(env, libraries, &count) != napi_ok) {
    throw_argument_error(env, "Expected an array of absolute paths for \"libraries\"");
    return false;
  }
  char** paths = calloc(count == 0 ? 1 : count, sizeof *paths);
  if (paths == NULL) {
    throw_load_error(env, "Cannot load", "libraries", "out of memory");
    return false;
  }
  bool ok = true;
  for (uint32_t i = 0; ok && i < count; i++) {
    napi_value element;
    ok = napi_get_element(env, libraries, i, &element) == napi_ok &&
         (paths[i] = absolute_path(env, element, "an element of \"libraries\"")) != NULL &&
         check_torch(env, paths[i]);
  }
  if (ok && !has_room(paths, count)) {
    throw_load_error(env, "Cannot load", paths[count - 1], "Cannot allocate memory");
    ok = false;
  }
  for (uint32_t i = 0; ok && i < count; i++) ok = open_library(env, paths[i]) != NULL;
  for (uint32_t i = 0; i < count; i++) free(paths[i]);
  free(paths);
  return ok;
}

// Opens the library and lets it fill a fresh exports object; NULL with an exception pending on
// failure.
static napi_value init_entry(napi_env env, const char* path) {
  void* handle = open_library(env, path);
  if (handle == NULL) return NULL;
  init_function init = NULL;
  void* symbol = dlsym(handle, ENTRY_INIT);
  if (symbol == NULL) {
    throw_load_error(env, "Cannot use", path, "it does not export " ENTRY_INIT);
    return NULL;
  }
  memcpy(&init, &symbol, sizeof init);  // ISO C has no conversion from object to function pointer
  napi_value exports;
  if (napi_create_object(env, &exports) != napi_ok) {
    throw_load_error(env, "Cannot use", path, "no exports object");
    return NULL;
  }
  napi_value result = init(env, exports);
  bool pending = false;
  if (napi_is_exception_pending(env, &pending) != napi_ok || pending) return NULL;
  return result == NULL ? exports : result;
}

static int is_set(const char* variable) {
  const char* value = getenv(variable);
  return value != NULL && *value != '\0';
}

// OpenMP threads spin at barriers unless told otherwise, and a service shares its cores: once one
// thread of a team is descheduled the others burn their cores waiting for it (measured: a forward
// pass took 790 ms instead of 130 ms on two cores beside a compiler). libgomp reads this when it is
// opened. The user's own setting stays.
static void choose_wait_policy(void) {
  if (!is_set("OMP_WAIT_POLICY") && !is_set("GOMP_SPINCOUNT"))
    setenv("OMP_WAIT_POLICY", "passive", 1);
}

static napi_value load(napi_env env, napi_callback_info info) {
  size_t argc = 1;
  napi_value options, libraries, entry;
  napi_valuetype type;
  if (napi_get_cb_info(env, info, &argc, &options, NULL, NULL) != napi_ok || argc < 1 ||
      napi_typeof(env, options, &type) != napi_ok || type != napi_object ||
      napi_get_named_property(env, options, "libraries", &libraries) != napi_ok ||
      napi_get_named_property(env, options, "entry", &entry) != napi_ok) {
    throw_argument_error(env, "Expected { libraries: string[], entry: string }");
    return NULL;
  }
  char* entry_path = absolute_path(env, entry, "\"entry\"");
  if (entry_path == NULL) return NULL;
  choose_wait_policy();
  napi_value result = open_libraries(env, libraries) ? init_entry(env, entry_path) : NULL;
  free(entry_path);
  return result;
}

NAPI_MODULE_INIT() {
  napi_value function;
  if (napi_create_function(env, "load", NAPI_AUTO_LENGTH, load, NULL, &function) != napi_ok ||
      napi_set_named_property(env, exports, "load", function) != napi_ok) {
    throw_load_error(env, "Cannot load", "jit_flux.node", "the exports could not be created");
    return NULL;
  }
  return exports;
}
