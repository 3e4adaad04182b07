// The settings: shown as the app has them, changed by asking it.
import { byId, percent } from "/words.js";

const PAUSE_MS = 80; // while a slider moves, the app hears of it this often
const NOTICE_MS = 6000;
export const settings = {};
let facesShown = null;
let timer = 0;
let dueAt = 0;
let noticeTimer = 0;

/** Shows a snapshot of the app's settings. */
export function showSettings(snapshot) {
  const { kind, ...news } = snapshot;
  const ended = settings.recording && !news.recording;
  if (news.notice && (ended || news.notice !== settings.notice)) tell(news.notice);
  Object.assign(settings, news);
  const slider = byId("threshold");
  const [low, high] = settings.threshold_range;
  slider.min = low;
  slider.max = high;
  slider.step = (high - low) / 100;
  if (!timer && !slider.matches(":active")) slider.value = settings.threshold; // not under the finger
  showThreshold();
  const model = byId("model");
  byId("model-field").hidden = settings.models.length < 2;
  if ([...model.options].map((o) => o.value).join("\n") !== settings.models.join("\n")) {
    model.replaceChildren(...settings.models.map((name) => new Option(name, name)));
  }
  model.value = settings.model;
  byId("privacy").checked = settings.privacy;
  byId("attention-field").hidden = settings.attention === null;
  byId("attention").checked = settings.attention === true;
  const record = byId("record");
  record.setAttribute("aria-pressed", String(settings.recording));
  record.querySelector("span").textContent = settings.recording ? "Stop recording" : "Start recording";
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
  byId("threshold-value").textContent = facesShown === false ? value.toFixed(2) : percent(value);
}

/** A line that goes away by itself. */
export function tell(text) {
  clearTimeout(noticeTimer);
  byId("notice").textContent = text;
  byId("notice").hidden = false;
  noticeTimer = setTimeout(() => (byId("notice").hidden = true), NOTICE_MS);
}

async function ask(wish) {
  try {
    const answer = await fetch("/api/controls", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(wish),
    });
    const content = await answer.json();
    if (!answer.ok) throw new Error(content.error);
    showSettings(content);
  } catch (error) {
    if (settings.models) showSettings(settings); // back to what holds
    tell(error instanceof TypeError ? "The app can't be reached; nothing was changed." : error.message);
  }
}

byId("threshold").addEventListener("input", () => {
  showThreshold();
  clearTimeout(timer);
  const now = performance.now();
  if (dueAt < now) dueAt = now + PAUSE_MS;
  timer = setTimeout(() => {
    timer = 0;
    ask({ threshold: Number(byId("threshold").value) });
  }, dueAt - now);
});
for (const name of ["privacy", "attention"]) {
  byId(name).addEventListener("change", (event) => ask({ [name]: event.target.checked }));
}
byId("model").addEventListener("change", (event) => ask({ model: event.target.value }));
byId("record").addEventListener("click", () => ask({ recording: !settings.recording }));
byId("controls").addEventListener("submit", (event) => event.preventDefault());
