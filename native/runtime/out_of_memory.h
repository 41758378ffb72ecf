// Which exceptions of LibTorch and its libraries say that memory ran out.
#pragma once

#include <cstddef>
#include <exception>

namespace jitflux {

// True for bad_alloc; for c10::OutOfMemoryError and whatever else has a message of an allocator of
// LibTorch, CUDA, cuBLAS or cuDNN, also inside an error of the TorchScript interpreter, which keeps
// of an exception its text only; and for oneDNN's status out_of_memory.
bool is_out_of_memory(const std::exception& error);

// Throws Error kOutOfMemory unless the process can have so many bytes more. Before what does not
// look whether it gets its memory.
void expect_memory(size_t bytes);

}  // namespace jitflux
