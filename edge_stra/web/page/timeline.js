// The last minute on a canvas: the largest face's probabilities, or who was in view when.
import { settings } from "/controls.js";
import { byId, colorName, largest, make, nameOf, percent } from "/words.js";

const SPAN_S = 60;
const BREAK_S = 1; // a longer gap is drawn as one
const STEP_S = 0.1; // points closer than this can't be told apart
const MAX_ROWS = 6;
const SPEAK_MS = 5000;
const CALM_MS = 1000; // between two drawings for who wants no motion
const FONT = '11px ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, sans-serif';
const canvas = byId("timeline");
const calm = matchMedia("(prefers-reduced-motion: reduce)");
const dark = matchMedia("(prefers-color-scheme: dark)");
let style = getComputedStyle(document.documentElement);
let points = []; // {time_s, track, probabilities}
let presence = new Map(); // name -> [[from_s, to_s], ...]
let newest_s = -Infinity;
let faces = true;
let waiting = false;
let drawnAt = 0;
let spokenAt = -Infinity;

/** Takes a scene's rows and draws with the screen's next picture. */
export function showTimeline(scene) {
  if (scene.time_s < newest_s) {
    points = [];
    presence = new Map();
  }
  newest_s = scene.time_s;
  if (scene.rows.length) faces = scene.rows.some((row) => row.probabilities);
  if (faces) addFace(largest(scene.rows.filter((row) => row.probabilities)), scene.time_s);
  else addPeople(scene.rows, scene.time_s);
  if (waiting || (calm.matches && performance.now() - drawnAt < CALM_MS)) return;
  waiting = true;
  requestAnimationFrame(draw);
}

function addFace(row, time_s) {
  const last = points[points.length - 1];
  if (row && (!last || time_s - last.time_s >= STEP_S)) points.push({ time_s, track: row.track, probabilities: row.probabilities });
  while (points.length && points[0].time_s < time_s - SPAN_S - BREAK_S) points.shift();
  if (row) showLegend(row);
}

function addPeople(rows, time_s) {
  for (const name of new Set(rows.map(nameOf))) {
    const spans = presence.get(name) ?? [];
    const last = spans[spans.length - 1];
    if (last && time_s - last[1] <= BREAK_S) last[1] = time_s;
    else spans.push([time_s, time_s]);
    presence.set(name, spans);
  }
  for (const [name, spans] of presence) {
    const kept = spans.filter((span) => span[1] > time_s - SPAN_S);
    if (kept.length) presence.set(name, kept);
    else presence.delete(name);
  }
}

function showLegend(row) {
  const names = Object.keys(row.probabilities);
  const legend = byId("legend");
  if (legend.children.length !== names.length) {
    legend.replaceChildren(...names.map((name) => make("li", "", name)));
    names.forEach((name, i) => legend.children[i].style.setProperty("--color", `var(${colorName(name)})`));
  }
  names.forEach((name, i) => legend.children[i].classList.toggle("top", name === row.label));
}

const color = (name) => style.getPropertyValue(name).trim();

