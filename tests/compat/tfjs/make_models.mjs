// Makes models with TensorFlow.js and saves each with inputs and its own prediction of them:
//
//     node make_models.mjs OUT article          the article's two generators, 8.8 MB each
//     node make_models.mjs OUT fixtures         small ones of every supported kind of layer, some KB each
//
// OUT/NAME/model.json and weight files are what TensorFlow.js's own file handlers write; expected.json
// holds {inputs: {name: {shape, dtype, values}}, output: {shape, values}}.

import { createHash } from 'node:crypto';
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import * as tf from '@tensorflow/tfjs';

const { layers } = tf;

// ---- The article's generators --------------------------------------------------------------------

// As printed: strides 2, 2, 2 from 7x7. With 1, 2, 2 it makes the 28x28 that the text speaks of.
function article(strides) {
  const init = () => tf.initializers.truncatedNormal({ mean: 0, stddev: 0.02 });
  const norm = () => layers.batchNormalization({ epsilon: 1e-5, momentum: 0.9 });
  const up = (filters, stride, activation) => layers.conv2dTranspose({
    filters, kernelSize: 3, strides: stride, padding: 'same', kernelInitializer: init(), activation,
  });
  return tf.sequential({ layers: [
    layers.dense({ inputShape: [100], units: 7 * 7 * 256, useBias: false, kernelInitializer: init() }),
    norm(), layers.leakyReLU(0.2), layers.reshape({ targetShape: [7, 7, 256] }),
    up(256, strides[0]), norm(), layers.leakyReLU(0.2),
    up(128, strides[1]), norm(), layers.leakyReLU(0.2),
    up(1, strides[2], 'tanh'),
  ] });
}

// ---- Small models --------------------------------------------------------------------------------

function small(activation = 'tanh') {
  return tf.sequential({ layers: [
    layers.dense({ inputShape: [6], units: 16, useBias: false, kernelInitializer: 'truncatedNormal' }),
    layers.batchNormalization({ epsilon: 1e-5, momentum: 0.9 }),
    layers.leakyReLU({ alpha: 0.2 }),
    layers.reshape({ targetShape: [2, 2, 4] }),
    layers.conv2dTranspose({ filters: 4, kernelSize: 3, strides: 2, padding: 'same' }),
    layers.dropout({ rate: 0.4 }),
    layers.leakyReLU(0.2),
    layers.conv2dTranspose({ filters: 1, kernelSize: [3, 5], strides: [2, 1], padding: 'same', activation }),
  ] });
}

// Label as a whole number through an embedding, joined with the latent; most kinds of layers.
function conditional() {
  const latent = tf.input({ shape: [5], name: 'latent' });
  const label = tf.input({ shape: [1], dtype: 'int32', name: 'label' });
  const code = layers.flatten().apply(layers.embedding({ inputDim: 3, outputDim: 4 }).apply(label));
  const joined = layers.concatenate().apply([latent, code]);
  const gate = layers.dense({ units: 18, activation: 'sigmoid' }).apply(joined);
  const trunk = layers.dense({ units: 18, activation: 'relu', kernelInitializer: 'heNormal' }).apply(joined);
  let x = layers.multiply().apply([trunk, gate]);
  x = layers.reshape({ targetShape: [3, 3, 2] }).apply(x);
  x = layers.upSampling2d({ size: [2, 2] }).apply(x);
  x = layers.conv2d({ filters: 4, kernelSize: 3, padding: 'same', activation: 'linear' }).apply(x);
  x = layers.prelu({ sharedAxes: [1, 2] }).apply(x);
  x = layers.gaussianNoise({ stddev: 0.5 }).apply(x);
  const side = layers.conv2d({ filters: 4, kernelSize: 1, useBias: false }).apply(layers.elu().apply(x));
  x = layers.add().apply([x, side]);
  x = layers.zeroPadding2d({ padding: [[1, 1], [2, 0]] }).apply(x);
  x = layers.cropping2D({ cropping: [[1, 1], [0, 2]] }).apply(x);
  x = layers.reLU({ maxValue: 6 }).apply(x);
  x = layers.separableConv2d({ filters: 3, kernelSize: 3, padding: 'same' }).apply(x);
  x = layers.averagePooling2d({ poolSize: 2, strides: 1, padding: 'same' }).apply(x);
  x = layers.layerNormalization().apply(x);
  x = layers.activation({ activation: 'sigmoid' }).apply(x);
  return tf.model({ inputs: [latent, label], outputs: x, name: 'conditional' });
}

