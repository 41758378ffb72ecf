#include "weights/file_mapping.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <mutex>
#include <system_error>

#include "base/memory_use.h"
#include "weights/reader_util.h"

namespace jitflux {

// A mapping, where the handler looks for it. In a list that only grows: entries of mappings that
// are gone are empty until they are used again. The handler reads it without a lock.
struct GuardedRange {
  std::atomic<uintptr_t> begin{0};  // 0: no mapping
  std::atomic<uintptr_t> end{0};    // of its last page
  std::atomic<bool> damaged{false};
  GuardedRange* next = nullptr;
};

namespace {

static_assert(std::atomic<uintptr_t>::is_always_lock_free &&
              std::atomic<bool>::is_always_lock_free && std::atomic<void*>::is_always_lock_free);

std::atomic<GuardedRange*> ranges{nullptr};
struct sigaction previous {};
uintptr_t page_bytes = 4096;

// Zeros in place of the pages from the one at the address on, if they are of a mapping of ours.
// Runs in the handler: nothing but system calls and atomics.
bool replace_pages(uintptr_t address) {
  for (GuardedRange* range = ranges.load(std::memory_order_acquire); range != nullptr;
       range = range->next) {
    const uintptr_t begin = range->begin.load(std::memory_order_seq_cst);
    const uintptr_t end = range->end.load(std::memory_order_seq_cst);
    // An entry that is being given to another mapping is not one of the access's.
    if (begin == 0 || begin != range->begin.load(std::memory_order_seq_cst)) continue;
    if (address < begin || address >= end) continue;
    const uintptr_t first = address & ~(page_bytes - 1);
    range->damaged.store(true, std::memory_order_release);
    const long placed = ::syscall(SYS_mmap, first, end - first, PROT_READ,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    return placed == static_cast<long>(first);
  }
  return false;
}

void on_bus_error(int signal, siginfo_t* info, void* context) {
  const int error = errno;
  // BUS_ADRERR: the object does not back the address. Memory errors of the hardware and signals
  // that a process sent are not ours.
  if (info->si_code == BUS_ADRERR && replace_pages(reinterpret_cast<uintptr_t>(info->si_addr))) {
    errno = error;
    return;
  }
  if ((previous.sa_flags & SA_SIGINFO) != 0) {
    previous.sa_sigaction(signal, info, context);
  } else if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    previous.sa_handler(signal);
  } else if (info->si_code > 0 || previous.sa_handler == SIG_DFL) {
    // The process ends as it would have: by the access, which is repeated, or by the signal.
    struct sigaction standard {};
    standard.sa_handler = SIG_DFL;
    ::sigaction(signal, &standard, nullptr);
    if (info->si_code <= 0) ::raise(signal);
  }
  errno = error;
}

// Makes an entry for the range, and installs the handler with the first.
GuardedRange* guard(uintptr_t begin, uintptr_t end) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  GuardedRange* range = ranges.load(std::memory_order_relaxed);
  const bool first = range == nullptr;
  while (range != nullptr && range->begin.load(std::memory_order_relaxed) != 0) range = range->next;
  const bool is_new = range == nullptr;
  if (is_new) {
    range = new GuardedRange;  // never freed: the handler may be looking at it
    range->next = ranges.load(std::memory_order_relaxed);
  }
  range->damaged.store(false, std::memory_order_relaxed);
  range->end.store(end, std::memory_order_seq_cst);
  range->begin.store(begin, std::memory_order_seq_cst);
  if (is_new) ranges.store(range, std::memory_order_release);
  if (first) {
    page_bytes = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
    struct sigaction ours {};
    ours.sa_sigaction = on_bus_error;
    ours.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&ours.sa_mask);
    ::sigaction(SIGBUS, nullptr, &previous);  // before ours can be called
    ::sigaction(SIGBUS, &ours, nullptr);
  }
  return range;
}

}  // namespace

FileMapping::FileMapping(int fd, size_t size, const std::string& path) : size_(size) {
  void* mapping = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (mapping == MAP_FAILED) {
    const int error = errno;
    fail(error == ENOMEM || error == EAGAIN ? error_code::kOutOfMemory : error_code::kFileNotFound,
         path, "cannot map the file (" + std::generic_category().message(error) + ")");
  }
  data_ = static_cast<const std::byte*>(mapping);
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(mapping);
  try {
    range_ = guard(begin, (begin + size + page - 1) & ~(page - 1));
  } catch (...) {
    ::munmap(mapping, size);
    throw;
  }
  mapped_memory.add(size_);
}

FileMapping::~FileMapping() {
  range_->begin.store(0, std::memory_order_seq_cst);
  ::munmap(const_cast<std::byte*>(data_), size_);
  mapped_memory.subtract(size_);
}

bool FileMapping::damaged() const { return range_->damaged.load(std::memory_order_acquire); }

void FileMapping::release(uint64_t offset, uint64_t count) const {
  if (offset >= size_ || count == 0) return;
  // Neighbours that share the first and last page lose nothing: the mapping is never written to.
  const auto page = static_cast<uintptr_t>(::sysconf(_SC_PAGESIZE));
  const auto base = reinterpret_cast<uintptr_t>(data_);
  const uintptr_t first = (base + offset) & ~(page - 1);
  const uintptr_t end = base + std::min<uint64_t>(size_, offset + std::min<uint64_t>(count, size_));
  ::madvise(reinterpret_cast<void*>(first), end - first, MADV_DONTNEED);
}

}  // namespace jitflux