function draw() {
  waiting = false;
  drawnAt = performance.now();
  const width = canvas.clientWidth;
  const height = canvas.clientHeight;
  const scale = window.devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
    canvas.width = Math.round(width * scale);
    canvas.height = Math.round(height * scale);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(scale, 0, 0, scale, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.font = FONT;
  pen.textBaseline = "middle";
  byId("legend").hidden = !faces;
  const rows = faces ? [] : latest();
  const gutter = faces ? 44 : Math.min(110, 14 + Math.max(24, ...rows.map((name) => pen.measureText(name).width)));
  const box = { left: gutter, top: 8, width: width - gutter - 4, height: height - 30 };
  drawTimes(pen, box);
  if (faces) drawFace(pen, box);
  else drawPeople(pen, box, rows);
  describe(rows);
}

/** The names that were seen last, at most MAX_ROWS of them, in the order in which they came. */
function latest() {
  const left = ([, spans]) => spans[spans.length - 1][1];
  const shown = new Set([...presence].sort((a, b) => left(b) - left(a)).slice(0, MAX_ROWS).map(([name]) => name));
  return [...presence.keys()].filter((name) => shown.has(name));
}

const across = (box, time_s) => box.left + box.width * (1 - (newest_s - time_s) / SPAN_S);

function drawTimes(pen, box) {
  pen.lineWidth = 1;
  for (let ago_s = 0; ago_s <= SPAN_S; ago_s += 15) {
    const x = Math.round(box.left + box.width * (1 - ago_s / SPAN_S)) - 0.5;
    pen.strokeStyle = color("--line");
    pen.beginPath();
    pen.moveTo(x, box.top);
    pen.lineTo(x, box.top + box.height);
    pen.stroke();
    pen.fillStyle = color("--soft");
    pen.textAlign = ago_s === 0 ? "right" : ago_s === SPAN_S ? "left" : "center";
    pen.fillText(ago_s ? `−${ago_s} s` : "now", x, box.top + box.height + 14);
  }
}

function drawFace(pen, box) {
  const up = (part) => box.top + box.height * (1 - part);
  pen.textAlign = "right";
  for (const part of [0, 0.5, 1]) {
    pen.strokeStyle = color("--line");
    line(pen, [[box.left, Math.round(up(part)) + 0.5], [box.left + box.width, Math.round(up(part)) + 0.5]]);
    pen.fillStyle = color("--soft");
    pen.fillText(percent(part), box.left - 7, up(part));
  }
  pen.setLineDash([3, 4]);
  pen.strokeStyle = color("--soft");
  const least = up(settings.threshold ?? 0);
  line(pen, [[box.left, least], [box.left + box.width, least]]);
  pen.setLineDash([]);
  const last = points[points.length - 1];
  if (!last) return;
  pen.save();
  pen.beginPath();
  pen.rect(box.left, 0, box.width + 4, box.top + box.height + 4);
  pen.clip();
  pen.lineJoin = "round";
  const order = Object.keys(last.probabilities).sort((a, b) => last.probabilities[a] - last.probabilities[b]);
  for (const name of order) {
    const top = name === order[order.length - 1];
    pen.strokeStyle = color(colorName(name));
    pen.lineWidth = top ? 2.5 : 1.4;
    pen.globalAlpha = top ? 1 : 0.75;
    for (const piece of pieces()) line(pen, piece.map((p) => [across(box, p.time_s), up(p.probabilities[name] ?? 0)]));
  }
  pen.restore();
}

// A new face, or one that was away, begins a line of its own.
function pieces() {
  const found = [];
  points.forEach((point, i) => {
    const before = points[i - 1];
    if (before && before.track === point.track && point.time_s - before.time_s <= BREAK_S) found[found.length - 1].push(point);
    else found.push([point]);
  });
  return found;
}

function line(pen, places) {
  pen.beginPath();
  places.forEach(([x, y], i) => (i ? pen.lineTo(x, y) : pen.moveTo(x, y)));
  pen.stroke();
}

function drawPeople(pen, box, rows) {
  const step = Math.min(28, box.height / Math.max(1, rows.length));
  rows.forEach((name, i) => {
    const middle = box.top + step * (i + 0.5);
    pen.textAlign = "right";
    pen.fillStyle = color("--ink");
    pen.fillText(name, box.left - 8, middle, box.left - 12);
    pen.fillStyle = color(colorName(name));
    for (const [from_s, to_s] of presence.get(name)) {
      const left = Math.max(box.left, across(box, from_s));
      pen.beginPath();
      pen.roundRect(left, middle - step * 0.28, Math.max(3, across(box, to_s) - left), step * 0.56, 3);
      pen.fill();
    }
  });
}

function describe(rows) {
  if (drawnAt - spokenAt < SPEAK_MS) return;
  spokenAt = drawnAt;
  const last = points[points.length - 1];
  const now = last && Object.entries(last.probabilities).sort((a, b) => b[1] - a[1])[0];
  const face = now ? `The largest face now: ${now[0]} ${percent(now[1])}` : "No face yet";
  canvas.setAttribute("aria-label", faces ? face : `In view within the last minute: ${rows.join(", ") || "nobody"}`);
}

dark.addEventListener("change", () => (style = getComputedStyle(document.documentElement)));
