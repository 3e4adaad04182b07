// Small things that all parts of the page share.
export const EXPRESSIONS = ["anger", "disgust", "fear", "happiness", "sadness", "surprise", "neutral"];
const IDENTITY_COLORS = 7;
const met = new Map();

export const byId = (id) => document.getElementById(id);
export const percent = (part) => `${Math.round(100 * part)}%`;

/** Minutes and seconds, with hours where there are any. */
export function clock(seconds) {
  const whole = Math.floor(seconds);
  const parts = [Math.floor(whole / 60) % 60, whole % 60].map((n, i) => String(n).padStart(i ? 2 : 1, "0"));
  return whole < 3600 ? parts.join(":") : `${Math.floor(whole / 3600)}:${parts.join(":").padStart(5, "0")}`;
}

/** What a face shows or who a person is. */
export const nameOf = (row) => (row.probabilities ? row.label ?? "unsure" : row.identity ?? "unknown");

/** The custom property of a name's colour: an expression's own, or the next free one for a person. */
export function colorName(name) {
  if (EXPRESSIONS.includes(name)) return `--${name}`;
  if (name === "unknown" || name === "unsure") return "--neutral";
  if (!met.has(name)) met.set(name, met.size % IDENTITY_COLORS);
  return `--id-${met.get(name)}`;
}

/** An element with a class and a text. */
export function make(tag, className = "", text = "") {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text) element.textContent = text;
  return element;
}

/** The row with the largest box, or undefined. */
export function largest(rows) {
  const area = (row) => row.box_xywh[2] * row.box_xywh[3];
  return rows.reduce((best, row) => (best === undefined || area(row) > area(best) ? row : best), undefined);
}
