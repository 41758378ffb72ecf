/** FLUX.1's weights under the names and in the fused matrices of the original checkpoints. */
import type { RawTensor } from './safetensors.js';

type Tensors = ReadonlyMap<string, RawTensor>;

/** `ae.safetensors` from diffusers' AutoencoderKL; its attention is made of 1x1 convolutions. */
export function originalAutoencoder(tensors: Tensors, levels: number, prefix = ''): Map<string, RawTensor> {
  const top = levels - 1;
  const rename = (name: string): string =>
    name
      .replace(/up_blocks\.(\d)\.resnets\.(\d)/, (_, i, j) => `up.${top - Number(i)}.block.${j}`)
      .replace(/up_blocks\.(\d)\.upsamplers\.0/, (_, i) => `up.${top - Number(i)}.upsample`)
      .replace(/down_blocks\.(\d)\.resnets\.(\d)/, 'down.$1.block.$2')
      .replace(/down_blocks\.(\d)\.downsamplers\.0/, 'down.$1.downsample')
      .replace('mid_block.resnets.0', 'mid.block_1')
      .replace('mid_block.resnets.1', 'mid.block_2')
      .replace('mid_block.attentions.0.group_norm', 'mid.attn_1.norm')
      .replace('mid_block.attentions.0.to_out.0', 'mid.attn_1.proj_out')
      .replace(/mid_block\.attentions\.0\.to_([qkv])/, 'mid.attn_1.$1')
      .replace('conv_norm_out', 'norm_out')
      .replace('conv_shortcut', 'nin_shortcut');
  return new Map(
    [...tensors].map(([name, tensor]) => {
      const projection = /attentions\.0\.to_.*weight$/.test(name);
      const shape = projection ? [...tensor.shape, 1, 1] : tensor.shape;
      return [`${prefix}${rename(name)}`, { ...tensor, shape }];
    }),
  );
}

/** `flux1-*.safetensors` from diffusers' FluxTransformer2DModel. */
export function originalTransformer(tensors: Tensors): Map<string, RawTensor> {
  const result = new Map<string, RawTensor>();
  const rows = (names: string[]): RawTensor => {
    const parts = names.map((name) => tensors.get(name)!);
    const height = parts.reduce((sum, { shape }) => sum + shape[0]!, 0);
    return {
      dtype: parts[0]!.dtype,
      shape: [height, ...parts[0]!.shape.slice(1)],
      data: Buffer.concat(parts.map(({ data }) => data)),
    };
  };
  const linear = (to: string, from: string[]): void => {
    for (const p of ['weight', 'bias']) result.set(`${to}.${p}`, rows(from.map((name) => `${name}.${p}`)));
  };
  const scale = (to: string, from: string): void => void result.set(`${to}.scale`, rows([`${from}.weight`]));

  linear('img_in', ['x_embedder']);
  linear('txt_in', ['context_embedder']);
  for (const [to, from] of [
    ['time_in', 'timestep_embedder'],
    ['guidance_in', 'guidance_embedder'],
    ['vector_in', 'text_embedder'],
  ]) {
    if (!tensors.has(`time_text_embed.${from}.linear_1.weight`)) continue;
    linear(`${to}.in_layer`, [`time_text_embed.${from}.linear_1`]);
    linear(`${to}.out_layer`, [`time_text_embed.${from}.linear_2`]);
  }
  for (let i = 0; tensors.has(`transformer_blocks.${i}.norm1.linear.weight`); i++) {
    const [to, from] = [`double_blocks.${i}`, `transformer_blocks.${i}`];
    const streams = [
      ['img', 'norm1', ['to_q', 'to_k', 'to_v'], 'norm_q', 'norm_k', 'to_out.0', 'ff'],
      [
        'txt',
        'norm1_context',
        ['add_q_proj', 'add_k_proj', 'add_v_proj'],
        'norm_added_q',
        'norm_added_k',
        'to_add_out',
        'ff_context',
      ],
    ] as const;
    for (const [stream, mod, qkv, q, k, out, ff] of streams) {
      linear(`${to}.${stream}_mod.lin`, [`${from}.${mod}.linear`]);
      linear(
        `${to}.${stream}_attn.qkv`,
        qkv.map((name) => `${from}.attn.${name}`),
      );
      scale(`${to}.${stream}_attn.norm.query_norm`, `${from}.attn.${q}`);
      scale(`${to}.${stream}_attn.norm.key_norm`, `${from}.attn.${k}`);
      linear(`${to}.${stream}_attn.proj`, [`${from}.attn.${out}`]);
      linear(`${to}.${stream}_mlp.0`, [`${from}.${ff}.net.0.proj`]);
      linear(`${to}.${stream}_mlp.2`, [`${from}.${ff}.net.2`]);
    }
  }
  for (let i = 0; tensors.has(`single_transformer_blocks.${i}.norm.linear.weight`); i++) {
    const [to, from] = [`single_blocks.${i}`, `single_transformer_blocks.${i}`];
    linear(`${to}.modulation.lin`, [`${from}.norm.linear`]);
    linear(`${to}.linear1`, [
      ...['to_q', 'to_k', 'to_v'].map((n) => `${from}.attn.${n}`),
      `${from}.proj_mlp`,
    ]);
    linear(`${to}.linear2`, [`${from}.proj_out`]);
    scale(`${to}.norm.query_norm`, `${from}.attn.norm_q`);
    scale(`${to}.norm.key_norm`, `${from}.attn.norm_k`);
  }
  linear('final_layer.linear', ['proj_out']);
  // The original stores shift before scale.
  for (const p of ['weight', 'bias']) {
    const whole = tensors.get(`norm_out.linear.${p}`)!;
    const half = whole.data.length / 2;
    const data = Buffer.concat([whole.data.subarray(half), whole.data.subarray(0, half)]);
    result.set(`final_layer.adaLN_modulation.1.${p}`, { ...whole, data });
  }
  return result;
}
