// Jobs, one job, workers with their queues, and schedules.

import {
  bytes, cellGrid, duration, empty, facts, get, h, loadImage, meter, moment, percent, pill, post, rate, shortName,
  spark, spriteOf, toast, whole,
} from "./dom.js";

const command = (text) => h("code", { class: "command" }, text);

function nothingYet(page) {
  return page.state?.error
    ? empty("Redis is away", h("p", {}, page.state.error))
    : null;
}

// -- jobs ------------------------------------------------------------------------------------------

export function overview(page) {
  return {
    draw() {
      const { state } = page;
      if (!state) return waiting(page);
      return h("div", { class: "stack" }, head(state), h("section", {}, h("h2", {}, "Jobs"), jobList(page)));
    },
  };
}

const waiting = (page) => empty(page.lost ? "No connection" : "Connecting …");

function head(state) {
  const liveJobs = state.jobs.filter((job) => job.live).length;
  const busy = state.workers.filter((worker) => worker.job).length;
  const now = state.history.at(-1) ?? 0;
  const waitingWakeups = state.queues.reduce((sum, queue) => sum + queue.waiting, 0);
  const figure = (value, label, extra) => h("div", { class: "figure" },
    h("span", { class: "figure-value" }, value), h("span", { class: "figure-label" }, label), extra);
  return h("section", { class: "figures", "aria-label": "Now" },
    figure(whole(liveJobs), liveJobs === 1 ? "live job" : "live jobs"),
    figure(`${busy}/${state.workers.length}`, "workers busy"),
    figure(whole(waitingWakeups), "wake-ups waiting"),
    figure(whole(now), "samples per second", spark(state.history)));
}

function jobList(page) {
  const { jobs } = page.state;
  if (!jobs.length) {
    return nothingYet(page) ?? empty("No jobs yet", h("p", {}, "Queue one on the command line; it appears here at once."),
      command("noisemill submit fashion out --count 10k"));
  }
  return h("ul", { class: "jobs" }, jobs.map((job) => jobRow(job)));
}

function jobRow(job) {
  return h("li", { key: job.id },
    h("a", { class: "job", href: `#/jobs/${encodeURIComponent(job.id)}` },
      h("span", { class: "job-name" }, h("strong", {}, job.id), pill(job.shown_state)),
      h("span", { class: "job-place" }, job.destination, job.schedule ? ` · schedule ${job.schedule}` : ""),
      h("span", { class: "job-meter" }, meter(job.share, job.shown_state, `${job.id} done`),
        h("span", { class: "number" }, percent(job.share))),
      h("span", { class: "job-numbers" },
        h("span", {}, `${whole(job.samples_made)} of ${whole(job.count)}`),
        h("span", {}, rate(job.rate)),
        h("span", {}, job.state === "running" ? `${duration(job.seconds_left)} left` : ended(job))),
      problem(job) ? h("span", { class: "job-problem" }, problem(job)) : null));
}

const ended = (job) => (job.ended_at && job.running_at ? `took ${duration(job.ended_at - job.running_at)}` : "");

function problem(job) {
  if (job.error) return job.error;
  const [shard, message] = Object.entries(job.failed)[0] ?? [];
  if (shard !== undefined) return `shard ${shard} was given up: ${message}`;
  if (job.shown_state === "no worker") return `no worker that is up holds ${job.generator} and may write there`;
  return job.live ? job.errors[0] ?? "" : "";
}

// -- one job ---------------------------------------------------------------------------------------

const STAGES = [
  ["noise", "noise"], ["predict", "predict"], ["examine", "examine"], ["convert", "convert"], ["encode", "encode"],
  ["write", "write"], ["place", "place"],
];

