/**
 * Prints the result of `run`, or the code and the message of its error, as one line of JSON.
 * @param {() => unknown} run
 */
export async function report(run) {
  try {
    console.log(JSON.stringify({ result: await run() }));
  } catch (error) {
    const { name, code, message } = /** @type {Error & { code?: string }} */ (error);
    console.log(JSON.stringify({ error: { name, code, message } }));
    process.exitCode = 2;
  }
}
