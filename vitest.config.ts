import { defineConfig } from 'vitest/config';

/** How work, models, threads and processes end: a project of its own, `npm run test:lifetime`. */
const LIFETIME = [
  'test/lifetime/**/*.test.ts',
  'test/native/exit.test.ts',
  'test/native/workers.test.ts',
  'test/pipeline/service.test.ts',
];

export default defineConfig({
  test: {
    // LibTorch state is per process and per thread: one forked process at a time keeps files independent.
    pool: 'forks',
    maxWorkers: 1,
    testTimeout: 60_000,
    hookTimeout: 60_000,
    projects: [
      { extends: true, test: { name: 'main', include: ['test/**/*.test.ts'], exclude: LIFETIME } },
      { extends: true, test: { name: 'lifetime', include: LIFETIME } },
    ],
  },
});
