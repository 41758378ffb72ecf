#include "runtime/script_module.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <sstream>
#include <utility>

#include "base/error.h"
#include "runtime/out_of_memory.h"

namespace jitflux {

namespace {

// TorchScript errors are a traceback whose last line says what happened.
std::string last_line(std::string text) {
  while (!text.empty() && text.back() == '\n') text.pop_back();
  const size_t newline = text.rfind('\n');
  return newline == std::string::npos ? text : text.substr(newline + 1);
}

}  // namespace

struct ScriptModule::Impl {
  std::string name;
  torch::jit::Module module;
};

ScriptModule::ScriptModule(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
ScriptModule::~ScriptModule() = default;

std::shared_ptr<ScriptModule> ScriptModule::load(const std::string& bytes,
                                                 const std::string& name) {
  std::istringstream stream(bytes);
  try {
    torch::jit::Module module = torch::jit::load(stream, at::kCPU);
    module.eval();
    // The module runs a few times on small inputs: profiling and re-compiling it would cost more
    // than it saves, and would make the first runs differ in rounding from later ones.
    torch::jit::setGraphExecutorOptimize(false);
    auto impl = std::make_unique<Impl>();
    impl->name = name;
    impl->module = std::move(module);
    return std::shared_ptr<ScriptModule>(new ScriptModule(std::move(impl)));
  } catch (const c10::Error& error) {
    if (is_out_of_memory(error)) throw;
    throw Error(error_code::kCorruptFile,
                name + " is no readable TorchScript module: " + error.what_without_backtrace());
  } catch (const std::exception& error) {  // raised by the module's own __setstate__
    if (is_out_of_memory(error)) throw;
    throw Error(error_code::kNative, name + ": " + last_line(error.what()));
  }
}

std::vector<at::Tensor> ScriptModule::run(const std::vector<at::Tensor>& inputs) {
  // Executor optimisation is a thread-local switch; this is the inference thread.
  torch::jit::setGraphExecutorOptimize(false);
  std::vector<c10::IValue> arguments(inputs.begin(), inputs.end());
  c10::IValue result;
  try {
    result = impl_->module.forward(std::move(arguments));
  } catch (const std::exception& error) {
    if (is_out_of_memory(error)) throw;
    throw Error(error_code::kNative, impl_->name + ": " + last_line(error.what()));
  }
  std::vector<at::Tensor> outputs;
  if (result.isTensor()) {
    outputs.push_back(result.toTensor().contiguous());
  } else if (result.isTuple()) {
    for (const c10::IValue& element : result.toTupleRef().elements()) {
      if (!element.isTensor()) break;
      outputs.push_back(element.toTensor().contiguous());
    }
  }
  if (outputs.empty() ||
      (result.isTuple() && outputs.size() != result.toTupleRef().elements().size())) {
    throw Error(error_code::kInvalidArgument,
                impl_->name + ": forward must return a tensor or a tuple of tensors");
  }
  return outputs;
}

}  // namespace jitflux
