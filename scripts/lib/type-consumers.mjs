// How users' projects see the types: the settings under which test/package/consumer/types.* must compile, without
// skipLibCheck. test/unit/consumers.test.ts tries them over dist/, scripts/test-package.mjs over the tarball.

/**
 * @typedef {{ module: string, moduleResolution: string, files: string[], before?: number }} Mode
 * before: the major version of TypeScript that has it no longer
 * @type {Mode[]}
 */
export const MODES = [
  { module: 'nodenext', moduleResolution: 'nodenext', files: ['types.mts', 'types.cts'] },
  { module: 'node16', moduleResolution: 'node16', files: ['types.mts', 'types.cts'] },
  { module: 'preserve', moduleResolution: 'bundler', files: ['types.mts'] },
  // Still what `module: commonjs` means in many projects; TypeScript 6 asks for `ignoreDeprecations`.
  { module: 'commonjs', moduleResolution: 'node10', files: ['types.cts'], before: 6 },
];

/**
 * Options of tsc for a mode, as strict as can be.
 * @param {Mode} mode
 * @returns {string[]}
 */
export function compilerArguments({ module, moduleResolution, files }) {
  return [
    '--noEmit',
    ...['--module', module, '--moduleResolution', moduleResolution, '--target', 'es2022'],
    ...['--strict', '--exactOptionalPropertyTypes', '--noUncheckedIndexedAccess', '--esModuleInterop'],
    ...['--skipLibCheck', 'false', '--types', 'node'],
    ...files,
  ];
}