// A model inside a model, a layer used twice, two outputs.
function nested() {
  const block = tf.sequential({ name: 'block', layers: [
    layers.dense({ inputShape: [8], units: 8, activation: 'selu' }),
    layers.batchNormalization(),
  ] });
  const latent = tf.input({ shape: [2, 4], name: 'latent' });
  const shared = layers.dense({ units: 8, activation: 'softsign', name: 'shared' });
  let x = layers.flatten().apply(latent);
  x = shared.apply(shared.apply(block.apply(x)));
  x = layers.permute({ dims: [2, 1] }).apply(layers.reshape({ targetShape: [2, 4] }).apply(x));
  const wave = layers.conv1d({ filters: 2, kernelSize: 3, padding: 'same', activation: 'tanh', name: 'wave' }).apply(x);
  const mask = layers.dense({ units: 1, activation: 'hardSigmoid', name: 'mask' }).apply(layers.flatten().apply(x));
  return tf.model({ inputs: latent, outputs: [wave, mask] });
}

// Keras 3 resizes with other centres, and its poolings and paddings must agree at odd sizes.
function bilinear() {
  return tf.sequential({ layers: [
    layers.dense({ inputShape: [4], units: 18, activation: 'softplus' }),
    layers.reshape({ targetShape: [3, 3, 2] }),
    layers.upSampling2d({ size: [2, 3], interpolation: 'bilinear' }),
    layers.depthwiseConv2d({ kernelSize: 3, depthMultiplier: 2, padding: 'same', activation: 'relu6' }),
    layers.maxPooling2d({ poolSize: 2, strides: 2, padding: 'same' }),
    layers.conv2dTranspose({ filters: 3, kernelSize: 4, strides: 3, padding: 'valid', activation: 'hardSigmoid' }),
  ] });
}

// ---- Saving --------------------------------------------------------------------------------------

// Weights that show mistakes: none is zero or one, variances are positive.
function randomise(model) {
  model.setWeights(model.getWeights().map((weight, position) => {
    const drawn = tf.randomNormal(weight.shape, 0, 0.4, 'float32', 100 + position);
    return model.weights[position].name.endsWith('moving_variance') ? tf.add(tf.abs(drawn), 0.5) : drawn;
  }));
}

function quantised(artifacts, dtype) {
  const bytes = new Uint8Array(artifacts.weightData);
  const parts = [];
  let offset = 0;
  const specs = artifacts.weightSpecs.map(({ name, shape, dtype: original }) => {
    const size = shape.reduce((a, b) => a * b, 1);
    const values = new Float32Array(bytes.slice(offset, offset + 4 * size).buffer);
    offset += 4 * size;
    const [data, quantization] = dtype === 'float16' ? [halves(values), { dtype }] : affine(values, dtype);
    parts.push(new Uint8Array(data.buffer));
    return { name, shape, dtype: original, quantization: { ...quantization, original_dtype: original } };
  });
  return { ...artifacts, weightSpecs: specs, weightData: join_bytes(parts) };
}

function affine(values, dtype) {
  const levels = dtype === 'uint8' ? 255 : 65535;
  const min = Math.min(...values);
  const scale = (Math.max(...values) - min) / levels || 1;
  const whole = values.map((value) => Math.round((value - min) / scale));
  return [dtype === 'uint8' ? Uint8Array.from(whole) : Uint16Array.from(whole), { dtype, min, scale }];
}

