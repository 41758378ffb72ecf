/**
 * SHA-256 of the TorchScript archives whose code may run without `allowTorchScriptCode`: the text encoder and the VAE
 * of models/flux-tiny, exported by tools/flux-tiny/export.py.
 */
export const TRUSTED_ARCHIVES: ReadonlySet<string> = new Set([
  // text_encoder.pt
  '7205527526f4a3c717c4519b7025dc5da04f66734c4eb0e9e0ea52e1cafcb38d',
  // vae_decoder.pt
  '487a9ec12d7e322af90d93bad73ab5b181fb8e62b2c49dd2c276e12d478f7551',
]);
