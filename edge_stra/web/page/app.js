// The page's beginning: the connection to the app, and what of its news goes where.
import { showCards } from "/cards.js";
import { settings, showSettings, showTask, tell } from "/controls.js";
import { showTimeline } from "/timeline.js";
import { byId, clock } from "/words.js";

const STALE_MS = 3000;
const DEAD_MS = 10000; // the app tells its status every second: so long without a word there is nobody at the other end
const WAITS_MS = [500, 1000, 2000, 4000, 8000];
const picture = byId("picture");
let socket = null;
let failures = 0;
let timer = 0;
let sceneAt = 0;
let heardAt = 0;
let streams = 0;

function connect() {
  clearTimeout(timer);
  const opened = new WebSocket(`${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/events`);
  socket = opened;
  opened.onopen = () => {
    failures = 0;
    settings.changes = 0; // an app that was started again counts anew
    sceneAt = heardAt = performance.now();
    lost(false);
    watch();
  };
  opened.onmessage = (event) => {
    if (opened === socket) hear(JSON.parse(event.data));
  };
  opened.onclose = () => {
    if (opened === socket) disconnected();
  };
}

function hear(news) {
  heardAt = performance.now();
  if (news.kind === "scene") {
    // After a stall the app may have given up the stream of pictures, which nothing else would tell.
    if (heardAt - sceneAt > STALE_MS) watch();
    sceneAt = heardAt;
    const faces = news.rows.some((row) => row.probabilities);
    if (news.rows.length) showTask(faces);
    showCards(news);
    showTimeline(news);
  } else if (news.kind === "controls") {
    showSettings(news);
  } else if (news.kind === "status") {
    showStatus(news);
  }
}

async function disconnected() {
  const closed = socket;
  lost(true);
  // The handshake does not tell why it failed: where the token is no longer known, the page must ask for it.
  const answer = await fetch("/api/status").catch(() => null);
  if (answer && answer.status === 401) return location.reload();
  if (closed !== socket) return; // "Try now" was quicker
  const wait = WAITS_MS[Math.min(failures++, WAITS_MS.length - 1)] * (0.8 + 0.4 * Math.random());
  countDown(performance.now() + wait);
}

function countDown(until) {
  const left = until - performance.now();
  if (left <= 0) {
    byId("lost-next").textContent = "Trying again…";
    return connect();
  }
  byId("lost-next").textContent = `Trying again in ${Math.ceil(left / 1000)} s.`;
  timer = setTimeout(() => countDown(until), Math.min(left, 250));
}

function lost(is) {
  byId("lost").hidden = !is;
  document.body.classList.toggle("lost", is);
  if (is) byId("stale").hidden = true;
}

// A page that nobody looks at asks for no pictures: the app then encodes none.
function watch() {
  if (document.hidden) picture.removeAttribute("src");
  else picture.src = `/stream.mjpg?n=${++streams}`;
}

function showStatus(status) {
  byId("source").textContent = status.source ?? "Waiting for the first picture";
  byId("fps").textContent = status.fps.toFixed(1);
  byId("lag").textContent = status.lag_ms ? status.lag_ms.p50.toFixed(0) : "–";
  byId("recording").hidden = !status.recording;
  byId("recording-time").textContent = clock(status.recording_s ?? 0);
  const rows = Object.entries(status.stages_ms).map(([name, ms]) => {
    const row = document.createElement("tr");
    for (const text of [name, ms.p50.toFixed(1), ms.p90.toFixed(1)]) {
      row.appendChild(document.createElement("td")).textContent = text;
    }
    return row;
  });
  byId("stages").replaceChildren(...rows);
  const frames = status.frames.toLocaleString("en");
  byId("totals").textContent = `${frames} pictures in ${clock(status.uptime_s)}, ${status.clients} open connections`;
}

setInterval(() => {
  const silent = performance.now() - sceneAt;
  const live = socket !== null && socket.readyState === WebSocket.OPEN;
  if (live && performance.now() - heardAt > DEAD_MS) {
    // A plug that was pulled or a network that was left says no goodbye.
    socket.onclose = null;
    socket.close();
    return disconnected();
  }
  byId("stale").hidden = !live || silent < STALE_MS;
  byId("stale").textContent = `No new picture for ${Math.floor(silent / 1000)} s`;
}, 500);
byId("retry").addEventListener("click", () => {
  failures = 0;
  if (socket.readyState >= WebSocket.CLOSING) connect();
});
document.addEventListener("visibilitychange", watch);
window.addEventListener("offline", () => tell("This device is offline."));
connect();
