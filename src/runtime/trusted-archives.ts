/**
 * SHA-256 of the TorchScript archives whose code may run without `allowTorchScriptCode`: the text encoder and the VAE
 * of models/flux-tiny, exported by tools/flux-tiny/export.py.
 */
export const TRUSTED_ARCHIVES: ReadonlySet<string> = new Set([
  // text_encoder.pt
  'eede10fb8601e3a7cc1f83435e2274cf0ba842e23fafc45fabad608c3e308833',
  // vae_decoder.pt
  '487a9ec12d7e322af90d93bad73ab5b181fb8e62b2c49dd2c276e12d478f7551',
]);
