/** How many times as long everything may take: more than once under a sanitizer (scripts/lib/sanitizers.mjs). */
export const SLOWNESS = Number(process.env.JIT_FLUX_TEST_SLOWNESS ?? 1);
