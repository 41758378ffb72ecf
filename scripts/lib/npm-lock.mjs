// What npm's lockfile says about installed packages.

/**
 * @typedef {{ packages: Record<string, { dependencies?: Record<string, string>,
 *   optionalDependencies?: Record<string, string> }> }} Lock
 */

/**
 * The packages that `names` need to run, themselves included, looked up as Node does: a nested copy comes before the
 * one at the top.
 * @param {Lock} lock of version 3
 * @param {readonly string[]} names
 * @returns {string[]} folders, sorted; an optional one may not be installed
 */
export function lockedFolders({ packages }, names) {
  /** @type {Set<string>} */
  const found = new Set();
  /** @param {string} name @param {string} from */
  const visit = (name, from) => {
    const folder = `${from}node_modules/${name}`;
    const entry = packages[folder];
    if (entry === undefined) {
      if (from === '') throw new Error(`package-lock.json has no ${name}`);
      // One level up: "a/node_modules/b/" becomes "a/".
      return visit(name, from.replace(/node_modules\/(@[^/]+\/)?[^/]+\/$/, ''));
    }
    if (found.has(folder)) return;
    found.add(folder);
    for (const needed of Object.keys({ ...entry.dependencies, ...entry.optionalDependencies }))
      visit(needed, `${folder}/`);
  };
  for (const name of names) visit(name, '');
  return [...found].sort();
}
