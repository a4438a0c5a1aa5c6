// Elements, updates in place, requests, and numbers for people. Text is only ever set as text, never as HTML.

// An element: h("p", {class: "note"}, "text", child). Properties that begin with "on" are listeners, `style` an object
// of CSS properties, `key` what identifies it among its siblings.
export function h(tag, properties = {}, ...children) {
  const element = tag === "svg" || tag.startsWith("svg:")
    ? document.createElementNS("http://www.w3.org/2000/svg", tag.replace("svg:", ""))
    : document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element[name] = value;
    else if (name === "style") for (const [each, text] of Object.entries(value)) element.style.setProperty(each, text);
    else if (name === "key") element.dataset.key = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  append(element, children);
  return element;
}

function append(element, children) {
  for (const child of children) {
    if (Array.isArray(child)) append(element, child);
    else if (child !== null && child !== undefined && child !== false) element.append(child);
  }
}

const LISTENERS = ["onclick", "onchange", "oninput", "onsubmit", "onkeydown"];

// Makes the children of `target` those of `wanted`, and keeps what is there already: focus, scroll and images stay.
export function morphChildren(target, wanted) {
  const keyed = new Map();
  for (const child of target.childNodes) if (child.dataset?.key) keyed.set(child.dataset.key, child);
  let current = target.firstChild;
  for (const child of [...wanted.childNodes]) {
    const key = child.dataset?.key;
    let match = key ? keyed.get(key) : current && !current.dataset?.key && alike(current, child) ? current : null;
    if (match && !alike(match, child)) match = null;
    if (!match) {
      target.insertBefore(child, current);
      continue;
    }
    if (match === current) current = current.nextSibling;
    else target.insertBefore(match, current);
    morph(match, child);
  }
  while (current) {
    const next = current.nextSibling;
    current.remove();
    current = next;
  }
}

function alike(a, b) {
  return a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.dataset?.key ?? "") === (b.dataset?.key ?? "");
}

function morph(target, wanted) {
  if (target.nodeType !== Node.ELEMENT_NODE) {
    if (target.nodeValue !== wanted.nodeValue) target.nodeValue = wanted.nodeValue;
    return;
  }
  if (wanted.hasAttribute("data-own")) return; // It draws itself.
  for (const { name } of [...target.attributes]) {
    if (name !== "style" && !wanted.hasAttribute(name)) target.removeAttribute(name);
  }
  for (const { name, value } of wanted.attributes) {
    if (name !== "style" && target.getAttribute(name) !== value) target.setAttribute(name, value);
  }
  if (target.style.cssText !== wanted.style.cssText) target.style.cssText = wanted.style.cssText;
  for (const name of LISTENERS) target[name] = wanted[name];
  morphChildren(target, wanted);
  keepInput(target, wanted);
}

// What the user has set of an input is a property, not an attribute; a field in use is left alone.
function keepInput(target, wanted) {
  if (target === document.activeElement && target.type !== "checkbox") return;
  if (target.tagName === "SELECT") target.value = wanted.value;
  else if (target.tagName === "INPUT" && target.type === "checkbox") target.checked = wanted.checked;
  else if (target.tagName === "INPUT" && wanted.hasAttribute("value")) target.value = wanted.value;
}

export function show(target, ...children) {
  const wanted = h("div", {}, ...children);
  morphChildren(target, wanted);
}

// -- requests --------------------------------------------------------------------------------------

export class Failure extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function checked(response) {
  if (response.ok) return response;
  let message = `the server responds with status ${response.status}`;
  try {
    message = (await response.json()).error ?? message;
  } catch { /* Not JSON: the status has to do. */ }
  throw new Failure(message, response.status);
}

export async function get(path, signal) {
  return (await checked(await fetch(path, { signal, cache: "no-cache" }))).json();
}

export async function post(path, body = {}, signal) {
  const headers = { "content-type": "application/json", "x-noisemill": "1" };
  return checked(await fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal }));
}

let toastTimer = 0;

export function toast(message) {
  const place = document.getElementById("toast");
  place.textContent = message;
  place.className = "shown";
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { place.className = ""; }, 5000);
}

// -- numbers for people ----------------------------------------------------------------------------

export const whole = (number) => Math.round(number).toLocaleString("en-US");

export function rate(perSecond) {
  if (perSecond === null || perSecond === undefined) return "–";
  return `${perSecond < 10 ? perSecond.toFixed(1) : whole(perSecond)}/s`;
}

export function bytes(count) {
  for (const unit of ["B", "kB", "MB", "GB"]) {
    if (count < 1000) return `${unit === "B" ? count : count.toFixed(1)} ${unit}`;
    count /= 1000;
  }
  return `${count.toFixed(1)} TB`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 60) return `${seconds < 10 ? seconds.toFixed(1) : Math.round(seconds)} s`;
  const minutes = Math.floor(seconds / 60);
  if (minutes < 60) return `${minutes} min ${Math.floor(seconds % 60)} s`;
  if (minutes < 48 * 60) return `${Math.floor(minutes / 60)} h ${minutes % 60} min`;
  return `${Math.floor(minutes / 1440)} d ${Math.floor((minutes % 1440) / 60)} h`;
}

