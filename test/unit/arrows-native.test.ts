import { fileURLToPath } from 'node:url';
import { describe, expect, it } from 'vitest';
import {
  ALLOWED,
  arrows,
  circles,
  libtorchIncludes,
  roomsOf,
  uses,
  violations,
  WITHOUT_LIBTORCH,
} from '../../scripts/lib/arrows.mjs';

const ROOT = fileURLToPath(new URL('../../', import.meta.url));

describe('includes between the rooms of native/', () => {
  it('go where the table of scripts/lib/arrows.mjs allows them', () => {
    expect(violations(ROOT, 'native')).toEqual([]);
  });

  it('are found at all', () => {
    expect(roomsOf(ROOT, 'native')).toEqual(expect.arrayContaining(['base', 'kernels/cuda', 'models/flux']));
    const found = arrows(ROOT, 'native');
    expect(found.length).toBeGreaterThan(100);
    expect(found).toContainEqual({
      file: 'native/jit/lifter.cc',
      target: 'native/base/counters.h',
      from: 'jit',
      to: 'base',
    });
  });

  it('reach no header of LibTorch from the rooms that do without it', () => {
    expect(libtorchIncludes(ROOT)).toEqual([]);
    for (const room of WITHOUT_LIBTORCH)
      expect(WITHOUT_LIBTORCH, room).toEqual(expect.arrayContaining(ALLOWED.native[room] ?? []));
  });

  it('close no circle, neither of rooms nor of files', () => {
    const rooms = arrows(ROOT, 'native').map(({ from, to }) => [from, to] as const);
    expect(circles(rooms)).toEqual([]);
    expect(circles(uses(ROOT, 'native').map(({ file, target }) => [file, target] as const))).toEqual([]);
  });
});

describe.each(['native', 'typescript'] as const)('the table of %s', (kind) => {
  it('allows no circle', () => {
    const edges = Object.entries(ALLOWED[kind]).flatMap(([from, to]) =>
      to.map((room) => [from, room] as const),
    );
    expect(circles(edges)).toEqual([]);
  });

  it('names each room from the top of the house down', () => {
    const order = Object.keys(ALLOWED[kind]);
    for (const [from, to] of Object.entries(ALLOWED[kind])) {
      for (const room of to)
        expect(order.indexOf(room), `${from} -> ${room}`).toBeGreaterThan(order.indexOf(from));
    }
  });
});

it('finds circles', () => {
  expect(
    circles([
      ['a', 'b'],
      ['b', 'c'],
      ['c', 'b'],
      ['d', 'a'],
    ]),
  ).toEqual([['b', 'c']]);
});
