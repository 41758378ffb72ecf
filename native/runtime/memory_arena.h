// Memory that LibTorch's operators allocate for their results, kept for the next pass.
//
// A fresh buffer of a few hundred megabytes costs a page fault and a zeroed page per 4 KiB of it,
// every time; a transformer pass asks for the same buffers again in every block. While a
// MemoryArena::Scope is alive on a thread, large CPU tensors created there come from the arena, and
// their memory goes back to it when they are freed, on whichever thread. Large buffers are advised
// to use huge pages. Counted: Counter::kArenaReused and kArenaAllocated.
#pragma once

#include <memory>

namespace jitflux {

class MemoryArena {
 public:
  // Puts the arena's allocator in front of LibTorch's CPU allocator, for the whole process; once.
  // Threads without a Scope get fresh memory as before (large buffers with huge pages).
  static void install();

  MemoryArena();
  ~MemoryArena();  // tensors that are still alive keep their memory
  MemoryArena(const MemoryArena&) = delete;
  MemoryArena& operator=(const MemoryArena&) = delete;

  class Scope {
   public:
    // nullptr: tensors created in this scope are from no arena.
    explicit Scope(const MemoryArena* arena);
    ~Scope();
    Scope(const Scope&) = delete;
    Scope& operator=(const Scope&) = delete;

   private:
    const void* outer_;
  };

  struct State;  // shared with the blocks that are in use

 private:
  std::shared_ptr<State> state_;
};

}  // namespace jitflux
