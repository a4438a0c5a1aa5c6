// A generator's samples by seed, index, class, truncation and guidance, and the way between two of them.

import { empty, get, h, post, whole } from "./dom.js";

const TRUNCATIONS = [["", "none"], ["2", "2"], ["1.5", "1.5"], ["1", "1"], ["0.7", "0.7"], ["0.5", "0.5"], ["0.3", "0.3"]];
const DELAY_MS = 150;

export function playgroundView(page) {
  let listed = null;
  let failure = "";
  let facts = null;
  let loading = "";
  let drawn = null; // {bitmap, count, labels}
  let busy = false;
  let again = false;
  let timer = 0;
  let made = "";
  let closed = false;

  const value = (name, usual = "") => page.query.get(name) ?? usual;
  const set = (changes) => {
    const query = new URLSearchParams(page.query);
    for (const [name, text] of Object.entries(changes)) {
      if (text === "" || text === null) query.delete(name);
      else query.set(name, text);
    }
    page.go(`playground?${query}`, true);
  };

  async function list() {
    try {
      listed = await get("api/generators");
      choose();
    } catch (error) {
      failure = error.message;
      page.draw();
    }
  }

  async function choose() {
    const preferred = listed.find((each) => each.worker) ?? listed.find((each) => each.key === "fashion") ?? listed[0];
    const key = value("generator", preferred?.key);
    if (!key || loading === key) return;
    loading = key;
    facts = null;
    failure = "";
    page.draw();
    try {
      const result = await get(`api/generators/${key}`);
      if (loading !== key) return;
      facts = result;
      request();
    } catch (error) {
      failure = error.message;
    }
    page.draw();
  }

  function asked() {
    const number = (name) => (value(name) === "" ? undefined : Number(value(name)));
    const body = { seed: number("seed") ?? 0, index: number("index") ?? 0 };
    if (facts.classes && value("class") !== "") body.label = value("class");
    if (value("truncation")) body.truncation = Number(value("truncation"));
    if (facts.sampler) {
      if (value("steps")) body.steps = Number(value("steps"));
      if (value("guidance")) body.guidance = Number(value("guidance"));
      if (value("method")) body.method = value("method");
    }
    const settings = Object.keys(facts.settings).filter((name) => value(`set-${name}`) !== "");
    if (settings.length) body.settings = Object.fromEntries(settings.map((name) => [name, Number(value(`set-${name}`))]));
    if (facts.attributes_dim) body.attributes = value("attributes") || Array(facts.attributes_dim).fill(0).join(",");
    if (value("last") !== "") Object.assign(body, { last: Number(value("last")), count: Number(value("count", "8")) });
    return body;
  }

  // One request at a time; what was asked for meanwhile is asked for afterwards.
  async function request() {
    if (!facts || closed) return;
    if (busy) {
      again = true;
      return;
    }
    const body = asked();
    const text = JSON.stringify([facts.key, body]);
    if (text === made) return;
    busy = true;
    page.draw();
    try {
      const response = await post(`api/generators/${facts.key}/draw`, body);
      const labels = (response.headers.get("x-labels") || "").split(",").filter(Boolean).map(Number);
      const bitmap = await createImageBitmap(await response.blob());
      drawn = { bitmap, count: body.last === undefined ? 1 : body.count, labels, key: facts.key };
      facts.warm = true;
      failure = "";
      made = text;
    } catch (error) {
      failure = error.message;
      made = text;
    }
    busy = false;
    page.draw();
    paint();
    if (again) {
      again = false;
      request();
    }
  }

  function paint() {
    if (!drawn) return;
    const canvases = document.querySelectorAll(".playground canvas");
    const columns = Math.min(drawn.count, 16);
    const rows = Math.ceil(drawn.count / columns);
    const width = drawn.bitmap.width / columns - 2;
    const height = drawn.bitmap.height / rows - 2;
    canvases.forEach((canvas, place) => {
      if (place >= drawn.count) return;
      canvas.width = width;
      canvas.height = height;
      canvas.getContext("2d").drawImage(drawn.bitmap, (place % columns) * (width + 2) + 1,
        Math.floor(place / columns) * (height + 2) + 1, width, height, 0, 0, width, height);
    });
  }

  list();
  return {
    offline: true,
    close() {
      closed = true;
      clearTimeout(timer);
    },
    route() {
      if (!listed) return;
      if (value("generator") && value("generator") !== loading) choose();
      clearTimeout(timer);
      timer = setTimeout(request, DELAY_MS);
    },
    key(event) {
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (!by) return false;
      set({ index: String(Math.max(0, Number(value("index", "0")) + by)) });
      return true;
    },
    draw() {
      if (!listed) return empty(failure || "Loading …");
      return h("div", { class: "stack" }, h("h2", {}, "Playground"),
        h("div", { class: "playground" }, h("form", { class: "card controls", onsubmit: (event) => event.preventDefault() }, controls()),
          h("section", { class: "card stage", "aria-live": "polite" }, stage())));
    },
  };

  function controls() {
    const field = (label, input, note) => h("label", { class: "field" }, h("span", {}, label), input, note ? h("span", { class: "note" }, note) : null);
    const input = (name, usual, more = {}) => h("input", {
      name, type: "number", value: value(name, usual), step: "any", ...more, oninput: (event) => set({ [name]: event.target.value }),
    });
    const select = (name, options, usual = "") => h("select", { name, onchange: (event) => set({ [name]: event.target.value }) },
      options.map(([key, label]) => h("option", { value: key, selected: key === value(name, usual) }, label)));
    const parts = [
      field("Generator", h("select", { name: "generator", onchange: (event) => page.go(`playground?generator=${event.target.value}`, true) },
        listed.map((each) => h("option", { value: each.key, selected: each.key === loading }, each.worker ? `${each.name} (worker up)` : each.name)))),
    ];
    if (!facts) return parts;
    parts.push(h("p", { class: "note" }, facts.summary || facts.name));
    parts.push(h("div", { class: "row" },
      field("Seed", input("seed", "0", { min: "0", step: "1" })), field("Index", input("index", "0", { min: "0", step: "1" }))));
    parts.push(h("div", { class: "buttons" },
      h("button", { class: "button", type: "button", onclick: () => set({ index: String(Math.max(0, Number(value("index", "0")) - 1)) }) }, "‹ Previous"),
      h("button", { class: "button", type: "button", onclick: () => set({ index: String(Number(value("index", "0")) + 1) }) }, "Next ›"),
      h("button", { class: "button primary", type: "button", onclick: () => set({ index: String(Math.floor(Math.random() * 1e6)) }) }, "Random")));
    if (facts.classes) {
      parts.push(field("Class", select("class", [["", "as in plan balanced"], ...facts.classes.map((name, place) => [String(place), name])])));
    }
    if (!facts.sampler) parts.push(field("Truncation", select("truncation", TRUNCATIONS), "latents resampled until |z| ≤ T"));
    if (facts.sampler) {
      parts.push(field("Method", select("method", [["", facts.sampler.method], ...facts.sampler.methods.filter((name) => name !== facts.sampler.method).map((name) => [name, name])])));
      parts.push(h("div", { class: "row" },
        field("Steps", input("steps", String(facts.sampler.steps), { min: "1", max: String(facts.sampler.most_steps), step: "1" })),
        facts.sampler.guided ? field("Guidance", input("guidance", String(facts.sampler.guidance), { min: "0", max: "20", step: "0.5" })) : null));
    }
    for (const [name, usual] of Object.entries(facts.settings)) parts.push(field(name, input(`set-${name}`, String(usual))));
    if (facts.attributes_dim) {
      parts.push(field("Attributes", h("input", { name: "attributes", value: value("attributes"), placeholder: "0,0,…", oninput: (event) => set({ attributes: event.target.value }) }), `${facts.attributes_dim} numbers`));
    }
    const on = value("last") !== "";
    parts.push(h("label", { class: "check" }, h("input", {
      type: "checkbox", checked: on, name: "interpolate",
      onchange: (event) => set({ last: event.target.checked ? String(Number(value("index", "0")) + 1) : null, count: null }),
    }), h("span", {}, "Interpolate to another sample")));
    if (on) {
      parts.push(h("div", { class: "row" }, field("To index", input("last", "1", { min: "0", step: "1" })),
        field("Samples", input("count", "8", { min: "2", max: "16", step: "1" }))));
    }
    return parts;
  }

  function stage() {
    if (failure) return h("p", { class: "problem" }, failure);
    const starting = busy && facts && !facts.warm;
    const note = !facts ? "Reading the generator …"
      : starting ? "Starting TensorFlow and loading the generator: some seconds, once." : busy ? "Making …" : "";
    const count = drawn && drawn.key === facts?.key ? drawn.count : 0;
    const label = count && drawn.labels.length && facts.classes ? facts.classes[drawn.labels[0]] : "";
    return h("div", { class: `canvases${busy ? " turning" : ""}${count > 1 ? " many" : ""}` },
      Array.from({ length: count }, (_, place) => h("canvas", { "data-own": true, key: `canvas-${place}-${count}`, class: Math.max(...facts.sample_shape.slice(0, 2)) < 96 ? "pixelated" : null, role: "img", "aria-label": `Sample ${place + 1} of ${count}` })),
      count ? null : h("div", { class: "spinner", "aria-hidden": "true" }),
      h("p", { class: "note" }, note || [label, `seed ${value("seed", "0")}, index ${whole(Number(value("index", "0")))}`].filter(Boolean).join(" · ")));
  }
}
