/**
 * SHA-256 of the TorchScript archives whose code may run without `allowTorchScriptCode`: the text encoder and the VAE
 * of models/flux-tiny, exported by tools/flux-tiny/export.py.
 */
export const TRUSTED_ARCHIVES: ReadonlySet<string> = new Set([
  // text_encoder.pt
  '1b619d76fc93e402afdc086a697f048c6553d64999cf8f833cef23607dc4008d',
  // vae_decoder.pt
  '487a9ec12d7e322af90d93bad73ab5b181fb8e62b2c49dd2c276e12d478f7551',
]);
