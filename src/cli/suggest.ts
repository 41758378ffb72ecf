/** The word that was meant, if one is near enough. */
export function nearest(word: string, known: readonly string[]): string | undefined {
  // A third of the letters may be wrong, as in what is typed in a hurry.
  const most = Math.max(1, Math.floor(word.length / 3));
  let best: string | undefined;
  let least = most + 1;
  for (const candidate of known) {
    const distance = editDistance(word, candidate);
    if (distance < least) [best, least] = [candidate, distance];
  }
  if (best !== undefined || word.length < SHORTEST_PART) return best;
  return known.find((candidate) => candidate.includes(word));
}

/** Letters of a part by which a whole word is known: `schnell`, `checker`. */
const SHORTEST_PART = 3;

/** Letters to insert, to drop, to replace or to swap with their neighbour (optimal string alignment). */
function editDistance(a: string, b: string): number {
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const row = [i];
    for (let j = 1; j <= b.length; j++) {
      const replaced = last[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1);
      let cost = Math.min(replaced, last[j]! + 1, row[j - 1]! + 1);
      if (i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1]) {
        cost = Math.min(cost, before[j - 2]! + 1);
      }
      row.push(cost);
    }
    [before, last] = [last, row];
  }
  return last[b.length]!;
}
