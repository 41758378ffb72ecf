// Tests of native/cuda/ on a device: sessions, graphs, copy stream, page-locked memory, statistics,
// running out of memory. Prints one JSON document; exits with 0, 1 (something failed) or 77 (no
// device).
#include <ATen/ATen.h>
#include <c10/core/InferenceMode.h>
#include <c10/cuda/CUDAStream.h>
#include <c10/util/Exception.h>
#include <time.h>

#include <chrono>
#include <cstdio>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "cuda/backend.h"
#include "runtime/device.h"

namespace jitflux {
namespace {

using Figures = std::map<std::string, double>;

std::string json_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text.substr(0, text.find('\n'))) {
    if (c == '"' || c == '\\') out += '\\';
    out += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return out + "\"";
}

void expect(bool holds, const std::string& what) {
  if (!holds) throw std::runtime_error("Expected " + what);
}

class Report {
 public:
  void test(const std::string& name, const std::function<void(Figures&)>& body) {
    Figures figures;
    std::string error;
    try {
      body(figures);
    } catch (const c10::Error& e) {
      error = e.what_without_backtrace();
    } catch (const std::exception& e) {
      error = e.what();
    }
    ok_ = ok_ && error.empty();
    std::string line =
        "{\"name\": " + json_string(name) + ", \"ok\": " + (error.empty() ? "true" : "false");
    if (!error.empty()) line += ", \"error\": " + json_string(error);
    for (const auto& [key, value] : figures) {
      char number[64];
      std::snprintf(number, sizeof number, "%.6g", value);
      line += ", " + json_string(key) + ": " + number;
    }
    lines_.push_back(line + "}");
  }

  int print(const std::string& device) const {
    std::printf("{\"device\": %s, \"ok\": %s, \"tests\": [\n", json_string(device).c_str(),
                ok_ ? "true" : "false");
    for (size_t i = 0; i < lines_.size(); ++i) {
      std::printf("  %s%s\n", lines_[i].c_str(), i + 1 < lines_.size() ? "," : "");
    }
    std::printf("]}\n");
    return ok_ ? 0 : 1;
  }

 private:
  bool ok_ = true;
  std::vector<std::string> lines_;
};

template <typename Expected>
std::string thrown(const std::function<void()>& body) {
  try {
    body();
  } catch (const Expected& e) {
    return e.what();
  }
  throw std::runtime_error("Expected an exception");
}

double milliseconds_of(const std::function<void()>& body) {
  const auto start = std::chrono::steady_clock::now();
  body();
  return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start)
      .count();
}