export function moment(unix, zone) {
  if (!unix) return "–";
  const date = new Date(unix * 1000);
  const today = new Date().toDateString() === date.toDateString();
  const options = today && !zone
    ? { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false }
    : { year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hour12: false };
  try {
    return date.toLocaleString("en-GB", zone ? { ...options, timeZone: zone, timeZoneName: "short" } : options);
  } catch {
    return date.toLocaleString("en-GB", options);
  }
}

export const percent = (share) => `${Math.floor(share * 100)}%`;
export const shortName = (url) => url.replace(/\/+$/, "").split("/").slice(-1)[0] || url;

// -- small parts -----------------------------------------------------------------------------------

export function pill(state) {
  return h("span", { class: `pill pill-${state.replace(" ", "-")}` }, state);
}

export function empty(title, ...more) {
  return h("div", { class: "empty" }, h("p", { class: "empty-title" }, title), ...more);
}

export function facts(pairs) {
  return h("dl", { class: "facts" }, pairs.filter(Boolean).map(([name, value]) =>
    h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

export function meter(share, state, label) {
  return h("div", {
    class: `meter meter-${state.replace(" ", "-")}`, role: "progressbar", "aria-label": label,
    "aria-valuemin": 0, "aria-valuemax": 100, "aria-valuenow": Math.floor(share * 100),
  }, h("div", { class: "meter-fill", style: { width: `${(share * 100).toFixed(2)}%` } }));
}

export function spark(values) {
  const most = Math.max(1e-9, ...values);
  const width = 160;
  const height = 36;
  const points = values.map((value, place) =>
    `${(place / Math.max(1, values.length - 1) * width).toFixed(1)},${(height - 2 - value / most * (height - 4)).toFixed(1)}`);
  if (points.length < 2) return null;
  return h("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    h("svg:polygon", { points: `0,${height} ${points.join(" ")} ${width},${height}` }),
    h("svg:polyline", { points: points.join(" ") }));
}

// An element with cells of samples, cut from one image. `entry` has indices, labels and made; `sprite` is the address of
// that image. Cells are buttons if `open` is given. It is built anew only if its samples change, and not with each state.
const COLUMNS = 16;

export function cellGrid(className, name, entry, facts_, sprite, open, more = {}) {
  const made = entry.indices.filter((_, place) => entry.made[place]);
  const key = `${name} ${entry.indices[0] ?? ""} ${entry.indices.length} ${made.length} ${sprite}`;
  const properties = { ...more, class: className, key, "data-own": true };
  if ([...document.getElementsByClassName(className)].some((each) => each.dataset.key === key)) return h("div", properties);
  const columns = Math.min(made.length, COLUMNS);
  const [width, height] = facts_.cell;
  const position = new Map(made.map((index, place) => [index, place]));
  const sheetWidth = columns * (width + 2);
  const sheetHeight = Math.ceil(made.length / columns) * (height + 2);
  const style = { ...more.style, "--ratio": `${width} / ${height}` };
  if (sprite) {
    style["--sprite"] = `url("${new URL(sprite, document.baseURI).href}")`;
    style["--size"] = `${sheetWidth / width * 100}% ${sheetHeight / height * 100}%`;
  }
  const kind = `cell${Math.max(width, height) < 64 ? " pixelated" : ""}`;
  return h("div", { ...properties, style }, entry.indices.map((index, place) => {
    const label = entry.labels ? facts_.classes[entry.labels[place]] : "";
    const title = `${whole(index)}${label ? `, ${label}` : ""}`;
    if (!entry.made[place]) return h("span", { class: "cell cell-open", title: `${title}: not made yet` });
    // A cell of the image has a border of one pixel.
    const at = position.get(index);
    const across = (at % columns * (width + 2) + 1) / Math.max(1, sheetWidth - width) * 100;
    const down = (Math.floor(at / columns) * (height + 2) + 1) / Math.max(1, sheetHeight - height) * 100;
    const placed = { "background-position": `${across}% ${down}%` };
    if (!open) return h("span", { class: kind, style: placed });
    return h("button", {
      class: kind, type: "button", title, "aria-label": `Sample ${title}`, "data-index": index, style: placed,
      onclick: () => open(index),
    });
  }));
}

// The address of the image of the made samples of an entry; null if there are none.
export function spriteOf(key, version, entry) {
  const made = entry.indices.filter((_, place) => entry.made[place]);
  return made.length ? `api/datasets/${key}/sprite?v=${version}&indices=${made.join(",")}` : null;
}

const loaded = new Set();

// Resolves once an image is in the browser's cache, so that it replaces another without a gap.
export async function loadImage(address) {
  if (!address || loaded.has(address)) return;
  const image = new Image();
  image.src = address;
  try {
    await image.decode();
  } catch {
    throw new Failure("the samples cannot be read", 0);
  }
  if (loaded.size > 500) loaded.delete(loaded.values().next().value);
  loaded.add(address);
}
