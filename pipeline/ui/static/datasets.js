// The datasets, one dataset page by page, and one sample large.

import {
  bytes, cellGrid, empty, facts, get, h, loadImage, moment, shortName, show, spriteOf, whole,
} from "./dom.js";

// -- all of them -----------------------------------------------------------------------------------

export function datasetsView(page) {
  let listed = null;
  let failure = "";
  const details = new Map(); // key -> {facts, entry, sprite} or {error}
  let closed = false;

  async function load() {
    try {
      listed = await get("api/datasets");
      failure = "";
    } catch (error) {
      failure = error.message;
    }
    page.draw();
    for (const { key } of (listed ?? []).slice(0, 60)) {
      if (closed) return;
      const known = details.get(key);
      if (!known || (known.facts && !known.facts.whole)) await describe(key);
    }
  }

  async function describe(key) {
    try {
      const found = await get(`api/datasets/${key}`);
      details.set(key, { ...details.get(key), facts: found });
      page.draw();
      if (!found.shown) return;
      const sheet = await get(`api/datasets/${key}/sheet`);
      const some = pick(sheet);
      const sprite = spriteOf(key, found.version, some);
      await loadImage(sprite);
      details.set(key, { facts: found, entry: some, sprite });
    } catch (error) {
      details.set(key, { ...details.get(key), error: error.message });
    }
    page.draw();
  }

  load();
  const timer = setInterval(load, 5000);
  return {
    offline: true,
    close() {
      closed = true;
      clearInterval(timer);
    },
    draw() {
      if (!listed) return empty(failure || "Loading …");
      if (!listed.length) {
        return empty("No datasets", h("p", {}, "Datasets of jobs appear here, and those given to noisemill ui DEST."));
      }
      return h("section", {}, h("h2", {}, "Datasets"), h("ul", { class: "gallery" }, listed.map((each) => tile(page, each, details.get(each.key)))));
    },
  };
}

// Twelve made cells of a sheet, of different rows.
function pick(sheet) {
  const places = sheet.indices.map((_, place) => place).filter((place) => sheet.made[place]);
  const step = Math.max(1, places.length / 12);
  const chosen = [...new Set(Array.from({ length: 12 }, (_, number) => places[Math.floor(number * step)]))]
    .filter((place) => place !== undefined);
  return {
    indices: chosen.map((place) => sheet.indices[place]), made: chosen.map(() => true),
    labels: sheet.labels && chosen.map((place) => sheet.labels[place]),
  };
}

function tile(page, { key, url, given }, detail) {
  const found = detail?.facts;
  return h("li", { key },
    h("a", { class: "tile", href: `#/datasets/${key}` },
      detail?.entry?.indices.length ? cellGrid("tile-cells", key, detail.entry, found, detail.sprite)
        : h("div", { class: "tile-cells" },
          h("p", { class: "note" }, detail?.error ? "" : !found ? "…" : !found.shown ? "stores no samples" : detail.entry ? "no samples yet" : "…")),
      h("strong", {}, shortName(url)),
      h("span", { class: "note" }, found
        ? `${whole(found.count)} samples · ${found.generator} · ${found.format}${found.whole ? "" : " · incomplete"}`
        : detail?.error ?? "…"),
      h("span", { class: "note ellipsis", title: url }, given ? `${url} · given` : url)));
}

// -- one -------------------------------------------------------------------------------------------