// Float16 by cutting the mantissa, which is enough here: none of the weights is subnormal or infinite as a half.
function halves(values) {
  const bits = new Uint32Array(values.buffer);
  return Uint16Array.from(bits, (word) => {
    const exponent = ((word >>> 23) & 255) - 112;
    return ((word >>> 16) & 0x8000) | (exponent <= 0 ? 0 : (exponent << 10) | ((word >>> 13) & 0x3ff));
  });
}

function join_bytes(parts) {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  parts.reduce((at, part) => { whole.set(part, at); return at + part.length; }, 0);
  return whole.buffer;
}

// Files as TensorFlow.js's handlers write them; the weights cut into `shards` files.
function write(folder, artifacts, shards) {
  mkdirSync(folder, { recursive: true });
  const bytes = new Uint8Array(artifacts.weightData);
  const size = Math.ceil(bytes.length / shards);
  const paths = [];
  for (let at = 0; at < bytes.length; at += size) {
    paths.push(shards === 1 ? 'weights.bin' : `group1-shard${paths.length + 1}of${shards}.bin`);
    writeFileSync(join(folder, paths.at(-1)), bytes.slice(at, at + size));
  }
  const manifest = [{ paths, weights: artifacts.weightSpecs }];
  const json = tf.io.getModelJSONForModelArtifacts
    ? tf.io.getModelJSONForModelArtifacts(artifacts, manifest)
    : { modelTopology: artifacts.modelTopology, format: artifacts.format, generatedBy: artifacts.generatedBy,
        convertedBy: artifacts.convertedBy ?? null, weightsManifest: manifest };
  writeFileSync(join(folder, 'model.json'), JSON.stringify(json));
}

const rounded = (values) => Array.from(values, (value) => Number(value.toPrecision(9)));

async function save(out, name, model, { count = 3, shards = 1, dtype = null } = {}) {
  let artifacts;
  await model.save(tf.io.withSaveHandler(async (given) => {
    artifacts = given;
    return { modelArtifactsInfo: tf.io.getModelArtifactsInfoForJSON(given) };
  }));
  if (dtype !== null) {
    artifacts = quantised(artifacts, dtype);
    model = await tf.loadLayersModel(tf.io.fromMemory(artifacts));
  }
  const inputs = {};
  const fed = model.inputs.map((input, position) => {
    const shape = [count, ...input.shape.slice(1)];
    const tensor = input.dtype === 'int32'
      ? tf.tensor(Array.from({ length: count }, (_, row) => [row % 3]), shape, 'int32')
      : tf.randomNormal(shape, 0, 1, 'float32', 7 + position);
    inputs[input.name] = { shape, dtype: input.dtype, values: rounded(tensor.dataSync()) };
    return tensor;
  });
  const answers = [].concat(model.predict(fed.length === 1 ? fed[0] : fed));
  const outputs = Object.fromEntries(answers.map((answer, position) => [
    model.outputNames[position], { shape: answer.shape, values: rounded(answer.dataSync()) },
  ]));
  const folder = join(out, name);
  write(folder, artifacts, shards);
  writeFileSync(join(folder, 'expected.json'), JSON.stringify({ tfjs: tf.version.tfjs, inputs, outputs }));
  const digest = createHash('sha256').update(new Uint8Array(artifacts.weightData)).digest('hex').slice(0, 12);
  console.log(`${name}: ${model.countParams()} parameters, weights ${digest}, outputs ${JSON.stringify(model.outputs.map((one) => one.shape))}`);
}

const [out, what] = process.argv.slice(2);
await tf.setBackend('cpu');
if (what === 'article') {
  await save(out, 'article', article([2, 2, 2]), { shards: 3 });
  await save(out, 'article-28', article([1, 2, 2]), { shards: 3 });
} else {
  const made = { sequential: small(), conditional: conditional(), nested: nested(), bilinear: bilinear() };
  Object.values(made).forEach(randomise);
  await save(out, 'sequential', made.sequential, { shards: 2 });
  await save(out, 'conditional', made.conditional);
  await save(out, 'nested', made.nested);
  await save(out, 'bilinear', made.bilinear);
  for (const dtype of ['uint8', 'uint16', 'float16']) await save(out, dtype, made.sequential, { dtype });
}