double cpu_milliseconds() {
  timespec now{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
  return static_cast<double>(now.tv_sec) * 1e3 + static_cast<double>(now.tv_nsec) / 1e6;
}

// On one thread, as the engine has it.
class DeviceTests {
 public:
  DeviceTests(Report& report, std::string prefix, DeviceBackend& backend, int index)
      : report_(report),
        prefix_(std::move(prefix)),
        backend_(backend),
        index_(index),
        session_(backend.enter(index)),
        options_(at::TensorOptions(backend.device(index)).dtype(at::kFloat)) {}

  void run() {
    test("stream", [this](Figures&) { stream(); });
    test("kernel", [this](Figures&) { kernel(); });
    test("float32", [this](Figures& f) { float32(f); });
    test("attention", [this](Figures& f) { attention(f); });
    test("synchronize_sleeps", [this](Figures& f) { synchronize_sleeps(f); });
    test("graph", [this](Figures& f) { graph(f); });
    test("graphs_share_memory", [this](Figures& f) { graphs_share_memory(f); });
    test("graph_work_throws", [this](Figures&) { graph_work_throws(); });
    test("graph_invalidated", [this](Figures&) { graph_invalidated(); });
    test("graph_out_of_memory", [this](Figures&) { graph_out_of_memory(); });
    test("copy_order", [this](Figures& f) { copy_order(f); });
    test("copy_overlap", [this](Figures& f) { copy_overlap(f); });
    test("pinned", [this](Figures& f) { pinned(f); });
    test("info", [this](Figures& f) { info(f); });
    test("out_of_memory", [this](Figures& f) { out_of_memory(f); });
    test("session_after_all", [this](Figures&) { still_works(); });
  }

 private:
  void test(const std::string& name, const std::function<void(Figures&)>& body) {
    report_.test(prefix_ + name, body);
  }

  void stream() {
    const c10::cuda::CUDAStream current = c10::cuda::getCurrentCUDAStream();
    expect(current.stream() == static_cast<cudaStream_t>(session_->stream()), "our stream");
    expect(current != c10::cuda::getDefaultCUDAStream(), "no default stream");
    expect(current.device_index() == index_, "our device");
  }

  void kernel() {
    const auto gather = backend_.kernels().gather_rows;
    if (gather == nullptr) return;  // built without kernels
    const at::Tensor src = at::randn({100, 64}, options_);
    const at::Tensor tokens = at::arange(99, -1, -3, options_.dtype(at::kInt));
    const at::Tensor out = at::empty({tokens.size(0), 64}, options_);
    gather(src.const_data_ptr<float>(), tokens.const_data_ptr<int32_t>(),
           out.mutable_data_ptr<float>(), tokens.size(0), 64, session_->stream());
    session_->synchronize();
    expect(at::equal(out, src.index_select(0, tokens)), "gathered rows");
  }

  void float32(Figures& figures) {
    const at::Tensor a = at::randn({512, 4096}, options_);
    const at::Tensor b = at::randn({4096, 512}, options_);
    const at::Tensor exact = at::mm(a.to(at::kDouble), b.to(at::kDouble));
    const double error =
        ((at::mm(a, b).to(at::kDouble) - exact).norm() / exact.norm()).item<double>();
    figures["relative_error"] = error;
    expect(error < 1e-5, "no TF32, whose error is 3e-4");
  }

  void attention(Figures& figures) {
    const at::Tensor q = at::randn({1, 24, 1434, 128}, options_).to(at::kBFloat16);
    // 0 math, 1 flash, 2 efficient, 3 cuDNN
    figures["choice_bfloat16"] = static_cast<double>(at::_fused_sdp_choice(q, q, q));
    figures["cudnn"] = static_cast<double>(at::Context::versionCuDNN());
    const at::Tensor exact =
        at::scaled_dot_product_attention(q.to(at::kFloat), q.to(at::kFloat), q.to(at::kFloat));
    const double error =
        ((at::scaled_dot_product_attention(q, q, q).to(at::kFloat) - exact).norm() / exact.norm())
            .item<double>();
    figures["relative_error"] = error;
    expect(error < 1e-2, "attention like float32's");
  }

  // About `milliseconds` of work for the engine's stream.
  void work(double milliseconds) {
    if (!slow_.defined()) slow_ = at::randn({4096, 4096}, options_);
    if (slow_milliseconds_ == 0) {
      at::Tensor warm = at::mm(slow_, slow_);
      session_->synchronize();
      slow_milliseconds_ = milliseconds_of([&] {
                             for (int i = 0; i < 5; ++i) warm = at::mm(slow_, slow_);
                             session_->synchronize();
                           }) /
                           5;
    }
    at::Tensor result;
    for (double done = 0; done < milliseconds; done += slow_milliseconds_) {
      result = at::mm(slow_, slow_);
    }
  }

  void synchronize_sleeps(Figures& figures) {
    work(1);
    work(300);
    const double cpu = cpu_milliseconds();
    const double wall = milliseconds_of([this] { session_->synchronize(); });
    figures["wall_milliseconds"] = wall;
    figures["cpu_milliseconds"] = cpu_milliseconds() - cpu;
    expect(wall > 50, "to have waited");
    expect(cpu_milliseconds() - cpu < wall / 4, "to have slept");
  }

  // A little of everything that a block has.
  struct Block {
    explicit Block(const at::TensorOptions& options)
        : x(at::randn({384, 512}, options).to(at::kBFloat16)),
          weight(at::randn({512, 512}, options).to(at::kBFloat16)),
          out(at::empty_like(x)) {}
    void operator()() const {
      const at::Tensor y = at::gelu(at::mm(x, weight), "tanh");
      const at::Tensor heads = y.view({1, 384, 4, 128}).transpose(1, 2);
      const at::Tensor attended = at::scaled_dot_product_attention(heads, heads, heads);
      out.copy_(attended.transpose(1, 2).reshape({384, 512}));
    }
    at::Tensor x;
    at::Tensor weight;
    at::Tensor out;
  };

  void expect_replay(const Block& block, DeviceGraph& graph) {
    for (int round = 0; round < 2; ++round) {
      block.x.copy_(at::randn({384, 512}, options_));
      block();
      const at::Tensor eager = block.out.clone();
      block.out.zero_();
      graph.launch();
      session_->synchronize();
      expect(at::equal(block.out, eager), "replayed bits to be the eager ones");
    }
  }

  void graph(Figures& figures) {
    const Block block(options_);
    block();  // libraries initialise themselves outside of the recording
    session_->synchronize();
    block.out.zero_();
    std::unique_ptr<DeviceGraph> graph;
    figures["record_milliseconds"] =
        milliseconds_of([&] { graph = session_->record([&] { block(); }); });
    session_->synchronize();
    expect(at::equal(block.out, at::zeros_like(block.out)), "recording not to run anything");
    expect_replay(block, *graph);
    figures["eager_microseconds"] = milliseconds_of([&] {
                                      for (int i = 0; i < 100; ++i) block();
                                    }) *
                                    10;
    session_->synchronize();
    figures["launch_microseconds"] = milliseconds_of([&] {
                                       for (int i = 0; i < 100; ++i) graph->launch();
                                     }) *
                                     10;
    session_->synchronize();
  }

  void graphs_share_memory(Figures& figures) {
    backend_.release_cached_memory(index_);
    const auto reserved_mebibytes = [this] {
      return static_cast<double>(backend_.info(index_).reserved_bytes) / (1 << 20);
    };
    const double before = reserved_mebibytes();
    const at::Tensor out = at::zeros({1 << 20}, options_);
    const auto big = [&] {
      const at::Tensor temporary = at::full({64 << 20}, 1.0F, options_);  // 256 MiB
      out.add_(temporary.slice(0, 0, 1 << 20));
    };
    std::vector<std::unique_ptr<DeviceGraph>> graphs;
    for (int i = 0; i < 4; ++i) graphs.push_back(session_->record(big));
    for (const auto& graph : graphs) graph->launch();
    session_->synchronize();
    expect(out.max().item<float>() == 4 && out.min().item<float>() == 4, "four launches");
    const double with = reserved_mebibytes();
    figures["pool_mebibytes"] = with - before;
    expect(with - before < 400, "one temporary for four graphs");
    graphs.clear();
    backend_.release_cached_memory(index_);
    const double after = reserved_mebibytes();
    figures["left_mebibytes"] = after - before;
    expect(after - before < 64, "the pool to be released with its last graph");
    const std::unique_ptr<DeviceGraph> again = session_->record(big);  // in a new pool
    again->launch();
    session_->synchronize();
  }

  void still_works() {
    const Block block(options_);
    block();
    session_->synchronize();
    const std::unique_ptr<DeviceGraph> graph = session_->record([&] { block(); });
    expect_replay(block, *graph);
    backend_.release_cached_memory(index_);
  }

  void graph_work_throws() {
    const Block block(options_);
    block();
    const std::string what = thrown<std::out_of_range>([&] {
      session_->record([&] {
        block();
        throw std::out_of_range("planned");
      });
    });
    expect(what == "planned", "the exception as it was");
    still_works();
    // Refused before CUDA hears of it, so that the recording goes on.
    const auto graph = session_->record([&] {
      thrown<c10::Error>([&] { session_->synchronize(); });
      thrown<c10::Error>([&] { session_->record([] {}); });
      thrown<c10::Error>([&] { backend_.release_cached_memory(index_); });
      block();
    });
    expect_replay(block, *graph);
  }

  void graph_invalidated() {
    const Block block(options_);
    block();
    thrown<c10::Error>([&] {
      session_->record([&] {
        block();
        (void)block.out.sum().to(at::kFloat).item<float>();  // waits for the device
      });
    });
    still_works();
    // Swallowed by `work`: the graph is invalid all the same.
    thrown<c10::Error>([&] {
      session_->record([&] {
        block();
        (void)cudaStreamSynchronize(static_cast<cudaStream_t>(session_->stream()));
      });
    });
    still_works();
  }

  int64_t too_much() { return static_cast<int64_t>(backend_.info(index_).total_bytes) * 2; }

  void graph_out_of_memory() {
    const int64_t bytes = too_much();
    thrown<c10::OutOfMemoryError>(
        [&] { session_->record([&] { (void)at::empty({bytes}, options_.dtype(at::kByte)); }); });
    still_works();
  }

  void copy_order(Figures& figures) {
    constexpr int64_t kCount = 16 << 20;  // 64 MiB
    constexpr int64_t kBytes = kCount * 4;
    const at::Tensor ones = backend_.pinned(kBytes).view(at::kFloat).fill_(1);
    const at::Tensor twos = backend_.pinned(kBytes).view(at::kFloat).fill_(2);
    const at::Tensor slot = at::zeros({kCount}, options_);
    session_->synchronize();
    const std::unique_ptr<CopyStream> copies = session_->copy_stream(/*timed=*/true);
    copies->upload(slot.mutable_data_ptr(), ones.const_data_ptr(), kBytes / 2);
    copies->upload(static_cast<char*>(slot.mutable_data_ptr()) + kBytes / 2,
                   static_cast<const char*>(ones.const_data_ptr()) + kBytes / 2, kBytes / 2);
    const auto first = copies->mark();
    copies->engine_waits(*first);
    work(50);
    const at::Tensor of_first = at::mul(slot, 1);  // long after the second upload was queued
    copies->wait_for_engine();
    copies->upload(slot.mutable_data_ptr(), twos.const_data_ptr(), kBytes);
    const auto second = copies->mark();
    copies->engine_waits(*second);
    const at::Tensor of_second = at::mul(slot, 1);
    copies->wait(*second);
    session_->synchronize();
    const TransferStatistics statistics = copies->take_statistics();
    expect(at::equal(of_first, at::ones_like(slot)), "the first upload before the engine");
    expect(at::equal(of_second, at::full_like(slot, 2)), "the second one after it");
    figures["gigabytes_per_second"] =
        static_cast<double>(statistics.bytes) / statistics.copy_milliseconds / 1e6;
    figures["copy_milliseconds"] = statistics.copy_milliseconds;
    figures["stall_milliseconds"] = statistics.stall_milliseconds;
    expect(statistics.bytes == 2 * kBytes, "all bytes counted");
    expect(statistics.copy_milliseconds > 0 && statistics.copy_milliseconds < 45,
           "copies without the waiting before them");
    expect(statistics.stall_milliseconds > 0.25 * statistics.copy_milliseconds,
           "the engine to have waited for the second upload");
    const TransferStatistics none = copies->take_statistics();
    expect(none.bytes == 0 && none.copy_milliseconds == 0 && none.stall_milliseconds == 0,
           "sums to begin anew");
  }

  void copy_overlap(Figures& figures) {
    constexpr int64_t kBytes = 128 << 20;
    const at::Tensor source = backend_.pinned(kBytes).fill_(7);
    const at::Tensor slot = at::zeros({kBytes}, options_.dtype(at::kByte));
    session_->synchronize();
    const std::unique_ptr<CopyStream> copies = session_->copy_stream(/*timed=*/true);
    work(100);
    copies->upload(slot.mutable_data_ptr(), source.const_data_ptr(), kBytes);
    const auto mark = copies->mark();
    copies->engine_waits(*mark);
    const at::Tensor seen = slot.clone();
    session_->synchronize();
    const TransferStatistics statistics = copies->take_statistics();
    figures["copy_milliseconds"] = statistics.copy_milliseconds;
    figures["stall_milliseconds"] = statistics.stall_milliseconds;
    expect(at::equal(seen, at::full_like(slot, 7)), "the upload before its use");
    expect(statistics.stall_milliseconds < 0.1 * statistics.copy_milliseconds + 0.1,
           "the upload behind the computation");
    // Destroyed with an upload under way: waits for it.
    std::unique_ptr<CopyStream> short_lived = session_->copy_stream(/*timed=*/true);
    slot.zero_();
    session_->synchronize();
    short_lived->upload(slot.mutable_data_ptr(), source.const_data_ptr(), kBytes);
    short_lived.reset();
    expect(at::equal(slot, at::full_like(slot, 7)), "the destructor to wait");
  }

  void pinned(Figures& figures) {
    constexpr int64_t kBytes = int64_t{300} << 20;
    at::Tensor memory;
    figures["allocate_milliseconds"] = milliseconds_of([&] { memory = backend_.pinned(kBytes); });
    expect(memory.is_pinned(), "LibTorch to know it as pinned");
    expect(memory.scalar_type() == at::kByte && memory.numel() == kBytes && memory.is_cpu(),
           "bytes on the host");
    memory.fill_(3);
    at::Tensor copy;
    figures["queue_milliseconds"] = milliseconds_of(
        [&] { copy = memory.to(backend_.device(index_), at::kByte, /*non_blocking=*/true); });
    session_->synchronize();
    expect(at::equal(copy, at::full_like(copy, 3)), "its bytes on the device");
    // Freed on another thread, which has never used CUDA.
    std::thread([freed = std::move(memory)]() mutable { freed.reset(); }).join();
    expect(backend_.pinned(0).numel() == 0, "no bytes");
    thrown<c10::Error>([&] { (void)backend_.pinned(int64_t{1} << 50); });
  }

  void info(Figures& figures) {
    backend_.release_cached_memory(index_);
    const DeviceInfo before = backend_.info(index_);
    expect(before.major >= 5 && before.multiprocessors > 0, "the device's properties");
    expect(before.total_bytes > before.free_bytes && before.free_bytes > 0, "its memory");
    backend_.reset_peak(index_);
    constexpr uint64_t kBytes = uint64_t{512} << 20;
    {
      const at::Tensor held = at::empty({static_cast<int64_t>(kBytes)}, options_.dtype(at::kByte));
      const DeviceInfo during = backend_.info(index_);
      expect(during.allocated_bytes - before.allocated_bytes == kBytes, "the tensor's bytes");
      expect(during.reserved_bytes >= during.allocated_bytes, "no less reserved than allocated");
      expect(during.free_bytes + kBytes <= before.free_bytes, "less free memory");
    }
    const DeviceInfo after = backend_.info(index_);
    expect(after.allocated_bytes == before.allocated_bytes, "the tensor gone");
    expect(after.peak_bytes == before.allocated_bytes + kBytes, "its peak remembered");
    backend_.reset_peak(index_);
    expect(backend_.info(index_).peak_bytes == before.allocated_bytes, "the peak forgotten");
    backend_.release_cached_memory(index_);
    expect(backend_.info(index_).reserved_bytes <= before.reserved_bytes, "memory given back");
    figures["free_gibibytes"] = static_cast<double>(before.free_bytes) / (1 << 30);
    figures["total_gibibytes"] = static_cast<double>(before.total_bytes) / (1 << 30);
  }

  void out_of_memory(Figures&) {
    const int64_t bytes = too_much();
    thrown<c10::OutOfMemoryError>([&] { (void)at::empty({bytes}, options_.dtype(at::kByte)); });
    still_works();
  }

  Report& report_;
  const std::string prefix_;
  DeviceBackend& backend_;
  const int index_;
  const std::unique_ptr<DeviceSession> session_;
  const at::TensorOptions options_;
  at::Tensor slow_;
  double slow_milliseconds_ = 0;
};

int run() {
  DeviceBackend& backend = *cuda::backend();
  if (backend.count() == 0) {
    std::printf("{\"device\": null, \"reason\": %s}\n",
                json_string(backend.unavailable_reason()).c_str());
    return 77;
  }
  Report report;
  DeviceInfo first;
  report.test("info_without_context", [&](Figures& figures) {
    figures["milliseconds"] = milliseconds_of([&] { first = backend.info(0); });
    expect(backend.unavailable_reason().empty(), "no reason against a device");
    expect(first.total_bytes > 0 && first.free_bytes == 0, "no context to be made");
    thrown<c10::Error>([&] { (void)backend.enter(backend.count()); });
  });
  // One engine after the other, each on a thread of its own: what belongs to a thread goes with it.
  for (int engine = 0; engine < 2; ++engine) {
    std::thread([&] {
      const c10::InferenceMode inference;
      try {
        DeviceTests(report, engine == 0 ? "first_thread/" : "second_thread/", backend, 0).run();
      } catch (const std::exception& e) {
        const std::string what = e.what();
        report.test("session", [&](Figures&) { throw std::runtime_error(what); });
      }
    }).join();
  }
  report.test("stream_of_other_threads", [](Figures&) {
    expect(c10::cuda::getCurrentCUDAStream(0) == c10::cuda::getDefaultCUDAStream(0),
           "this thread's stream as it was");
  });
  return report.print(first.name);
}

}  // namespace
}  // namespace jitflux

int main() { return jitflux::run(); }
