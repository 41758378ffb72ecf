#!/usr/bin/env node
// Builds the native libraries. Also the command behind binding.gyp.
//   node scripts/build-native.mjs [--config Release|RelWithDebInfo|Debug] [--out DIR] [--libtorch DIR]
//                                 [--arch x64] [--jobs N] [--define NAME=VALUE]... [--bench] [--cuda]
//                                 [--sanitize] [--node-headers DIR]...
// --bench also builds the benchmark jit_flux_bench (bench/native), beside the libraries; it is not shipped.
// --cuda also builds libjit_flux_cuda.so, all of it against a LibTorch with CUDA, into build/Cuda.
// --sanitize builds with AddressSanitizer and UndefinedBehaviorSanitizer, into build/Asan; see scripts/test-asan.mjs.
// --node-headers names the directories of node_api.h and napi.h; then CMake is run without cmake-js.
// JIT_FLUX_VERBOSE=1 shows the commands.
import { buildNative } from './lib/native.mjs';
import { UserError, main, takeFlag, takeOption } from './lib/tools.mjs';

await main(async () => {
  const args = process.argv.slice(2);
  const options = {};
  for (const name of ['config', 'out', 'libtorch', 'arch']) {
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
  options.sanitize = takeFlag(args, 'sanitize');
  if (options.cuda && options.sanitize) throw new UserError('--sanitize is for the CPU build');
  options.define = [];
  for (let setting; (setting = takeOption(args, 'define')) !== undefined;) options.define.push(setting);
  const headers = [];
  for (let path; (path = takeOption(args, 'node-headers')) !== undefined;) headers.push(path);
  if (headers.length > 0) options.nodeHeaders = headers;
  if (args.length > 0) throw new UserError(`Unknown argument: ${args[0]}`);
  await buildNative(options);
});
