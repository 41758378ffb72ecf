import { BUNDLED_MODEL, FluxPipeline } from 'jit-flux';

export const dynamic = 'force-dynamic';

export async function GET() {
  const pipeline = await FluxPipeline.load(BUNDLED_MODEL);
  try {
    const { images } = await pipeline.generate({
      prompt: 'a red circle',
      width: 64,
      height: 64,
      steps: 2,
      seed: 1,
    });
    return new Response(await images[0].toPNGAsync(), { headers: { 'content-type': 'image/png' } });
  } finally {
    await pipeline.dispose();
  }
}
