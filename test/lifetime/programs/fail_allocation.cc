// Makes one allocation of our libraries fail: for tests that preload it (LD_PRELOAD).
//
// Counts calls of malloc, calloc, realloc, the aligned forms, operator new and mmap that come from
// libjit_flux_*.so or, on a thread that has made such a call, from libstdc++, whose strings and
// containers allocate for us. Node, V8, LibTorch and the C library are left alone. The test and
// this library share the file that JIT_FLUX_FAIL_ALLOCATION names, three 64-bit numbers: which call
// is to fail (0: none), how many there were, how many failed.
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <new>

extern "C" void* __libc_malloc(size_t);
extern "C" void* __libc_calloc(size_t, size_t);
extern "C" void* __libc_realloc(void*, size_t);
extern "C" void* __libc_memalign(size_t, size_t);

namespace {

struct Control {
  int64_t fail_at;
  int64_t count;
  int64_t failed;
};
Control* control = nullptr;

struct Range {
  uintptr_t begin, end;
};
Range ours[8], standard[2];
int ours_count = 0, standard_count = 0;

__attribute__((tls_model("initial-exec"))) thread_local bool busy = false;
__attribute__((tls_model("initial-exec"))) thread_local bool ours_here = false;

int add_library(dl_phdr_info* info, size_t, void*) {
  const bool mine = strstr(info->dlpi_name, "libjit_flux_") != nullptr;
  if (!mine && strstr(info->dlpi_name, "libstdc++") == nullptr) return 0;
  for (int i = 0; i < info->dlpi_phnum; i++) {
    const ElfW(Phdr)* part = &info->dlpi_phdr[i];
    if (part->p_type != PT_LOAD || (part->p_flags & PF_X) == 0) continue;
    const Range range = {info->dlpi_addr + part->p_vaddr,
                         info->dlpi_addr + part->p_vaddr + part->p_memsz};
    if (mine && ours_count < 8) ours[ours_count++] = range;
    if (!mine && standard_count < 2) standard[standard_count++] = range;
  }
  return 0;
}

__attribute__((constructor)) void begin() {
  const char* path = getenv("JIT_FLUX_FAIL_ALLOCATION");
  const int fd = path == nullptr ? -1 : open(path, O_RDWR | O_CLOEXEC);
  if (fd < 0) return;
  const long mapped =
      syscall(SYS_mmap, nullptr, sizeof *control, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
  close(fd);
  if (mapped > 0) control = reinterpret_cast<Control*>(mapped);
}

bool inside(const Range* ranges, int count, uintptr_t address) {
  for (int i = 0; i < count; i++) {
    if (address >= ranges[i].begin && address < ranges[i].end) return true;
  }
  return false;
}

bool fails(void* caller) {
  if (control == nullptr || busy || control->fail_at == 0) return false;
  busy = true;
  if (ours_count == 0 || control->count == 0) {
    ours_count = standard_count = 0;
    dl_iterate_phdr(add_library, nullptr);
  }
  const auto address = reinterpret_cast<uintptr_t>(caller);
  const bool direct = inside(ours, ours_count, address);
  if (direct) ours_here = true;
  bool result = false;
  // On the main thread libstdc++ works for Node, too.
  const bool main_thread = syscall(SYS_gettid) == getpid();
  if (direct || (ours_here && !main_thread && inside(standard, standard_count, address))) {
    const int64_t number = __atomic_add_fetch(&control->count, 1, __ATOMIC_SEQ_CST);
    result = number == control->fail_at;
    if (result) __atomic_add_fetch(&control->failed, 1, __ATOMIC_SEQ_CST);
  }
  busy = false;
  return result;
}

#define CALLER __builtin_return_address(0)

}  // namespace

extern "C" {

void* malloc(size_t size) noexcept {
  if (fails(CALLER)) {
    errno = ENOMEM;
    return nullptr;
  }
  return __libc_malloc(size);
}
void* calloc(size_t count, size_t size) noexcept {
  if (fails(CALLER)) {
    errno = ENOMEM;
    return nullptr;
  }
  return __libc_calloc(count, size);
}
void* realloc(void* old, size_t size) noexcept {
  if (fails(CALLER)) {
    errno = ENOMEM;
    return nullptr;
  }
  return __libc_realloc(old, size);
}
int posix_memalign(void** result, size_t alignment, size_t size) noexcept {
  if (fails(CALLER)) return ENOMEM;
  void* memory = __libc_memalign(alignment, size);
  if (memory == nullptr) return ENOMEM;
  *result = memory;
  return 0;
}
void* aligned_alloc(size_t alignment, size_t size) noexcept {
  if (fails(CALLER)) {
    errno = ENOMEM;
    return nullptr;
  }
  return __libc_memalign(alignment, size);
}
void* mmap(void* address, size_t size, int protection, int flags, int fd, off_t offset) noexcept {
  if (fails(CALLER)) {
    errno = ENOMEM;
    return MAP_FAILED;
  }
  return reinterpret_cast<void*>(syscall(SYS_mmap, address, size, protection, flags, fd, offset));
}
void* mmap64(void* address, size_t size, int protection, int flags, int fd,
             off64_t offset) noexcept {
  return mmap(address, size, protection, flags, fd, offset);
}

}  // extern "C"

namespace {
void* allocate(size_t size, void* caller) {
  void* memory = fails(caller) ? nullptr : __libc_malloc(size == 0 ? 1 : size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
void* allocate(size_t size, size_t alignment, void* caller) {
  void* memory = fails(caller) ? nullptr : __libc_memalign(alignment, size);
  if (memory == nullptr) throw std::bad_alloc();
  return memory;
}
}  // namespace

void* operator new(size_t size) { return allocate(size, __builtin_return_address(0)); }
void* operator new[](size_t size) { return allocate(size, __builtin_return_address(0)); }
void* operator new(size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<size_t>(alignment), __builtin_return_address(0));
}
void* operator new[](size_t size, std::align_val_t alignment) {
  return allocate(size, static_cast<size_t>(alignment), __builtin_return_address(0));
}
void* operator new(size_t size, const std::nothrow_t&) noexcept {
  return fails(__builtin_return_address(0)) ? nullptr : __libc_malloc(size == 0 ? 1 : size);
}
void* operator new[](size_t size, const std::nothrow_t&) noexcept {
  return fails(__builtin_return_address(0)) ? nullptr : __libc_malloc(size == 0 ? 1 : size);
}