export function datasetView(page) {
  const key = page.path[1];
  let found = null;
  let failure = "";
  let shown = null; // {entry, sprite, at}
  let sample = null;
  let sampleFailure = "";
  let abort = null;
  let wanted = "";
  let took = null;
  let opener = null;
  const cache = new Map();

  const label = () => (page.query.has("class") ? Number(page.query.get("class")) : null);
  const number = () => Math.max(0, Number(page.query.get("page") ?? 1) - 1 || 0);
  const address = (changes) => {
    const query = new URLSearchParams(page.query);
    for (const [name, value] of Object.entries(changes)) {
      if (value === null) query.delete(name);
      else query.set(name, value);
    }
    const text = query.toString();
    return `datasets/${key}${text ? `?${text}` : ""}`;
  };
  const open = (index) => page.go(address({ sample: index }));

  async function describe() {
    try {
      found = await get(`api/datasets/${key}`);
      failure = "";
      page.draw();
      turn();
      if (page.query.has("sample")) look();
    } catch (error) {
      failure = error.message;
      page.draw();
    }
  }

  async function fetchPage(at) {
    const kept = cache.get(at);
    if (kept) return kept;
    const [number_, class_] = at.split("/");
    const entry = await get(`api/datasets/${key}/page?page=${number_}${class_ ? `&class=${class_}` : ""}`);
    const sprite = found.shown ? spriteOf(key, found.version, entry) : null;
    await loadImage(sprite);
    const result = { entry, sprite, at };
    if (entry.made.every(Boolean)) {
      cache.set(at, result);
      if (cache.size > 40) cache.delete(cache.keys().next().value);
    }
    return result;
  }

  // Shows the page of the address, and loads the next one ahead.
  async function turn() {
    const at = `${number()}/${label() ?? ""}`;
    if (!found || (shown?.at === at && shown.entry.made.every(Boolean))) return;
    wanted = at;
    const start = performance.now();
    try {
      const result = await fetchPage(at);
      if (wanted !== at) return;
      const before = shown;
      shown = result;
      if (before?.at !== at) took = performance.now() - start;
      failure = "";
    } catch (error) {
      if (wanted === at) failure = error.message;
    }
    page.draw();
    const { pages } = shown?.entry ?? {};
    if (pages === null || number() + 1 < pages) fetchPage(`${number() + 1}/${label() ?? ""}`).catch(() => {});
  }

  async function look() {
    const index = Number(page.query.get("sample"));
    if (sample?.index === index) return;
    sampleFailure = "";
    abort?.abort();
    abort = new AbortController();
    try {
      const result = await get(`api/datasets/${key}/sample?index=${index}`, abort.signal);
      const near = { indices: result.neighbours.map((each) => each.index), labels: result.neighbours.map((each) => each.label) };
      near.made = near.indices.map(() => true);
      if (result.label === null) near.labels = null;
      result.near = near;
      result.sprite = spriteOf(key, found.version, near);
      result.picture = `api/datasets/${key}/picture?v=${found.version}&index=${index}`;
      await Promise.all([loadImage(result.sprite), loadImage(result.picture)]);
      if (Number(page.query.get("sample")) === index) sample = result;
    } catch (error) {
      if (error.name === "AbortError") return;
      sample = null;
      sampleFailure = error.message;
    }
    page.draw();
  }

  const close = () => page.go(address({ sample: null }));
  const leaf = (to) => {
    const { pages } = shown?.entry ?? {};
    const last = pages ? pages - 1 : Infinity;
    const next = Math.max(0, Math.min(last, to));
    if (next !== number() && Number.isFinite(next)) page.go(address({ page: next ? next + 1 : null }), true);
  };
  // The sample before or after the one shown, of the same class if a class is chosen; it turns the page at its end.
  const step = (by) => {
    const indices = shown?.entry.indices ?? [];
    const place = indices.indexOf(Number(page.query.get("sample")));
    if (place >= 0 && indices[place + by] !== undefined) page.go(address({ sample: indices[place + by] }), true);
    else if (label() === null) {
      const next = Number(page.query.get("sample")) + by;
      if (next >= 0 && next < found.count) page.go(address({ sample: next, page: Math.floor(next / found.page_size) + 1 }), true);
    }
  };

  describe();
  let ticks = 0;
  return {
    offline: true,
    state() {
      // A dataset that is still being made is looked at again.
      ticks += 1;
      if (found && !found.whole && ticks % 2 === 0) {
        if (ticks % 6 === 0) describe();
        else if (shown && !shown.entry.made.every(Boolean)) turn();
      } else if (!found && failure && ticks % 3 === 0) describe();
    },
    route() {
      if (!page.query.has("sample")) modal(false);
      if (!found) return;
      turn();
      if (page.query.has("sample")) {
        opener ??= document.activeElement;
        look();
      } else if (opener) {
        sample = null;
        opener.focus?.({ preventScroll: true });
        opener = null;
      }
    },
    close() {
      modal(false);
      show(document.getElementById("overlay"));
    },
    key(event) {
      const one = page.query.has("sample");
      const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
      if (one && event.key === "Escape") close();
      else if (one && by) step(by);
      else if (!one && by) leaf(number() + by);
      else if (!one && event.key === "Home") leaf(0);
      else if (!one && event.key === "End") leaf((shown?.entry.pages ?? 1) - 1);
      else return false;
      return true;
    },
    draw() {
      if (!found) return empty(failure || "Loading …");
      drawSample();
      const entry = shown?.entry;
      return h("div", { class: "stack" },
        h("p", { class: "crumbs" }, h("a", { href: "#/datasets" }, "Datasets"), " / ", shortName(found.url)),
        h("section", { class: "card" },
          h("div", { class: "card-head" }, h("h1", {}, shortName(found.url)),
            h("span", { class: `pill ${found.whole ? "pill-done" : "pill-running"}` }, found.whole ? "complete" : "incomplete")),
          facts([
            ["Samples", whole(found.count)],
            ["Sample", `${found.sample_shape.join("×")} ${found.dtype}`],
            ["Generator", found.generator],
            ["Seed", String(found.seed)],
            ["Format", `${found.format}, ${whole(found.shards)} shard${found.shards === 1 ? "" : "s"}`],
            found.size_bytes !== null && ["Size", bytes(found.size_bytes)],
            ["Noise", found.noise],
            found.labels && ["Labels", found.labels.length > 40 ? `${found.labels.slice(0, 40)}…` : found.labels],
            found.sampler && ["Sampler", found.sampler],
            found.finished_at && ["Finished", moment(found.finished_at)],
          ]),
          h("p", { class: "place" }, found.url),
          found.problem ? h("p", { class: "problem" }, found.problem) : null),
        found.shown ? h("section", { class: "card" },
          classes(),
          failure ? h("p", { class: "problem" }, failure) : null,
          pager(entry),
          entry ? cellGrid("pages", shown.at, entry, found, shown.sprite, open, {
            "data-page": shown.at, style: { "--cell": `${Math.max(56, Math.min(96, Math.max(...found.cell)))}px` },
          }) : h("p", { class: "note" }, failure ? "" : "Loading …"),
          entry && !entry.indices.length ? h("p", { class: "note" }, "There are no samples here.") : null,
          entry ? h("p", { class: "note", id: "took" }, took === null ? "" : `shown in ${Math.round(took)} ms`) : null)
          : h("p", { class: "note" }, "The format null stores no samples."));
    },
  };

  function classes() {
    if (!found.classes) return null;
    const chip = (value, name, count) => h("button", {
      class: "chip", type: "button", "aria-pressed": String(label() === value),
      onclick: () => page.go(address({ class: value, page: null }), true),
    }, name, count === null || count === undefined ? null : h("span", { class: "number" }, whole(count)));
    return h("div", { class: "chips", role: "group", "aria-label": "Class" },
      chip(null, "All", found.count),
      found.classes.map((name, place) => chip(place, name, found.per_class[place])));
  }

  function pager(entry) {
    const pages = entry?.pages ?? null;
    const button = (text, title, to, off) => h("button", {
      class: "button", type: "button", title, "aria-label": title, disabled: off, onclick: () => leaf(to),
    }, text);
    return h("div", { class: "pager" },
      button("«", "First page (Home)", 0, number() === 0),
      button("‹", "Previous page (←)", number() - 1, number() === 0),
      h("form", {
        class: "pager-form",
        onsubmit: (event) => {
          event.preventDefault();
          const to = Number(event.target.elements.page.value.replace(/\D/g, ""));
          if (to) leaf(to - 1);
        },
      },
      h("label", {}, "Page ", h("input", {
        name: "page", inputmode: "numeric", autocomplete: "off", size: "7", placeholder: whole(number() + 1),
        "aria-label": `Page, now ${number() + 1}`,
      })),
      h("span", { class: "note" }, pages === null ? "" : ` of ${whole(pages)}`)),
      button("›", "Next page (→)", number() + 1, pages !== null && number() + 1 >= pages),
      button("»", "Last page (End)", (pages ?? 1) - 1, pages === null || number() + 1 >= pages),
      h("span", { class: "spacer" }),
      entry?.indices.length ? h("span", { class: "note number" }, `${whole(entry.indices[0])} – ${whole(entry.indices.at(-1))}`) : null);
  }

  function drawSample() {
    const overlay = document.getElementById("overlay");
    if (!page.query.has("sample")) {
      if (overlay.querySelector("[data-key=sample]")) show(overlay);
      return;
    }
    const fresh = !overlay.querySelector("[data-key=sample]");
    modal(true);
    show(overlay, h("div", {
      class: "scrim", key: "sample", onclick: (event) => { if (event.target === event.currentTarget) close(); },
    }, h("div", { class: "dialog", role: "dialog", "aria-modal": "true", "aria-label": "Sample", tabindex: "-1" },
      h("div", { class: "card-head" },
        h("h2", {}, `Sample ${whole(Number(page.query.get("sample")))}`),
        sample?.class ? h("span", { class: "pill" }, sample.class) : null,
        h("span", { class: "spacer" }),
        h("button", { class: "icon-button", type: "button", title: "Previous (←)", "aria-label": "Previous sample", onclick: () => step(-1) }, "‹"),
        h("button", { class: "icon-button", type: "button", title: "Next (→)", "aria-label": "Next sample", onclick: () => step(1) }, "›"),
        h("button", { class: "icon-button", type: "button", title: "Close (Esc)", "aria-label": "Close", onclick: close }, "×")),
      sampleFailure ? h("p", { class: "problem" }, sampleFailure) : sample ? sampleBody() : h("p", { class: "note" }, "Loading …"))));
    if (fresh) overlay.querySelector(".dialog").focus({ preventScroll: true });
  }

  function sampleBody() {
    const [height, width] = found.sample_shape;
    const small = !found.is_image || Math.max(height, width) < 128;
    return h("div", { class: "sample" },
      h("div", { class: "sample-picture" },
        h("img", { src: sample.picture, alt: `Sample ${sample.index}`, class: small ? "pixelated" : null })),
      h("div", { class: "sample-side" },
        facts([
          ["Index", whole(sample.index)],
          sample.label !== null && ["Label", `${sample.label}, ${sample.class}`],
          ["Shard", `${whole(sample.shard)}, row ${whole(sample.row)}`],
          ["Values", `${short(sample.minimum)} to ${short(sample.maximum)}, mean ${short(sample.mean)}`],
        ]),
        h("p", { class: "place" }, sample.file),
        h("h3", {}, "Latent"),
        latent(sample.latent),
        h("p", { class: "note" }, `${whole(sample.latent_dim)} numbers, norm ${sample.latent_norm.toFixed(3)}`
          + (sample.latent_dim > sample.latent.length ? `; the first ${whole(sample.latent.length)} are shown` : "")),
        h("details", {}, h("summary", {}, "Numbers"), h("p", { class: "numbers" }, sample.latent.join("  "))),
        h("h3", {}, "Nearest samples"),
        sample.near.indices.length
          ? cellGrid("near", "near", sample.near, found, sample.sprite, (index) => page.go(address({ sample: index }), true))
          : h("p", { class: "note" }, "None."),
        h("p", { class: "note" }, `by their pixels, among ${whole(sample.searched)} from all over the dataset`)));
  }
}

// While a sample is shown large, the rest of the page takes no focus.
function modal(on) {
  for (const part of [document.querySelector(".bar"), document.getElementById("main")]) part.inert = on;
}

const short = (number) => String(Number(number.toPrecision(4)));

// A latent as bars, above the line if positive.
function latent(numbers) {
  const most = Math.max(1e-9, ...numbers.map(Math.abs));
  const path = numbers.map((number, place) => `M${place + 0.5} 20V${(20 - number / most * 19).toFixed(2)}`).join("");
  return h("svg", { class: "latent", viewBox: `0 0 ${numbers.length} 40`, preserveAspectRatio: "none", role: "img", "aria-label": "Latent" },
    h("svg:path", { d: path, "stroke-width": "0.8" }));
}
