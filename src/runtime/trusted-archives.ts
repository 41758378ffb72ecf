/**
 * SHA-256 of the TorchScript archives whose code may run without `allowTorchScriptCode`: the text encoder and the VAE
 * of models/flux-tiny, exported by tools/flux-tiny/export.py.
 */
export const TRUSTED_ARCHIVES: ReadonlySet<string> = new Set([
  // text_encoder.pt
  'd18f75b74eb4cacd97f06ed5578a3cdbe0e3f6f69dc16e0ce7f8d7241abf6e0d',
  // vae_decoder.pt
  '487a9ec12d7e322af90d93bad73ab5b181fb8e62b2c49dd2c276e12d478f7551',
]);
