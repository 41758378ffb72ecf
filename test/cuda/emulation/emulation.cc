// The emulation's scheduler and memory. A thread of a block is a fiber: a stack of its own, left
// and entered by switching the stack pointer. Fibers return to the scheduler when they wait or end.
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "cuda_emulation.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
// Calls that do not return the way they came would spoil its record of them.
#define SWITCHES_STACKS __attribute__((noinline, no_sanitize("thread")))
#else
#define SWITCHES_STACKS
#endif

#if !defined(__x86_64__)
#error "The emulation switches stacks by x86-64 code"
#endif

uint3 threadIdx;
uint3 blockIdx;
dim3 blockDim;
dim3 gridDim;

// The bounds of the section that holds the kernels' static shared memory, from the linker.
extern "C" {
extern unsigned char __start_cuda_shared_memory[] __attribute__((weak, visibility("hidden")));
extern unsigned char __stop_cuda_shared_memory[] __attribute__((weak, visibility("hidden")));

// Saves the callee's registers and stack pointer to *save, continues from `next`.
void jit_flux_switch_stack(void** save, void* next);
}

asm(R"(
.text
.local jit_flux_switch_stack
.type jit_flux_switch_stack, @function
jit_flux_switch_stack:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size jit_flux_switch_stack, .-jit_flux_switch_stack
)");

