// The page's frame: which view is shown, the state that is read again and again, keys and the theme.

import { get, h, show } from "./dom.js";
import { jobView, overview, schedulesView, workersView } from "./fleet.js";
import { datasetView, datasetsView } from "./datasets.js";
import { playgroundView } from "./playground.js";

const TABS = [
  ["", "Jobs", "M4 6h16M4 12h10M4 18h13"],
  ["workers", "Workers", "M5 5h14v6H5zM5 13h14v6H5zM8 8h.01M8 16h.01"],
  ["schedules", "Schedules", "M12 7v5l3 2M12 3a9 9 0 1 0 .01 0"],
  ["datasets", "Datasets", "M4 4h7v7H4zM13 4h7v7h-7zM4 13h7v7H4zM13 13h7v7h-7z"],
  ["playground", "Playground", "M12 3l2.2 5.8L20 11l-5.8 2.2L12 19l-2.2-5.8L4 11l5.8-2.2z"],
];

const main = document.getElementById("main");
const INTERVAL_MS = 1000;

// What views get: the last state, the address, and how to draw again.
const page = { state: null, lost: null, path: [], query: new URLSearchParams(), draw, go, timers: [] };
let view = null;
let current = "";

// -- views -----------------------------------------------------------------------------------------

const VIEWS = {
  "": () => overview(page),
  jobs: () => jobView(page),
  workers: () => workersView(page),
  schedules: () => schedulesView(page),
  datasets: () => (page.path[1] ? datasetView(page) : datasetsView(page)),
  playground: () => playgroundView(page),
};

// Goes to an address of this page; `replace` leaves no entry in the history.
function go(address, replace = false) {
  if (replace) {
    history.replaceState(null, "", `#/${address}`);
    route();
  } else {
    location.hash = `#/${address}`;
  }
}

function route() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  page.path = path.split("/").map(decodeURIComponent);
  page.query = new URLSearchParams(query ?? "");
  const name = page.path[0] === "jobs" && !page.path[1] ? "" : page.path[0];
  const identity = `${name}/${page.path[1] ?? ""}`;
  if (identity !== current) {
    current = identity;
    view?.close?.();
    main.replaceChildren();
    view = (VIEWS[name] ?? VIEWS[""])();
    window.scrollTo(0, 0);
    document.title = `${TABS.find(([tab]) => tab === name)?.[1] ?? "Job"} · noisemill`;
  }
  tabs(name === "jobs" ? "" : name);
  view.route?.();
  draw();
}

function draw() {
  if (view && (page.state || page.lost || view.offline)) show(main, view.draw());
  banner();
}

function tabs(active) {
  show(document.getElementById("tabs"), TABS.map(([name, label, path]) =>
    h("a", { href: `#/${name}`, "aria-current": name === active ? "page" : null },
      h("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, h("svg:path", { d: path })), h("span", {}, label))));
}

// -- the state -------------------------------------------------------------------------------------

async function poll() {
  try {
    page.state = await get("api/state");
    page.lost = null;
  } catch (error) {
    page.lost = error.status === 401 ? "The token is no longer valid: open the address that noisemill ui printed."
      : error.status ? error.message : "noisemill ui does not respond. Trying again.";
  }
  view?.state?.();
  draw();
}

async function live() {
  for (;;) {
    if (!document.hidden) await poll();
    await new Promise((done) => { setTimeout(done, page.lost ? 2 * INTERVAL_MS : INTERVAL_MS); });
  }
}

function banner() {
  const { state, lost } = page;
  const away = state?.error && state.redis_expected;
  const text = lost ?? (away ? `Redis is away, so this is the last known state. Trying again. ${state.error}` : "");
  show(document.getElementById("banner"), text ? h("p", {}, text) : null);
  const pulse = document.getElementById("pulse");
  const [word, kind] = lost ? ["offline", "bad"] : !state ? ["…", ""] : state.error ? ["no Redis", away ? "bad" : "off"] : ["live", "good"];
  if (pulse.textContent !== word) pulse.textContent = word;
  pulse.className = `pulse ${kind}`;
}

// -- keys ------------------------------------------------------------------------------------------

const KEYS = [
  ["1 – 5", "Jobs, Workers, Schedules, Datasets, Playground"],
  ["← →", "previous and next page, or sample"],
  ["Home End", "first and last page"],
  ["Esc", "close a sample"],
  ["t", "light, dark, or as the system"],
  ["?", "these keys"],
];

function help(open) {
  const overlay = document.getElementById("overlay");
  if (!open) {
    show(overlay);
    return;
  }
  show(overlay, h("div", { class: "scrim", key: "help", onclick: () => help(false) },
    h("div", { class: "dialog dialog-small", role: "dialog", "aria-modal": "true", "aria-label": "Keys" },
      h("h2", {}, "Keys"),
      h("dl", { class: "keys" }, KEYS.map(([key, what]) => [h("dt", {}, key), h("dd", {}, what)])))));
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.closest("input, select, textarea")) return;
  if (event.key === "Escape" && document.querySelector("[data-key=help]")) help(false);
  else if (event.key === "?") help(!document.querySelector("[data-key=help]"));
  else if (event.key === "t") nextTheme();
  else if (/^[1-5]$/.test(event.key)) go(TABS[Number(event.key) - 1][0]);
  else if (!view?.key?.(event)) return;
  event.preventDefault();
});

document.querySelector(".skip").onclick = (event) => {
  event.preventDefault(); // Its fragment would be an address of a view.
  main.focus();
};
document.getElementById("keys").onclick = () => help(true);

// -- theme -----------------------------------------------------------------------------------------

const THEMES = ["auto", "light", "dark"];
const THEME_PATHS = {
  auto: "M12 3a9 9 0 1 0 .01 0M12 3v18",
  light: "M12 8a4 4 0 1 0 .01 0M12 2v2M12 20v2M2 12h2M20 12h2M5 5l1.4 1.4M17.6 17.6L19 19M5 19l1.4-1.4M17.6 6.4L19 5",
  dark: "M20 14.5A8.5 8.5 0 0 1 9.5 4a8.5 8.5 0 1 0 10.5 10.5z",
};

function theme() {
  try {
    return localStorage.getItem("noisemill-theme") ?? "auto";
  } catch {
    return "auto";
  }
}

function setTheme(name) {
  document.documentElement.dataset.theme = name;
  const button = document.getElementById("theme");
  button.title = `Theme: ${name} (t)`;
  show(button, h("svg", { viewBox: "0 0 24 24", "aria-hidden": "true" }, h("svg:path", { d: THEME_PATHS[name] })));
}

function nextTheme() {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  try {
    localStorage.setItem("noisemill-theme", next);
  } catch { /* Not remembered, where the browser stores nothing. */ }
  setTheme(next);
}

document.getElementById("theme").onclick = nextTheme;
setTheme(theme());
window.addEventListener("hashchange", route);
route();
live();
