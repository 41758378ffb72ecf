import { availableParallelism } from 'node:os';
import { defineConfig } from 'vitest/config';
import { SLOWNESS } from './test/support/slowness.js';

/** Vitest runs groups one after another, and the projects of a group side by side. */
const GROUPS = { pure: 0, engine: 1, alone: 2 };

interface Project {
  name: string;
  /** Folder in test/, where it is not the name. */
  folder?: string;
  /** Names of its files, where it is not all of the folder's; those of another project there. */
  only?: string[];
  except?: string[];
  group: number;
  maxWorkers: number;
  env?: Record<string, string>;
  setupFiles?: string[];
}

/** A folder of test/ as a project. LibTorch's state is per process: every file has a process of its own. */
function project({ name, folder = name, only, except = [], group, ...rest }: Project) {
  const file = (of: string) => `test/${folder}/${of}.test.ts`;
  const include = only?.map(file) ?? [file('**/*')];
  const exclude = except.map(file);
  return {
    extends: true as const,
    test: { name, include, exclude, sequence: { groupOrder: group }, ...rest },
  };
}

const cores = availableParallelism();
// A process with LibTorch takes about half a gigabyte. Small models wait more than they compute, so that two processes
// take turns well on two cores; their OpenMP threads sleep while they wait.
const engine = { group: GROUPS.engine, maxWorkers: Math.max(2, Math.min(4, cores)) };

// Files of test/lifetime that look at processes of their own, each with limits of its own: nothing beside them disturbs.
const PROCESSES = ['changed-weights', 'endings', 'fail-allocations', 'faults', 'lock', 'memory-steps'];

export default defineConfig({
  test: {
    pool: 'forks',
    testTimeout: 60_000 * SLOWNESS,
    hookTimeout: 60_000 * SLOWNESS,
    // What whoever runs the tests has set for the command line is not for them.
    env: { XDG_CONFIG_HOME: '/nonexistent' },
    // Of scripts/test-asan.mjs and scripts/coverage.mjs.
    setupFiles: process.env.JIT_FLUX_TEST_SETUP ?? [],
    projects: [
      // Needs no LibTorch; of the native build only the library without it, which describes weights.
      project({ name: 'unit', group: GROUPS.pure, maxWorkers: cores }),
      project({ name: 'native', ...engine }),
      project({ name: 'golden', ...engine }),
      // The same files on the first GPU or, where there is none, through the emulated kernels.
      project({
        name: 'golden-cuda',
        folder: 'golden',
        ...engine,
        env: { JIT_FLUX_TEST_DEVICE: 'cuda' },
        setupFiles: ['test/support/skip-without-cuda.ts'],
      }),
      project({ name: 'pipeline', ...engine }),
      project({ name: 'package', ...engine }),
      project({ name: 'cuda', ...engine }),
      // Hostile arguments and invariants. `JIT_FLUX_PROPERTY_RUNS` asks for more cases than the short form has.
      project({ name: 'property', ...engine }),
      project({ name: 'lifetime-processes', folder: 'lifetime', only: PROCESSES, ...engine }),
      // How work, models, threads and processes end. Watches memory and threads, so that nothing runs beside it.
      project({ name: 'lifetime', except: PROCESSES, group: GROUPS.alone, maxWorkers: 1 }),
    ],
  },
});
