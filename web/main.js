// The page: a webcam or a picture, the .tflite in WebAssembly, bars. No server has a part in it.
import { loadAndCompile, loadLiteRt, Tensor } from "@litertjs/core";
import { guideSquare, openCamera, squareFinder, stopStream, take } from "./camera.js";
import { prepared, tensorOf } from "./pixels.js";
import { largest, smooth, softmax } from "./probabilities.js";

const RATE_MS = 1000;
const byId = (id) => document.getElementById(id);
const video = byId("video");
const still = byId("still");
const findSquare = squareFinder();
let about = null; // model.json
let model = null;
let state = null; // of the smoothing
let running = 0; // counts starts; a loop ends when it is no longer the last
let frames = 0;
let ratedAt = 0;

async function load() {
  about = await (await fetch("model.json")).json();
  const bytes = new Uint8Array(await (await fetch(about.file)).arrayBuffer());
  if (crypto.subtle) {
    const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
    const hex = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
    if (hex !== about.sha256) throw new Error(`${about.file} does not match model.json; build the page again.`);
  }
  await loadLiteRt("wasm/");
  model = await loadAndCompile(bytes, { accelerator: "wasm" });
  byId("bars").replaceChildren(...about.spec.labels.map(bar));
  byId("model").textContent = `${about.spec.name}, ${about.quantize}`;
  say("Ready. Pictures stay in this browser.");
  byId("start").disabled = byId("choose").disabled = false;
}

function bar(label) {
  const row = document.createElement("li");
  row.dataset.label = label;
  row.append(...["span", "div", "output"].map((tag) => document.createElement(tag)));
  row.children[0].textContent = label;
  row.children[1].append(document.createElement("i"));
  row.style.setProperty("--color", `var(--${label}, var(--other))`);
  return row;
}

/** Logits for the RGB bytes of a face. */
async function run(face) {
  const [height, width] = about.spec.input.size_hw;
  const input = new Tensor(tensorOf(face, about.spec.input), [1, height, width, 3]);
  const outputs = await model.run(input);
  const logits = Array.from(outputs[0].toTypedArray());
  [input, ...outputs].forEach((tensor) => tensor.delete());
  return logits;
}

async function predict(source, width, height, time_s) {
  const square = source === video ? await findSquare(source, width, height) : guideSquare(width, height);
  showGuide(square, width, height);
  const began = performance.now();
  const face = take(source, square);
  const probabilities = softmax(await run(face));
  const passed_ms = performance.now() - began;
  state = smooth(source === video ? state : null, probabilities, time_s, about.smoothing);
  show(state.probabilities);
  if (debug) Object.assign(debug, { face, probabilities, smoothed: state.probabilities, frames: debug.frames + 1 });
  return passed_ms;
}

function showGuide({ left, top, side }, width, height) {
  const guide = byId("guide");
  guide.hidden = false;
  guide.style.left = `${(100 * left) / width}%`;
  guide.style.top = `${(100 * top) / height}%`;
  guide.style.width = `${(100 * side) / width}%`;
  guide.style.height = `${(100 * side) / height}%`;
}

function show(probabilities) {
  const top = largest(probabilities);
  const label = about.spec.labels[top];
  byId("label").textContent = label;
  byId("percent").textContent = `${Math.round(100 * probabilities[top])}%`;
  byId("result").style.setProperty("--color", `var(--${label}, var(--other))`);
  [...byId("bars").children].forEach((row, i) => {
    row.classList.toggle("top", i === top);
    row.children[1].firstChild.style.transform = `scaleX(${probabilities[i]})`;
    row.children[2].textContent = `${Math.round(100 * probabilities[i])}%`;
  });
}

async function start() {
  stop();
  const mine = running;
  let stream;
  try {
    stream = await openCamera();
  } catch (error) {
    return say(error.message);
  }
  if (mine !== running) return stopStream(stream); // while the browser asked, another start or a picture was chosen
  video.srcObject = stream;
  stream.getVideoTracks()[0].onended = () => {
    if (mine !== running) return;
    stop();
    say("The webcam is gone; connect it and start again.");
  };
  await video.play();
  state = null;
  [ratedAt, frames] = [performance.now(), 0];
  video.hidden = false;
  still.hidden = true;
  byId("stage").classList.add("mirrored");
  byId("start").textContent = "Stop webcam";
  say("Let your face fill the square.");
  const next = async () => {
    if (mine !== running) return;
    if (video.videoWidth) {
      byId("stage").style.aspectRatio = `${video.videoWidth} / ${video.videoHeight}`;
      try {
        rate(await predict(video, video.videoWidth, video.videoHeight, performance.now() / 1000));
      } catch (error) {
        stop();
        return say(`Stopped: ${error.message}`);
      }
    }
    if (video.requestVideoFrameCallback) video.requestVideoFrameCallback(next);
    else requestAnimationFrame(next);
  };
  next();
}

function rate(passed_ms) {
  frames += 1;
  const now = performance.now();
  if (now - ratedAt < RATE_MS) return;
  byId("rate").textContent = `${((1000 * frames) / (now - ratedAt)).toFixed(0)} fps, ${passed_ms.toFixed(0)} ms a picture`;
  [ratedAt, frames] = [now, 0];
}

function stop() {
  running += 1;
  stopStream(video.srcObject);
  video.srcObject = null;
  byId("start").textContent = "Start webcam";
  byId("rate").textContent = "";
}

async function choose(event) {
  const [file] = event.target.files;
  if (!file) return;
  event.target.value = ""; // or the same file could not be chosen again
  stop();
  try {
    still.src = URL.createObjectURL(file);
    await still.decode();
    URL.revokeObjectURL(still.src);
  } catch {
    return say(`${file.name} can't be read as a picture.`);
  }
  video.hidden = true;
  still.hidden = false;
  byId("stage").classList.remove("mirrored");
  byId("stage").style.aspectRatio = `${still.naturalWidth} / ${still.naturalHeight}`;
  try {
    await predict(still, still.naturalWidth, still.naturalHeight, performance.now() / 1000);
  } catch (error) {
    return say(`Stopped: ${error.message}`);
  }
  say("The square in the middle was taken for the face; crop the picture where it is elsewhere.");
}

const say = (text) => (byId("status").textContent = text);

// With ?debug the page shows its insides to tests, as window.edgeStra: what it saw last, and its parts.
const debug = new URLSearchParams(location.search).has("debug")
  ? { frames: 0, prepared, tensorOf, softmax, smooth, run: (face) => run(face) }
  : null;
if (debug) window.edgeStra = debug;
byId("start").addEventListener("click", () => (video.srcObject ? stop() : start()));
byId("choose").addEventListener("change", choose);
load().catch((error) => say(`The model can't be loaded: ${error.message}`));
