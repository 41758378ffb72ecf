export default {
  mode: 'production',
  target: 'node',
  entry: './app.mjs',
  output: { filename: 'app.mjs', module: true, library: { type: 'module' } },
  experiments: { outputModule: true },
  externals: { 'jit-flux': 'module jit-flux' },
};
