/** The rooms of src/ and the arrows between them. */
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import { arrows, circles, roomsOf, uses, violations } from '../../scripts/lib/arrows.mjs';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

describe('imports between the rooms of src/', () => {
  it('go where the table of scripts/lib/arrows.mjs allows them', () => {
    expect(violations(ROOT, 'typescript')).toEqual([]);
  });

  it('are found at all', () => {
    expect(roomsOf(ROOT, 'typescript')).toEqual(
      expect.arrayContaining(['cli', 'engine', 'errors', 'sampler']),
    );
    const found = arrows(ROOT, 'typescript');
    expect(found.length).toBeGreaterThan(100);
    expect(found).toContainEqual({
      file: 'src/engine/call.ts',
      target: 'src/errors.ts',
      from: 'engine',
      to: 'errors',
    });
  });

  // Of types too: what is imported for its type alone has to be read all the same.
  it('close no circle, neither of rooms nor of files', () => {
    const rooms = arrows(ROOT, 'typescript');
    expect(circles(rooms.map(({ from, to }) => [from, to] as const))).toEqual([]);
    expect(circles(uses(ROOT, 'typescript').map(({ file, target }) => [file, target] as const))).toEqual([]);
  });
});
