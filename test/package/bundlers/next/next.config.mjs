export default {
  output: 'standalone',
  serverExternalPackages: ['jit-flux'],
  outputFileTracingIncludes: { '/api/picture': ['./node_modules/jit-flux/**/*'] },
};
