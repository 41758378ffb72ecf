/**
 * SentencePiece's precompiled character map, the normaliser of T5: which characters become which before the text is
 * divided. `@huggingface/tokenizers` replaces it by NFKC and a list of spaces, which differs for joined emoji and for
 * scripts that use joiners; this reads the map itself.
 */

/** No T5-like map is larger than a few hundred kilobytes. */
const MAX_MAP_BYTES = 16 * 1024 * 1024;

/** Longest replacement. NFKC's longest has 33 bytes. */
const MAX_REPLACEMENT_BYTES = 256;

/** Thrown for a map that contradicts itself. */
export class InvalidCharsmap extends Error {}

/**
 * The normaliser that a map describes.
 * @param base64 `precompiled_charsmap` of a `tokenizer.json`
 */
export function charsmapNormalizer(base64: string): (text: string) => string {
  const bytes = Buffer.from(base64, 'base64');
  if (bytes.length < 4 || bytes.length > MAX_MAP_BYTES) throw new InvalidCharsmap('it has no usable size');
  const trieBytes = bytes.readUInt32LE(0);
  if (trieBytes % 4 !== 0 || trieBytes < 4 || trieBytes > bytes.length - 4) {
    throw new InvalidCharsmap('its trie does not fit into it');
  }
  const trie = new Uint32Array(trieBytes / 4);
  for (let i = 0; i < trie.length; i++) trie[i] = bytes.readUInt32LE(4 + 4 * i);
  const replacements = bytes.subarray(4 + trieBytes);
  for (let at = 0; at < replacements.length;) {
    const nul = replacements.indexOf(0, at);
    const end = nul < 0 ? replacements.length : nul;
    if (end - at > MAX_REPLACEMENT_BYTES) throw new InvalidCharsmap('it makes a character too long');
    at = end + 1;
  }

  /** What the shortest prefix of the text that is in the trie becomes. */
  const transform = (text: string): string | undefined => {
    const start = firstLeaf(trie, Buffer.from(text, 'utf8'));
    if (start === undefined || start >= replacements.length) return undefined;
    const end = replacements.indexOf(0, start);
    return replacements.toString('utf8', start, end < 0 ? replacements.length : end);
  };
  const graphemes = new Intl.Segmenter('und', { granularity: 'grapheme' });
  return (text) => {
    let result = '';
    for (const { segment } of graphemes.segment(text)) {
      // A cluster is looked up as a whole first, but only a short one, as in the original.
      const whole = Buffer.byteLength(segment, 'utf8') < 6 ? transform(segment) : undefined;
      if (whole !== undefined) result += whole;
      else for (const character of segment) result += transform(character) ?? character;
    }
    return result;
  };
}

/**
 * Value of the first leaf on the key's path. A unit of the double array holds a label, a flag for a leaf among its
 * children, and the offset of the children.
 */
function firstLeaf(trie: Uint32Array, key: Uint8Array): number | undefined {
  let node = offset(trie[0] ?? 0);
  for (const byte of key) {
    if (byte === 0) return undefined;
    node ^= byte;
    const unit = trie[node];
    if (unit === undefined || (unit & 0x800000ff) >>> 0 !== byte) return undefined;
    node ^= offset(unit);
    if ((unit & 0x100) !== 0) {
      const leaf = trie[node];
      return leaf === undefined ? undefined : leaf & 0x7fffffff;
    }
  }
  return undefined;
}

function offset(unit: number): number {
  return (unit >>> 10) << ((unit & 0x200) >>> 6);
}
