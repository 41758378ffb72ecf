#include "runtime/script_module.h"

#include <torch/csrc/jit/api/module.h>
#include <torch/csrc/jit/runtime/graph_executor.h>
#include <torch/csrc/jit/serialization/import.h>

#include <sstream>
#include <utility>

#include "runtime/error.h"

namespace jitflux {

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
    throw Error(error_code::kCorruptFile,
                name + " is no readable TorchScript module: " + error.what_without_backtrace());
  }
}

std::vector<at::Tensor> ScriptModule::run(const std::vector<at::Tensor>& inputs) {
  // Executor optimisation is a thread-local switch; this is the inference thread.
  torch::jit::setGraphExecutorOptimize(false);
  std::vector<c10::IValue> arguments(inputs.begin(), inputs.end());
  const c10::IValue result = impl_->module.forward(std::move(arguments));
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
