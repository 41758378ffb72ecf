/**
 * SHA-256 of the TorchScript archives whose code may run without `allowTorchScriptCode`: the text encoder and the VAE
 * of models/flux-tiny, exported by tools/flux-tiny/export.py.
 */
export const TRUSTED_ARCHIVES: ReadonlySet<string> = new Set([
  // text_encoder.pt
  '5f9097ae6a7d221adaf3ff4d42d31146337f0db8332519c00925e084053460ed',
  // vae_decoder.pt
  '487a9ec12d7e322af90d93bad73ab5b181fb8e62b2c49dd2c276e12d478f7551',
]);