export function jobView(page) {
  const id = page.path[1];
  let job = null;
  let failure = "";
  let sheet = null; // {facts, entry, sprite}
  let looking = false;
  let finished = false;
  let asking = false;

  async function look() {
    if (looking || !job) return;
    looking = true;
    try {
      const facts_ = sheet?.facts ?? await get(`api/datasets/${job.dataset}`);
      if (facts_.shown) {
        const ending = !job.live;
        const entry = await get(`api/datasets/${job.dataset}/sheet`);
        const sprite = spriteOf(job.dataset, facts_.version, entry);
        await loadImage(sprite);
        sheet = { facts: facts_, entry, sprite };
        finished = ending && (job.state !== "done" || entry.made.every(Boolean));
      } else {
        sheet = { facts: facts_ };
        finished = true;
      }
    } catch (error) {
      if (!sheet) sheet = { error: error.message };
      finished = !job.live;
    }
    looking = false;
    page.draw();
  }

  async function cancel() {
    if (!asking) {
      asking = true;
      page.draw();
      return;
    }
    asking = false;
    try {
      job = await (await post(`api/jobs/${encodeURIComponent(id)}/cancel`)).json();
      toast(`${id} is ${job.state}. Finished shards stay; noisemill resume makes the rest.`);
    } catch (error) {
      toast(error.message);
    }
    page.draw();
  }

  return {
    async state() {
      const listed = page.state?.jobs.find((each) => each.id === id);
      try {
        job = listed ?? await get(`api/jobs/${encodeURIComponent(id)}`);
        failure = "";
      } catch (error) {
        failure = error.message;
      }
      if (job?.live) finished = false;
      if (!finished) look();
      page.draw();
    },
    draw() {
      if (!job) {
        if (!failure) this.state();
        return empty(failure || "Loading …");
      }
      const buttons = [
        h("a", { class: "button", href: `#/datasets/${job.dataset}`, key: "open" }, "Open dataset"),
        job.live && page.state?.control
          ? h("button", { class: `button ${asking ? "danger" : ""}`, type: "button", onclick: cancel, key: "cancel" },
            asking ? "Really cancel?" : "Cancel job")
          : null,
      ];
      return h("div", { class: "stack" },
        h("p", { class: "crumbs" }, h("a", { href: "#/" }, "Jobs"), " / ", id),
        h("section", { class: "card" },
          h("div", { class: "card-head" }, h("h1", {}, id), pill(job.shown_state), h("span", { class: "spacer" }), ...buttons),
          h("div", { class: "big-meter" }, meter(job.share, job.shown_state, "Done"),
            h("span", { class: "number" }, percent(job.share))),
          problem(job) ? h("p", { class: "problem" }, problem(job)) : null,
          facts([
            ["Samples", `${whole(job.samples_made)} of ${whole(job.count)}`],
            ["Rate", rate(job.rate)],
            ["Time left", job.state === "running" ? duration(job.seconds_left) : job.ended_at ? ended(job) || "–" : "–"],
            ["Shards", `${whole(job.shards_done)} of ${whole(job.shards)}${job.shards_leased ? `, ${job.shards_leased} being made` : ""}`
              + (job.failed_count ? `, ${job.failed_count} given up` : "")],
            ["Written", bytes(job.bytes_done)],
            ["Engine", job.engine ? `${job.engine}, batch ${job.batch}` : "not chosen yet"],
            ["Generator", job.generator],
            ["Priority", String(job.priority)],
            job.schedule && ["Schedule", job.schedule],
            ["Queued", moment(job.queued_at)],
            job.running_at && ["Started", moment(job.running_at)],
            job.ended_at && ["Ended", moment(job.ended_at)],
          ]),
          h("p", { class: "place" }, job.destination)),
        stages(job),
        sheetCard(page, job, sheet));
    },
  };
}

function stages(job) {
  const known = STAGES.map(([name]) => name);
  const spent = Object.entries(job.stage_seconds).filter(([, seconds]) => seconds > 0)
    .sort(([a], [b]) => (known.indexOf(a) + 99) % 99 - (known.indexOf(b) + 99) % 99);
  if (!spent.length) return null;
  const most = Math.max(...spent.map(([, seconds]) => seconds));
  return h("section", { class: "card", key: "stages" },
    h("div", { class: "card-head" }, h("h2", {}, "Stages"), h("span", { class: "spacer" }),
      job.verdict ? h("span", { class: "pill" }, job.verdict) : null),
    h("ul", { class: "stages" }, spent.map(([name, seconds]) => h("li", { key: name, class: seconds === most ? "most" : null },
      h("span", {}, name),
      h("span", { class: "stage-bar" }, h("span", { style: { width: `${seconds / most * 100}%` } })),
      h("span", { class: "number" }, duration(seconds))))));
}

function sheetCard(page, job, sheet) {
  if (!sheet) return null;
  let body;
  if (sheet.error) body = h("p", { class: "note" }, sheet.error);
  else if (!sheet.facts.shown) body = h("p", { class: "note" }, "The format null stores no samples.");
  else {
    const { entry, sprite } = sheet;
    const open = (index) => page.go(`datasets/${job.dataset}?sample=${index}`);
    body = cellGrid("sheet", job.id, entry, sheet.facts, sprite, open, { style: { "--columns": String(entry.columns) } });
  }
  const made = sheet.entry ? sheet.entry.made.filter(Boolean).length : 0;
  return h("section", { class: "card", key: "sheet" },
    h("div", { class: "card-head" }, h("h2", {}, "Contact sheet"), h("span", { class: "spacer" }),
      sheet.entry ? h("span", { class: "note" }, `${made} of ${sheet.entry.indices.length}, from all over the dataset`) : null),
    body);
}