namespace jitflux::cuda_emulation {

namespace {

// Limits of every device since compute capability 8.0, without opting in to more shared memory.
constexpr unsigned kMaxBlockThreads = 1024;
constexpr unsigned kMaxGridYZ = 65535;
constexpr size_t kMaxSharedBytes = 48 << 10;

constexpr int kWarpLanes = 32;
#if defined(__SANITIZE_ADDRESS__)
constexpr size_t kStackBytes = 512 << 10;  // red zones make frames large
constexpr size_t kOuterFrameBytes = 4 << 10;
#else
constexpr size_t kStackBytes = 64 << 10;
#endif
constexpr unsigned char kPoison = 0xFF;  // a NaN in every floating-point type

enum class State { kReady, kAtBarrier, kAtWarpOperation, kFinished };

struct Fiber {
  void* stack_pointer = nullptr;
  uint3 index = {};
  int lane = 0;
  int warp = 0;
  State state = State::kReady;
  // The warp operation it waits at.
  uint64_t value = 0;
  int source = 0;
  uint64_t result = 0;
#if defined(__SANITIZE_THREAD__)
  void* sanitizer = nullptr;  // what the sanitizer knows of it; kept from one launch to the next
#endif
};

// Lanes that wait for each other.
struct Meeting {
  WarpOperation operation = WarpOperation::kSync;
  unsigned mask = 0;
  unsigned arrived = 0;
};

struct Scheduler {
  std::mutex mutex;  // one launch at a time
  uint64_t seed = 0;
  uint64_t random = 0;
  std::vector<Fiber> fibers;
  std::vector<std::vector<Meeting>> meetings;  // of each warp
  std::vector<int> ready;                      // a queue from `next_ready` on
  size_t next_ready = 0;
  unsigned char* stacks = nullptr;
  void* stack_pointer = nullptr;  // of the scheduler itself
  int current = -1;
  unsigned count = 0;  // threads of the block
  unsigned at_barrier = 0;
  const char* barrier_file = nullptr;
  int barrier_line = 0;
  std::string error;
#if defined(__SANITIZE_THREAD__)
  void* own_fiber = nullptr;  // of the thread that launches
#endif
  ThreadFunction thread = nullptr;
  void* arguments = nullptr;
  std::vector<uint64_t> dynamic_memory;
  const void* own_stack = nullptr;  // for the address sanitizer
  size_t own_stack_bytes = 0;
};

// Leaked: a launch may come from another static's destructor.
Scheduler& scheduler() {
  static auto* const instance = new Scheduler;
  return *instance;
}

uint64_t next_random(uint64_t* state) {
  uint64_t z = (*state += 0x9E3779B97F4A7C15u);
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

unsigned char* stack_of(const Scheduler& s, int fiber) {
  return s.stacks + static_cast<size_t>(fiber) * kStackBytes;
}

// From a fiber back to the scheduler. `last`: the fiber never runs again.
SWITCHES_STACKS void leave_fiber(bool last) {
  Scheduler& s = scheduler();
  Fiber& fiber = s.fibers[s.current];
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(last ? nullptr : &fake_stack, s.own_stack, s.own_stack_bytes);
#else
  static_cast<void>(last);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(s.own_fiber, 0);
#endif
  jit_flux_switch_stack(&fiber.stack_pointer, s.stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

// The message comes from a function, so that nothing of it is left on the stack that is given up.
template <typename Message>
[[noreturn]] void fail(const Message& message) {
  scheduler().error = message();
  leave_fiber(false);
  std::abort();  // the launch has been given up
}

SWITCHES_STACKS void fiber_main() {
  Scheduler& s = scheduler();
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &s.own_stack, &s.own_stack_bytes);
#endif
  s.thread(s.arguments);
  s.fibers[s.current].state = State::kFinished;
  leave_fiber(true);
  std::abort();
}

SWITCHES_STACKS void enter_fiber(int index) {
  Scheduler& s = scheduler();
  s.current = index;
  threadIdx = s.fibers[index].index;
#if defined(__SANITIZE_ADDRESS__)
  void* fake_stack = nullptr;
  __sanitizer_start_switch_fiber(&fake_stack, stack_of(s, index), kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(s.fibers[index].sanitizer, 0);
#endif
  jit_flux_switch_stack(&s.stack_pointer, s.fibers[index].stack_pointer);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(fake_stack, nullptr, nullptr);
#endif
}

void make_ready(int fiber) {
  Scheduler& s = scheduler();
  s.fibers[fiber].state = State::kReady;
  s.ready.push_back(fiber);
}

int take_ready() {
  Scheduler& s = scheduler();
  if (s.next_ready == s.ready.size()) {
    s.ready.clear();
    s.next_ready = 0;
    return -1;
  }
  if (s.seed != 0) {
    const size_t left = s.ready.size() - s.next_ready;
    std::swap(s.ready[s.next_ready], s.ready[s.next_ready + next_random(&s.random) % left]);
  }
  return s.ready[s.next_ready++];
}

std::string position() {
  const auto of = [](auto v) {
    return "(" + std::to_string(v.x) + ", " + std::to_string(v.y) + ", " + std::to_string(v.z) +
           ")";
  };
  return " in block " + of(blockIdx) + ", thread " + of(threadIdx);
}

void prepare_fiber(int index) {
  Scheduler& s = scheduler();
  Fiber& fiber = s.fibers[index];
  const unsigned thread = static_cast<unsigned>(index);
  fiber.index = {thread % blockDim.x, thread / blockDim.x % blockDim.y,
                 thread / blockDim.x / blockDim.y};
  fiber.lane = index % kWarpLanes;
  fiber.warp = index / kWarpLanes;
  fiber.state = State::kReady;
#if defined(__SANITIZE_ADDRESS__)
  // The outermost frames, which never return.
  ASAN_UNPOISON_MEMORY_REGION(stack_of(s, index) + kStackBytes - kOuterFrameBytes,
                              kOuterFrameBytes);
#endif
#if defined(__SANITIZE_THREAD__)
  if (fiber.sanitizer == nullptr) fiber.sanitizer = __tsan_create_fiber(0);
#endif
  // As if fiber_main had been called: 8 below a multiple of 16, and six registers to restore.
  auto** top = reinterpret_cast<void**>(stack_of(s, index) + kStackBytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(fiber_main);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  fiber.stack_pointer = top;
  s.ready.push_back(index);
}

void run_block() {
  Scheduler& s = scheduler();
  std::memset(__start_cuda_shared_memory, kPoison,
              static_cast<size_t>(__stop_cuda_shared_memory - __start_cuda_shared_memory));
  std::fill(s.dynamic_memory.begin(), s.dynamic_memory.end(), ~uint64_t{0});
  s.ready.clear();
  s.next_ready = 0;
  s.at_barrier = 0;
  for (auto& of_warp : s.meetings) of_warp.clear();
  for (unsigned i = 0; i < s.count; ++i) prepare_fiber(static_cast<int>(i));
  for (int next = take_ready(); next >= 0; next = take_ready()) {
    enter_fiber(next);
    if (!s.error.empty()) return;
  }
  unsigned finished = 0;
  unsigned in_warps = 0;
  for (unsigned i = 0; i < s.count; ++i) {
    finished += s.fibers[i].state == State::kFinished ? 1 : 0;
    in_warps += s.fibers[i].state == State::kAtWarpOperation ? 1 : 0;
  }
  if (finished == s.count) return;
  s.error = "divergence: " + std::to_string(s.at_barrier) + " threads wait at a barrier, " +
            std::to_string(in_warps) + " for lanes of their warp, " + std::to_string(finished) +
            " have ended" + position();
}

// ---- memory

constexpr size_t kCanaryBytes = 256;
constexpr unsigned char kCanary = 0xA5;

struct Memory {
  std::mutex mutex;
  std::map<unsigned char*, size_t> blocks;
};

Memory& memory() {
  static auto* const instance = new Memory;
  return *instance;
}

size_t padded(size_t bytes) { return (bytes + 255) / 256 * 256; }

// Readable again, for the checks.
void set_canaries_poisoned(unsigned char* data, size_t bytes, bool poisoned) {
#if defined(__SANITIZE_ADDRESS__)
  unsigned char* const tail = data + bytes;
  const size_t tail_bytes = padded(bytes) - bytes + kCanaryBytes;
  if (poisoned) {
    ASAN_POISON_MEMORY_REGION(data - kCanaryBytes, kCanaryBytes);
    ASAN_POISON_MEMORY_REGION(tail, tail_bytes);
  } else {
    ASAN_UNPOISON_MEMORY_REGION(data - kCanaryBytes, kCanaryBytes);
    ASAN_UNPOISON_MEMORY_REGION(tail, tail_bytes);
  }
#else
  static_cast<void>(data);
  static_cast<void>(bytes);
  static_cast<void>(poisoned);
#endif
}

// Empty if the bytes around the buffer are untouched.
std::string canary_error(unsigned char* data, size_t bytes) {
  set_canaries_poisoned(data, bytes, false);
  std::string error;
  for (size_t i = 0; i < kCanaryBytes && error.empty(); ++i) {
    if (data[-1 - static_cast<ptrdiff_t>(i)] != kCanary) error = "before";
  }
  for (size_t i = bytes; i < padded(bytes) + kCanaryBytes && error.empty(); ++i) {
    if (data[i] != kCanary) error = "after";
  }
  set_canaries_poisoned(data, bytes, true);
  if (error.empty()) return error;
  return "write " + error + " a buffer of " + std::to_string(bytes) + " bytes";
}

std::string check_canaries() {
  Memory& m = memory();
  const std::lock_guard<std::mutex> lock(m.mutex);
  for (const auto& [data, bytes] : m.blocks) {
    const std::string error = canary_error(data, bytes);
    if (!error.empty()) return error;
  }
  return {};
}

}  // namespace

void set_schedule(uint64_t seed) {
  Scheduler& s = scheduler();
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.seed = seed;
  s.random = seed;
}

int lane_index() {
  Scheduler& s = scheduler();
  return s.fibers[s.current].lane;
}

void* dynamic_shared_memory() { return scheduler().dynamic_memory.data(); }

void block_barrier(const char* file, int line) {
  Scheduler& s = scheduler();
  if (s.at_barrier == 0) {
    s.barrier_file = file;
    s.barrier_line = line;
  } else if (s.barrier_line != line || std::strcmp(s.barrier_file, file) != 0) {
    fail([&] {
      return "divergence: barriers at " + std::string(s.barrier_file) + ":" +
             std::to_string(s.barrier_line) + " and " + file + ":" + std::to_string(line) +
             position();
    });
  }
  if (++s.at_barrier == s.count) {
    s.at_barrier = 0;
    for (unsigned i = 0; i < s.count; ++i) make_ready(static_cast<int>(i));
  } else {
    s.fibers[s.current].state = State::kAtBarrier;
  }
  leave_fiber(false);
}

uint64_t warp_operation(WarpOperation operation, unsigned mask, uint64_t value, int source) {
  Scheduler& s = scheduler();
  Fiber& self = s.fibers[s.current];
  const unsigned own = 1u << self.lane;
  if ((mask & own) == 0) fail([] { return "a lane that its own mask leaves out" + position(); });
  if (operation == WarpOperation::kExchange && (mask >> source & 1u) == 0) {
    fail([&] {
      return "value of lane " + std::to_string(source) + ", which takes no part" + position();
    });
  }
  self.value = value;
  self.source = source;
  auto& of_warp = s.meetings[self.warp];
  size_t at = 0;
  while (at < of_warp.size() && of_warp[at].mask != mask) ++at;
  if (at == of_warp.size()) of_warp.push_back({operation, mask, 0});
  if (of_warp[at].operation != operation) {
    fail([] { return "lanes of a warp at different operations" + position(); });
  }
  of_warp[at].arrived |= own;
  if (of_warp[at].arrived != mask) {
    self.state = State::kAtWarpOperation;
    leave_fiber(false);
    return self.result;
  }
  of_warp.erase(of_warp.begin() + static_cast<ptrdiff_t>(at));
  const int first = self.warp * kWarpLanes;
  uint64_t ballot = 0;
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1u) != 0 && s.fibers[first + lane].value != 0) ballot |= 1u << lane;
  }
  for (int lane = 0; lane < kWarpLanes; ++lane) {
    if ((mask >> lane & 1u) == 0) continue;
    Fiber& fiber = s.fibers[first + lane];
    fiber.result = operation == WarpOperation::kBallot     ? ballot
                   : operation == WarpOperation::kExchange ? s.fibers[first + fiber.source].value
                                                           : 0;
    if (&fiber != &self || s.seed != 0) make_ready(first + lane);
  }
  // In order, the last lane may as well go on.
  if (s.seed != 0) leave_fiber(false);
  return self.result;
}

cudaError_t run_grid(const cudaLaunchConfig_t& config, ThreadFunction thread, void* arguments) {
  Scheduler& s = scheduler();
  const std::lock_guard<std::mutex> lock(s.mutex);
  const dim3 grid = config.gridDim;
  const dim3 block = config.blockDim;
  const uint64_t threads = uint64_t{block.x} * block.y * block.z;
  if (threads == 0 || threads > kMaxBlockThreads || block.z > 64 || grid.x == 0 || grid.y == 0 ||
      grid.z == 0 || grid.x > 0x7FFFFFFFu || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ ||
      config.dynamicSmemBytes > kMaxSharedBytes) {
    return cudaErrorInvalidConfiguration;
  }
  if (s.stacks == nullptr) {
    void* const stacks = mmap(nullptr, kMaxBlockThreads * kStackBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (stacks == MAP_FAILED) return cudaErrorMemoryAllocation;
    s.stacks = static_cast<unsigned char*>(stacks);
    // The lowest page of each stack, so that one that overflows does not spoil its neighbour.
    const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
    for (unsigned i = 0; i < kMaxBlockThreads; ++i) {
      mprotect(stack_of(s, static_cast<int>(i)), page, PROT_NONE);
    }
  }
  s.count = static_cast<unsigned>(threads);
  s.fibers.resize(kMaxBlockThreads);
  s.meetings.resize(kMaxBlockThreads / kWarpLanes);
  s.dynamic_memory.resize((config.dynamicSmemBytes + 7) / 8);
  s.thread = thread;
  s.arguments = arguments;
#if defined(__SANITIZE_ADDRESS__)
  // Frames of a launch that was given up.
  if (!s.error.empty()) ASAN_UNPOISON_MEMORY_REGION(s.stacks, kMaxBlockThreads * kStackBytes);
#endif
#if defined(__SANITIZE_THREAD__)
  s.own_fiber = __tsan_get_current_fiber();
  if (!s.error.empty()) {
    for (Fiber& fiber : s.fibers) {
      if (fiber.sanitizer != nullptr) __tsan_destroy_fiber(std::exchange(fiber.sanitizer, nullptr));
    }
  }
#endif
  s.error.clear();
  gridDim = grid;
  blockDim = block;
  const uint64_t blocks = uint64_t{grid.x} * grid.y * grid.z;
  // With a seed: b -> start + b * stride, a permutation where the stride shares no factor.
  uint64_t start = 0;
  uint64_t stride = 1;
  if (s.seed != 0) {
    start = next_random(&s.random) % blocks;
    do {
      stride = 1 + next_random(&s.random) % blocks;
    } while (std::__gcd(stride, blocks) != 1);
  }
  for (uint64_t b = 0; b < blocks && s.error.empty(); ++b) {
    const uint64_t index = (start + b * stride) % blocks;
    blockIdx = {static_cast<unsigned>(index % grid.x),
                static_cast<unsigned>(index / grid.x % grid.y),
                static_cast<unsigned>(index / grid.x / grid.y)};
    run_block();
  }
  if (s.error.empty()) s.error = check_canaries();
  if (!s.error.empty()) throw std::runtime_error("CUDA emulation: " + s.error);
  return cudaSuccess;
}

}  // namespace jitflux::cuda_emulation

// ---- runtime

struct CUevent_st {
  std::chrono::steady_clock::time_point time;
};

const char* cudaGetErrorString(cudaError_t error) {
  switch (error) {
    case cudaSuccess:
      return "no error";
    case cudaErrorInvalidValue:
      return "invalid argument";
    case cudaErrorMemoryAllocation:
      return "out of memory";
    case cudaErrorInvalidConfiguration:
      return "invalid configuration argument";
  }
  return "unknown error";
}

cudaError_t cudaGetLastError() { return cudaSuccess; }

cudaError_t cudaMalloc(void** pointer, size_t bytes) {
  using namespace jitflux::cuda_emulation;
  const size_t total = padded(bytes) + 2 * kCanaryBytes;
  auto* const raw = static_cast<unsigned char*>(std::aligned_alloc(256, total));
  if (raw == nullptr) return cudaErrorMemoryAllocation;
  std::memset(raw, kCanary, total);
  unsigned char* const data = raw + kCanaryBytes;
  std::memset(data, kPoison, bytes);
  set_canaries_poisoned(data, bytes, true);
  Memory& m = memory();
  const std::lock_guard<std::mutex> lock(m.mutex);
  m.blocks[data] = bytes;
  *pointer = data;
  return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
  using namespace jitflux::cuda_emulation;
  if (pointer == nullptr) return cudaSuccess;
  Memory& m = memory();
  const std::lock_guard<std::mutex> lock(m.mutex);
  auto* const data = static_cast<unsigned char*>(pointer);
  const auto found = m.blocks.find(data);
  if (found == m.blocks.end()) return cudaErrorInvalidValue;
  const std::string error = canary_error(data, found->second);
  set_canaries_poisoned(data, found->second, false);
  m.blocks.erase(found);
  std::free(data - kCanaryBytes);
  if (!error.empty()) throw std::runtime_error("CUDA emulation: " + error);
  return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  if (bytes > 0) std::memcpy(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() { return cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int) {
  *value = attribute == cudaDevAttrL2CacheSize ? 1 << 20 : 1;
  return cudaSuccess;
}
cudaError_t cudaEventCreate(cudaEvent_t* event) {
  *event = new CUevent_st;
  return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
  delete event;
  return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t) {
  event->time = std::chrono::steady_clock::now();
  return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  *milliseconds = std::chrono::duration<float, std::milli>(end->time - begin->time).count();
  return cudaSuccess;
}
