#include "runtime/memory_arena.h"

#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <sys/mman.h>

#include <cstdlib>
#include <iterator>
#include <map>
#include <mutex>
#include <new>
#include <utility>

#include "base/counters.h"
#include "base/memory_use.h"

namespace jitflux {

namespace {

constexpr size_t kHugePage = size_t{2} << 20;
// Smaller buffers stay with malloc, which keeps them itself.
constexpr size_t kSmallestKept = size_t{128} << 10;

struct alignas(64) Header;

}  // namespace

struct MemoryArena::State {
  std::mutex mutex;
  std::multimap<size_t, Header*> free;  // by size
  bool closed = false;                  // the arena is gone: what comes back is freed
};

namespace {

// Stands in front of every buffer. LibTorch's raw_allocate, which oneDNN uses, hands a bare pointer
// back, so the pointer has to tell where it belongs.
struct alignas(64) Header {
  std::shared_ptr<MemoryArena::State> arena;  // null: not from an arena
  size_t bytes = 0;                           // with the header
};
static_assert(sizeof(Header) == 64);

// Innermost scope of this thread.
thread_local const std::shared_ptr<MemoryArena::State>* current = nullptr;

void* new_memory(size_t bytes) {
  if (bytes < kHugePage) return c10::alloc_cpu(bytes);
  void* memory = nullptr;
  if (::posix_memalign(&memory, kHugePage, bytes) != 0) throw std::bad_alloc();
  // Whole huge pages only: weights are often multiples of them, and the header must not cost one.
  // Advice: a failure changes nothing.
  ::madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return memory;
}

Header* new_block(size_t bytes) {
  auto* block = new (new_memory(bytes)) Header{nullptr, bytes};
  tensor_memory.add(bytes);
  return block;
}

void delete_block(Header* block) {
  const bool huge = block->bytes >= kHugePage;
  tensor_memory.subtract(block->bytes);
  block->~Header();
  if (huge) {
    std::free(block);
  } else {
    c10::free_cpu(block);
  }
}

using Free = std::multimap<size_t, Header*>;

// Takes a block off the list of what an arena keeps.
void forget(Free& free, Free::iterator entry) {
  idle_memory.subtract(entry->first);
  free.erase(entry);
}

Header* take(const std::shared_ptr<MemoryArena::State>& arena, size_t bytes) {
  Header* block = nullptr;
  {
    const std::lock_guard lock(arena->mutex);
    auto& free = arena->free;
    if (const auto found = free.lower_bound(bytes); found != free.end()) {
      block = found->second;
      forget(free, found);
    } else if (!free.empty()) {
      // Requests grow from stage to stage: the new block replaces the largest one that was too
      // small, so that an arena holds about what its largest pass needs.
      const auto largest = std::prev(free.end());
      delete_block(largest->second);
      forget(free, largest);
    }
  }
  count(block != nullptr ? Counter::kArenaReused : Counter::kArenaAllocated);
  if (block == nullptr) block = new_block(bytes);
  block->arena = arena;
  return block;
}

void give_back(void* data) {
  if (data == nullptr) return;
  Header* block = static_cast<Header*>(data) - 1;
  // The block must not own the state while it lies in the state's own list.
  const std::shared_ptr<MemoryArena::State> arena = std::move(block->arena);
  if (arena == nullptr) {
    delete_block(block);
    return;
  }
  const std::lock_guard lock(arena->mutex);
  if (arena->closed) {
    delete_block(block);
    return;
  }
  try {
    arena->free.emplace(block->bytes, block);
    idle_memory.add(block->bytes);
  } catch (const std::bad_alloc&) {  // no memory to remember it: do without
    delete_block(block);
  }
}

class ArenaAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t n) override {
    if (n == 0) return {nullptr, nullptr, give_back, c10::Device(c10::DeviceType::CPU)};
    const size_t bytes = n + sizeof(Header);
    Header* block =
        current != nullptr && n >= kSmallestKept ? take(*current, bytes) : new_block(bytes);
    void* data = block + 1;
    return {data, data, give_back, c10::Device(c10::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return give_back; }
  void copy_data(void* dest, const void* src, std::size_t count) const override {
    default_copy_data(dest, src, count);
  }
};

}  // namespace

void MemoryArena::install() {
  static ArenaAllocator allocator;
  static std::once_flag once;
  std::call_once(once, [] { c10::SetCPUAllocator(&allocator, /*priority=*/1); });
}

MemoryArena::MemoryArena() : state_(std::make_shared<State>()) {}

MemoryArena::~MemoryArena() {
  const std::lock_guard lock(state_->mutex);
  state_->closed = true;
  for (const auto& [bytes, block] : state_->free) {
    idle_memory.subtract(bytes);
    delete_block(block);
  }
  state_->free.clear();
}

MemoryArena::Scope::Scope(const MemoryArena* arena) : outer_(current) {
  current = arena == nullptr ? nullptr : &arena->state_;
}

MemoryArena::Scope::~Scope() {
  current = static_cast<const std::shared_ptr<MemoryArena::State>*>(outer_);
}

}  // namespace jitflux