// -- workers and queues ----------------------------------------------------------------------------

export function workersView(page) {
  return {
    draw() {
      const { state } = page;
      if (!state) return waiting(page);
      return h("div", { class: "stack" }, head(state),
        h("section", {}, h("h2", {}, "Workers"),
          state.workers.length ? h("ul", { class: "grid" }, state.workers.map(worker))
            : nothingYet(page) ?? empty("No workers are up", command("noisemill worker fashion"))),
        h("section", {}, h("h2", {}, "Queues"),
          state.queues.length ? table(["Generator", "Digest", "Wake-ups waiting"], state.queues.map((queue) => [
            queue.generator || "–", h("code", {}, queue.digest.slice(0, 19)), whole(queue.waiting)]))
            : h("p", { class: "note" }, "Each generator of a worker or of a live job has a queue.")));
    },
  };
}

function worker(info) {
  return h("li", { class: "card", key: info.id },
    h("div", { class: "card-head" }, h("h3", {}, info.id), pill(info.job ? "busy" : "idle")),
    info.job ? h("p", {}, h("a", { href: `#/jobs/${encodeURIComponent(info.job)}` }, info.job)) : null,
    facts([
      ["Generator", info.generator], ["Device", info.device], ["Rate now", rate(info.rate_now)],
      ["Engine", `${info.engine}, batch ${info.batch}`], ["Made", whole(info.samples)], ["Up", duration(info.up_s)],
    ]),
    info.unreachable.length ? h("p", { class: "problem" }, `cannot write to ${info.unreachable.join(", ")}`) : null);
}

function table(headings, rows) {
  return h("div", { class: "table" }, h("table", {},
    h("thead", {}, h("tr", {}, headings.map((heading) => h("th", {}, heading)))),
    h("tbody", {}, rows.map((row) => h("tr", {}, row.map((cell, place) =>
      h("td", { "data-label": headings[place] }, cell)))))));
}

// -- schedules -------------------------------------------------------------------------------------

export function schedulesView(page) {
  async function act(name, action) {
    try {
      await post(`api/schedules/${encodeURIComponent(name)}/${action}`);
      toast(action === "run" ? `${name}: a run begins` : `${name} is ${action === "pause" ? "paused" : "on again"}`);
    } catch (error) {
      toast(error.message);
    }
  }
  return {
    draw() {
      const { state } = page;
      if (!state) return waiting(page);
      const stopped = state.schedules.length && !state.scheduler;
      return h("div", { class: "stack" },
        stopped ? h("p", { class: "problem" }, "No scheduler is up, so nothing is fired. Start one: noisemill scheduler") : null,
        state.schedule_errors.map((error) => h("p", { class: "problem" }, error)),
        h("section", {}, h("h2", {}, "Schedules"),
          state.schedules.length ? h("ul", { class: "grid" }, state.schedules.map((each) => schedule(each, state, act)))
            : nothingYet(page) ?? empty("No schedules", command('noisemill schedule add nightly fashion /data/{date} -n 9k --cron "0 2 * * *"'))));
    },
  };
}

function schedule(each, state, act) {
  const until = each.next_run_at ? each.next_run_at - state.now : null;
  const control = state.control ? h("div", { class: "buttons" },
    h("button", { class: "button", type: "button", onclick: () => act(each.name, "run") }, "Run now"),
    h("button", { class: "button", type: "button", onclick: () => act(each.name, each.paused ? "resume" : "pause") },
      each.paused ? "Resume" : "Pause")) : null;
  return h("li", { class: "card", key: each.name },
    h("div", { class: "card-head" }, h("h3", {}, each.name), pill(each.paused ? "paused" : "on"), h("span", { class: "spacer" }), control),
    facts([
      ["When", each.recurrence],
      ["Next run", each.next_run_at ? `${moment(each.next_run_at, each.timezone)}, in ${duration(Math.max(0, until))}` : "paused"],
      ["Generator", each.generator],
      ["Keeps", each.keep === null ? "all" : `${each.keep} datasets`],
    ]),
    h("p", { class: "place" }, each.destination),
    each.runs.length ? h("ol", { class: "runs" }, each.runs.slice().reverse().map((run) => h("li", { key: String(run.number) },
      h("span", { class: "number" }, `${run.number}`), pill(run.state),
      h("span", {}, moment(run.due_at)),
      run.state === "done" ? h("a", { href: `#/datasets/${run.dataset}` }, shortName(run.destination))
        : run.job ? h("a", { href: `#/jobs/${encodeURIComponent(run.job)}` }, run.job)
          : h("span", { class: "note" }, run.error ?? "")))) : h("p", { class: "note" }, "No runs yet."));
}
