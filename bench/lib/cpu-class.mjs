// Classes of CPUs by what decides how their figures compare: targets are judged, and results kept, by class.

/** @typedef {(typeof CPU_CLASSES)[number]} CpuClass */

export const CPU_CLASSES = /** @type {const} */ ([
  'amx', // Intel Xeon since Sapphire Rapids: bfloat16 and int8 on tiles, slow vdpbf16ps
  'avx512-bf16', // AMD Zen 4 and 5: bfloat16 at twice the rate of float32 (Intel without tiles is slower, and never met)
  'avx512', // Intel Ice Lake and before: no products in bfloat16
  'avx2', // AMD Zen 3, and everything older
]);

/**
 * @param {readonly string[]} flags of /proc/cpuinfo
 * @returns {CpuClass}
 */
export function cpuClassOf(flags) {
  if (flags.includes('amx_bf16')) return 'amx';
  if (flags.includes('avx512_bf16')) return 'avx512-bf16';
  return flags.includes('avx512f') ? 'avx512' : 'avx2';
}
