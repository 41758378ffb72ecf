import { reading } from '../arguments.js';
import { encodePng, encodePngAsync, type PngMetadata, type RgbImage } from '../image/index.js';

/** A generated picture and how to make it again. */
export class GeneratedImage implements RgbImage {
  readonly width: number;
  readonly height: number;
  /** 8-bit RGB, row by row from the top left. */
  readonly data: Uint8Array;
  readonly prompt: string;
  /** Seed of this picture: a request for one picture with this seed gives it again. */
  readonly seed: number | bigint;
  /** Written into the PNG: prompt, seed, preset, steps, guidance, model, version. */
  readonly metadata: PngMetadata;

  /** @internal */
  constructor(o: { image: RgbImage; prompt: string; seed: number | bigint; metadata: PngMetadata }) {
    this.width = o.image.width;
    this.height = o.image.height;
    this.data = o.image.data;
    this.prompt = o.prompt;
    this.seed = o.seed;
    this.metadata = o.metadata;
  }

  /**
   * The picture as a PNG file with its metadata. Equal pictures give equal bytes. Encodes synchronously (30 ms for
   * 256x256, 150 ms for 1024x1024); a server uses {@link toPNGAsync}.
   */
  toPNG(): Uint8Array {
    return encodePng(this, this.#metadata());
  }

  /**
   * The same bytes, encoded on a thread of their own.
   * @throws ERR_JITFLUX_ABORTED
   */
  async toPNGAsync(o: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    return encodePngAsync(this, this.#metadata(), o);
  }

  #metadata(): PngMetadata {
    return reading('metadata', () => this.metadata);
  }
}
