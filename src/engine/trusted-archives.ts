/**
 * SHA-256 of the TorchScript archives whose code may run without `allowTorchScriptCode`: the text encoder and the VAE
 * of models/flux-tiny, exported by tools/flux-tiny/train/export.py.
 */
export const TRUSTED_ARCHIVES: ReadonlySet<string> = new Set([
  // text_encoder.pt
  'a772cb7c5f8bd2527cd07b30872d89100cea1cc2c84425189cdc71455f4bb1c6',
  // vae_decoder.pt
  'f0e8ce1467fb5134e96f60840fac2a6699d749bf4134e86d588e086342920b2e',
]);
