/** Where the parts of a pipeline compute, and in which type. */
import { describe, expect, it } from 'vitest';
import {
  componentOptions,
  decoderPlacement,
  textPlacement,
  transformerPlacement,
} from '../../../src/model/component-options.js';
import type { ModelSpec } from '../../../src/model/spec.js';

const native = { kind: 'native' } as ModelSpec['text'] & ModelSpec['decoder'];
const torchscript = { kind: 'torchscript' } as ModelSpec['text'] & ModelSpec['decoder'];

describe('placement', () => {
  it.each([
    [{}, 'cpu', 'float32'],
    [{ dtype: 'bfloat16' }, 'cpu', 'bfloat16'],
    [{ device: 'cuda' }, 'cuda', 'bfloat16'],
    [{ device: 'cuda:1', dtype: 'float32' }, 'cuda:1', 'float32'],
  ] as const)('of %j is the same for all parts', (o, device, dtype) => {
    for (const found of [transformerPlacement(o), textPlacement(o, native), decoderPlacement(o, native)]) {
      expect(found).toEqual({ device, dtype });
    }
  });

  it('follows the options of its own', () => {
    const o = { device: 'cuda', textEncoderDevice: 'cpu', decoderDevice: 'cuda:1' } as const;
    expect(transformerPlacement(o).device).toBe('cuda');
    expect(textPlacement(o, native)).toEqual({ device: 'cpu', dtype: 'bfloat16' });
    expect(decoderPlacement(o, native)).toEqual({ device: 'cuda:1', dtype: 'bfloat16' });
  });

  it('keeps TorchScript on the CPU', () => {
    const o = { device: 'cuda', textEncoderDevice: 'cuda', decoderDevice: 'cuda' } as const;
    expect(textPlacement(o, torchscript).device).toBe('cpu');
    expect(decoderPlacement(o, torchscript).device).toBe('cpu');
  });

  it('spares T5 and the CPU float16', () => {
    const o = { device: 'cuda', dtype: 'float16' } as const;
    expect(transformerPlacement(o).dtype).toBe('float16');
    expect(textPlacement(o, native).dtype).toBe('bfloat16');
    expect(decoderPlacement(o, native).dtype).toBe('float16');
    expect(decoderPlacement({ ...o, decoderDevice: 'cpu' }, native).dtype).toBe('bfloat16');
  });
});

it("hands on what is not the transformer's alone", () => {
  const o = { quantize: 'int8', weightStreaming: true, cudaGraphs: true, threads: 3, verify: true } as const;
  expect(componentOptions({ ...o }, { device: 'cpu', dtype: 'bfloat16' })).toEqual({
    threads: 3,
    verify: true,
    device: 'cpu',
    dtype: 'bfloat16',
  });
});
