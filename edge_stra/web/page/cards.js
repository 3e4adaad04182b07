// One card for each face or person in view, with live bars.
import { settings } from "/controls.js";
import { byId, clock, colorName, make, nameOf, percent } from "/words.js";

const LEAVE_S = 0.7; // a card outlives a short miss of the detector
const SPEAK_MS = 3000;
const cards = new Map(); // track -> {item, parts, seen_s, began_s}
let spokenAt = -Infinity;
let newest_s = -Infinity;

export function showCards(scene) {
  if (scene.time_s < newest_s) clear();
  newest_s = scene.time_s;
  for (const row of scene.rows) {
    const key = row.track ?? `box ${scene.rows.indexOf(row)}`;
    const kind = row.probabilities ? "face" : "person";
    let card = cards.get(key);
    if (card === undefined || card.kind !== kind) {
      card?.item.remove();
      card = { kind, ...(kind === "face" ? faceCard(row) : personCard()), began_s: scene.time_s };
      cards.set(key, card);
      byId("cards").append(card.item);
    }
    card.seen_s = scene.time_s;
    card.update(row, scene.time_s - card.began_s);
  }
  for (const [key, card] of cards) {
    card.item.classList.toggle("leaving", card.seen_s < scene.time_s);
    if (scene.time_s - card.seen_s > LEAVE_S) {
      card.item.remove();
      cards.delete(key);
    }
  }
  byId("nobody").hidden = cards.size > 0;
  byId("cards").classList.toggle("many", cards.size > 2 && scene.rows.some((row) => row.probabilities));
  speak(scene.rows);
}

function clear() {
  cards.forEach((card) => card.item.remove());
  cards.clear();
}

function frame() {
  const item = make("li", "card");
  const head = item.appendChild(make("header"));
  const parts = { title: make("h3"), track: make("span"), value: make("b") };
  head.append(parts.title, parts.track, parts.value);
  const bars = item.appendChild(make("div", "bars"));
  return { item, parts, bars };
}

function bar(bars, name) {
  const row = bars.appendChild(make("div", "row"));
  const gauge = make("div", "gauge");
  const fill = gauge.appendChild(make("i"));
  const number = make("output");
  row.append(make("span", "", name), gauge, number);
  return { row, gauge, fill, number };
}

function faceCard(first) {
  const { item, parts, bars } = frame();
  const rows = new Map(Object.keys(first.probabilities).map((name) => [name, bar(bars, name)]));
  rows.forEach((one, name) => one.row.style.setProperty("--color", `var(${colorName(name)})`));
  const update = (row) => {
    const name = nameOf(row);
    item.style.setProperty("--color", `var(${colorName(name)})`);
    parts.title.textContent = name;
    parts.track.textContent = row.track === undefined ? "" : `face ${row.track}`;
    parts.value.textContent = row.probability == null ? "" : percent(row.probability);
    const best = Object.entries(row.probabilities).reduce((a, b) => (b[1] > a[1] ? b : a), ["", -1])[0];
    for (const [label, part] of Object.entries(row.probabilities)) {
      const one = rows.get(label);
      if (one === undefined) continue;
      one.fill.style.transform = `scaleX(${part})`;
      one.number.textContent = percent(part);
      one.row.classList.toggle("top", label === best);
    }
  };
  return { item, update };
}

// A person's bar is the distance; the mark is the threshold, which a known person's bar does not pass.
function personCard() {
  const { item, parts, bars } = frame();
  const one = bar(bars, "distance");
  one.row.classList.add("top");
  const mark = one.gauge.appendChild(make("u"));
  const update = (row, inView_s) => {
    const name = nameOf(row);
    const span = settings.threshold_range?.[1] || 2;
    item.style.setProperty("--color", `var(${colorName(name)})`);
    parts.title.textContent = name;
    parts.track.textContent = row.track === undefined ? "" : `person ${row.track}`;
    parts.value.textContent = clock(inView_s);
    one.fill.style.transform = `scaleX(${Math.min(1, (row.distance ?? 0) / span)})`;
    one.number.textContent = row.distance == null ? "–" : row.distance.toFixed(2);
    mark.style.left = `${(100 * (settings.threshold ?? 0)) / span}%`;
  };
  return { item, update };
}

// For who can't see the picture: who is there and how they look, in words, at most every few seconds.
function speak(rows) {
  const text = rows.map((row) => `${row.probabilities ? "Face" : "Person"} ${row.track ?? ""}: ${nameOf(row)}`).join(". ");
  const now = performance.now();
  if (text === byId("spoken").textContent || now - spokenAt < SPEAK_MS) return;
  spokenAt = now;
  byId("spoken").textContent = text;
}
