// Networks in onnxruntime-web.

import * as ort from "./ort.js";
import { look, softmax, toTensor } from "./prepare.js";

// A time is the mean over a round of runs, as a browser tells the time coarsely. The fastest round
// counts: in the first ones, the browser still compiles. All rounds take about so many milliseconds.
const RUNS = 5, LONGEST = 1200;

/** Open the networks that models.json lists. */
export async function openModels() {
  const [{ models }, runtime] = await Promise.all([
    download("models.json").then((response) => response.json()),
    download("ort.wasm").then((response) => response.arrayBuffer()),
  ]);
  // Given as bytes, so that no server has to know its type.
  ort.env.wasm.wasmBinary = runtime;
  ort.env.wasm.numThreads = 1;
  return Promise.all(models.map(openModel));
}

async function openModel(about) {
  const bytes = await (await download(about.file)).arrayBuffer();
  const session = await ort.InferenceSession.create(new Uint8Array(bytes), {
    executionProviders: ["wasm"],
  });
  return { ...about, session };
}

async function download(name) {
  // A page that was written again is not mixed with files of the older one.
  const response = await fetch(name, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${name} cannot be loaded (${response.status})`);
  return response;
}

/**
 * Classify an image.
 *
 * @returns {Promise<{seen: object, logits: Float32Array, probabilities: number[]}>}
 */
export async function classify(model, picture, invert = false) {
  const seen = look(picture, model, invert);
  const logits = await infer(model, seen);
  return { seen, logits, probabilities: softmax(logits, model.temperature) };
}

/** Measure the milliseconds that a network takes for one image. */
export async function measure(model, seen) {
  const begin = performance.now();
  let fastest = Infinity;
  do {
    const start = performance.now();
    for (let run = 0; run < RUNS; run++) await infer(model, seen);
    fastest = Math.min(fastest, (performance.now() - start) / RUNS);
  } while (performance.now() - begin < LONGEST);
  return fastest;
}

async function infer({ session, ...model }, seen) {
  const type = model.uint8 ? "uint8" : "float32";
  const tensor = new ort.Tensor(type, toTensor(seen, model), [1, ...model.input_size]);
  const [input] = session.inputNames, [output] = session.outputNames;
  const answer = await session.run({ [input]: tensor });
  return answer[output].data;
}
