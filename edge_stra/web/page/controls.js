// The settings: shown as the app has them, changed by asking it.
import { byId, percent } from "/words.js";

const PAUSE_MS = 80; // while a slider moves, the app hears of it this often
const NOTICE_MS = 6000;
const ANSWER_MS = 10000; // an app that takes longer than this to answer is out of reach
export const settings = {}; // as the app last told them
// What was set here is shown as if granted until the app has answered: news that left before it must not undo it.
let wanted = {}; // not sent yet
let asked = null; // sent and not answered; one request at a time, so that the app hears wishes in their order
let facesShown = null;
let timer = 0;
let dueAt = 0;
let noticeTimer = 0;

/** Shows a snapshot of the app's settings. */
export function showSettings(snapshot) {
  const { kind, ...came } = snapshot;
  const news = came.changes < settings.changes ? settings : came; // an answer may be overtaken by newer news
  const ended = settings.recording && !news.recording;
  if (news.notice && (ended || news.notice !== settings.notice)) tell(news.notice);
  Object.assign(settings, news);
  const shown = { ...settings, ...asked, ...wanted };
  const slider = byId("threshold");
  const [low, high] = settings.threshold_range;
  slider.min = low;
  slider.max = high;
  slider.step = (high - low) / 100;
  if (!slider.matches(":active")) slider.value = shown.threshold; // not under the finger
  showThreshold();
  const model = byId("model");
  byId("model-field").hidden = settings.models.length < 2;
  if ([...model.options].map((o) => o.value).join("\n") !== settings.models.join("\n")) {
    model.replaceChildren(...settings.models.map((name) => new Option(name, name)));
  }
  model.value = shown.model;
  byId("privacy").checked = shown.privacy;
  byId("attention-field").hidden = settings.attention === null;
  byId("attention").checked = shown.attention === true;
  const record = byId("record");
  record.setAttribute("aria-pressed", String(shown.recording));
  record.querySelector("span").textContent = shown.recording ? "Stop recording" : "Start recording";
}

/** Words the threshold for faces or for people. */
export function showTask(faces) {
  if (faces === facesShown) return;
  facesShown = faces;
  byId("threshold-hint").textContent = faces
    ? "The least probability that names an expression."
    : "The largest distance that names a person; beyond it, they are unknown.";
  byId("cards-title").textContent = faces ? "Faces" : "People";
  showThreshold();
}

function showThreshold() {
  const value = Number(byId("threshold").value);
  const faces = facesShown ?? (settings.threshold_range?.[1] ?? 1) <= 1; // before anybody was seen: a distance goes beyond 1
  byId("threshold-value").textContent = faces ? percent(value) : value.toFixed(2);
}

/** A line that goes away by itself. */
export function tell(text) {
  clearTimeout(noticeTimer);
  byId("notice").textContent = text;
  byId("notice").hidden = false;
  noticeTimer = setTimeout(() => (byId("notice").hidden = true), NOTICE_MS);
}

function ask(wish) {
  Object.assign(wanted, wish);
  send();
}

async function send() {
  if (asked) return; // what comes meanwhile goes with the next request
  while (Object.keys(wanted).length) {
    [asked, wanted] = [wanted, {}];
    let trouble = "";
    const answer = await post(asked).catch((error) => {
      trouble = error.message;
      if (error instanceof TypeError) trouble = "The app can't be reached; nothing was changed.";
      if (error.name === "AbortError") trouble = "The app does not answer; look whether it has changed.";
      return settings; // back to what holds
    });
    asked = null;
    if (answer.models) showSettings(answer);
    if (trouble) tell(trouble);
  }
}

async function post(wishes) {
  const patience = new AbortController();
  const limit = setTimeout(() => patience.abort(), ANSWER_MS);
  try {
    const answer = await fetch("/api/controls", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wishes),
      signal: patience.signal,
    });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    return content;
  } finally {
    clearTimeout(limit);
  }
}

byId("threshold").addEventListener("input", () => {
  showThreshold();
  wanted.threshold = Number(byId("threshold").value);
  clearTimeout(timer);
  const now = performance.now();
  if (dueAt < now) dueAt = now + PAUSE_MS;
  timer = setTimeout(send, dueAt - now);
});
for (const name of ["privacy", "attention"]) {
  byId(name).addEventListener("change", (event) => ask({ [name]: event.target.checked }));
}
byId("model").addEventListener("change", (event) => ask({ model: event.target.value }));
byId("record").addEventListener("click", () => ask({ recording: byId("record").getAttribute("aria-pressed") !== "true" }));
byId("controls").addEventListener("submit", (event) => event.preventDefault());
