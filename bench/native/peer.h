// The peer of the JavaScript side's comparisons: the eager composition (eager_flux.h, eager_jit.h),
// asked over standard input, one request and one answer per line. Requests are those of
// bench/peer/serve.py, flattened: fields are separated by tabs, names by dots, lists by commas.
//
//   op=hello  threads=2
//   op=load  model=a  path=...  dtype=bfloat16  config.headDim=64  config.doubleBlocks=2  ...
//   op=forward  model=a  input.grid=64,64  input.tokenSeed=11  ...  [save=FILE]
//   op=sample  model=a  input.grid=64,64  ...  plan.sigmas=1,0.75  ...  [save=FILE]
//   op=jit_load  path=...
//   op=unload  model=a
//
// An answer is a JSON object; what went wrong is answered as {"error": "..."} and the process goes
// on. Inputs are drawn from seeds by at::randn with a CPU generator, whose numbers are
// Tensor.randn's. Times are taken here, around the call alone.
#pragma once

namespace jitflux::bench {

// Answers until standard input ends.
void serve_peer();

}  // namespace jitflux::bench
