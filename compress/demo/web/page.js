// The page: an image comes in, every network classifies it. Names are only ever set as text.

import { classify, measure, openModels } from "./classify.js";
import { decode } from "./decode.js";

const SHOWN = 5;
const find = (id) => document.getElementById(id);
const [status, preview, invert] = [find("status"), find("preview"), find("invert")];

let models = [];
let picture = null;
// Counts images, so that an answer that comes late is not shown with a later image.
let latest = 0;

function element(tag, className, text) {
  const made = document.createElement(tag);
  made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function say(text, state) {
  status.textContent = text;
  document.body.dataset.state = state;
}

function formatSize(bytes) {
  return bytes >= 1e6 ? `${(bytes / 1e6).toFixed(1)} MB` : `${Math.ceil(bytes / 1000)} KB`;
}

function formatTime(milliseconds) {
  return `${milliseconds.toPrecision(milliseconds < 100 ? 2 : 3)} ms`;
}

function makeFact(value, name) {
  const fact = element("div", "fact");
  fact.append(element("dd", "", value), element("dt", "", name));
  return fact;
}

/** Show a network's panel, with its answer as soon as there is one. */
function makePanel(model) {
  const panel = element("section", "panel");
  const [, height, width] = model.input_size;
  const time = makeFact("–", "per image, here");
  const facts = element("dl", "facts");
  facts.append(makeFact(formatSize(model.bytes), "file"), time);
  if (model.params) facts.append(makeFact(model.params.toLocaleString("en"), "parameters"));
  const square = element("canvas", "seen");
  Object.assign(square, { width, height });
  square.setAttribute("role", "img");
  square.setAttribute("aria-label", "the image as the network sees it");
  const figure = element("figure", "");
  figure.append(square, element("figcaption", "", `as the network sees it, ${width} × ${height}`));
  const answer = element("div", "answer");
  const list = element("ol", "classes");
  answer.append(figure, list);
  panel.append(element("h2", "", model.name), facts, answer);
  return { panel, square, list, time: time.firstChild };
}

function makeBar(name, probability) {
  const row = element("li", "");
  const bar = element("span", "bar");
  const filled = element("i", "");
  filled.style.width = `${100 * probability}%`;
  bar.append(filled);
  const percent = `${(100 * probability).toFixed(1)} %`;
  row.append(element("span", "name", name), element("span", "percent", percent), bar);
  return row;
}

function paint(canvas, { width, height, channels, data }) {
  const pixels = new ImageData(width, height);
  for (let place = 0; place < width * height; place++) {
    for (let channel = 0; channel < 3; channel++) {
      pixels.data[4 * place + channel] = data[channels * place + (channels === 3 ? channel : 0)];
    }
    pixels.data[4 * place + 3] = 255;
  }
  canvas.getContext("2d").putImageData(pixels, 0, 0);
}

async function answer() {
  const number = ++latest;
  const looks = [];
  for (const { model, view } of models) {
    const { seen, probabilities } = await classify(model, picture, invert.checked);
    if (number !== latest) return;
    looks.push(seen);
    paint(view.square, seen);
    const order = probabilities.map((_, index) => index);
    order.sort((a, b) => probabilities[b] - probabilities[a]);
    const best = order.slice(0, SHOWN);
    view.list.replaceChildren(...best.map((i) => makeBar(model.classes[i], probabilities[i])));
  }
  say("measuring …", "busy");
  for (const [index, { model, view }] of models.entries()) {
    const milliseconds = await measure(model, looks[index]);
    if (number !== latest) return;
    view.time.textContent = formatTime(milliseconds);
  }
  say("", "ready");
}

async function show(file) {
  try {
    say("classifying …", "busy");
    picture = await decode(file);
    URL.revokeObjectURL(preview.src);
    preview.src = URL.createObjectURL(file);
    preview.hidden = false;
    await answer();
  } catch (error) {
    say(`${file.name ?? "the image"}: ${error.message}`, "failed");
  }
}

async function showSample(name) {
  try {
    await show(await (await fetch(name)).blob());
  } catch (error) {
    say(`${name}: ${error.message}`, "failed");
  }
}

function takeFrom(transfer) {
  const file = [...transfer.files].find((each) => each.type.startsWith("image/"));
  if (file) show(file);
  else say("no image in that; choose a file", "failed");
}

function listen() {
  find("file").addEventListener("change", (event) => {
    if (event.target.files.length) show(event.target.files[0]);
    // The same file can be chosen again.
    event.target.value = "";
  });
  invert.addEventListener("change", () => picture && answer());
  addEventListener("dragover", (event) => {
    event.preventDefault();
    document.body.classList.add("over");
  });
  addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) document.body.classList.remove("over");
  });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("over");
    takeFrom(event.dataTransfer);
  });
  addEventListener("paste", (event) => takeFrom(event.clipboardData));
  for (const button of document.querySelectorAll("[data-sample]")) {
    button.addEventListener("click", () => showSample(button.dataset.sample));
  }
}

async function start() {
  try {
    const opened = await openModels();
    models = opened.map((model) => ({ model, view: makePanel(model) }));
    find("panels").replaceChildren(...models.map(({ view }) => view.panel));
    listen();
    find("choose").hidden = false;
    await showSample(document.querySelector("[data-sample]").dataset.sample);
  } catch (error) {
    say(`the networks cannot be opened: ${error.message}`, "failed");
  }
}

start();
