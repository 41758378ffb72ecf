// A TorchScript module whose code runs. The only place where code from a file is executed: callers
// reach it through an explicit opt-in (src/engine/script-module.ts).
#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <string>
#include <vector>

namespace jitflux {

class ScriptModule {
 public:
  // Compiles the archive held in `bytes`. Throws kCorruptFile if it is no TorchScript archive.
  static std::shared_ptr<ScriptModule> load(const std::string& bytes, const std::string& name);
  ~ScriptModule();

  // Calls forward; the result must be a tensor or a tuple of tensors.
  std::vector<at::Tensor> run(const std::vector<at::Tensor>& inputs);

 private:
  struct Impl;
  explicit ScriptModule(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace jitflux
