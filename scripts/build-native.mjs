#!/usr/bin/env node
// Builds the native libraries through cmake-js. Also the command behind binding.gyp.
//   node scripts/build-native.mjs [--config Release|RelWithDebInfo|Debug] [--out DIR] [--libtorch DIR]
//                                 [--arch x64] [--jobs N] [--define NAME=VALUE]... [--bench] [--cuda]
//                                 [--instrument asan|tsan|coverage]
// --config Debug builds into build/Debug, RelWithDebInfo into build/RelWithDebInfo; JIT_FLUX_BUILD_DIR chooses among
// builds at run time.
// --bench also builds the benchmark jit_flux_bench (bench/native), beside the libraries; it is not shipped.
// --cuda also builds libjit_flux_cuda.so, all of it against a LibTorch with CUDA, into build/Cuda.
// --instrument asan builds with AddressSanitizer and UndefinedBehaviorSanitizer into build/Asan, tsan with ThreadSanitizer
// into build/Tsan, coverage with gcov's counters into build/Coverage; see scripts/test-asan.mjs, test-tsan.mjs, coverage.mjs.
// JIT_FLUX_VERBOSE=1 shows the commands.
import { buildNative } from './lib/native.mjs';
import { UserError, main, takeFlag, takeOption } from './lib/tools.mjs';

await main(async () => {
  const args = process.argv.slice(2);
  /** @type {import('./lib/native.mjs').NativeBuildOptions} */
  const options = {};
  for (const name of /** @type {const} */ (['config', 'out', 'libtorch', 'arch'])) {
    const value = takeOption(args, name);
    if (value !== undefined) options[name] = value;
  }
  const jobs = takeOption(args, 'jobs');
  if (jobs !== undefined) {
    options.jobs = Number(jobs);
    if (!Number.isInteger(options.jobs) || options.jobs < 1)
      throw new UserError(`Expected a positive integer for --jobs but received ${jobs}`);
  }
  options.bench = takeFlag(args, 'bench');
  options.cuda = takeFlag(args, 'cuda');
  const instrument = takeOption(args, 'instrument');
  if (instrument !== undefined)
    options.instrument = /** @type {import('./lib/native.mjs').Instrumentation} */ (instrument);
  options.define = [];
  for (let setting; (setting = takeOption(args, 'define')) !== undefined;) options.define.push(setting);
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  await buildNative(options);
});
