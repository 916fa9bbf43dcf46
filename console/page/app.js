// Looks at the cluster every two seconds and draws what it is told. When the server is gone it says so, and goes on by
// itself once it is back.

import * as api from "./api.js";
import * as browser from "./browser.js";
import * as charts from "./charts.js";
import { at } from "./dom.js";
import * as summary from "./summary.js";
import { topology } from "./topology.js";
import { xdp } from "./xdp.js";

const LOOK_EVERY_MS = 2000;

const seen = { status: null, samples: [], answeredAt: Date.now(), isLost: false };
let timer = 0;
let isLooking = false;

function draw(status) {
  summary.health(status);
  summary.warnings(status);
  summary.figures(status);
  topology(status);
  summary.nodes(status);
  xdp(status);
}

/** Whether what the buckets hold may have changed. */
function isChanged(before, after) {
  return before !== null && ["buckets", "objects", "bytes", "commit_index"].some((name) => before[name] !== after[name]);
}

function lose(error) {
  seen.isLost = true;
  const seconds = Math.round((Date.now() - seen.answeredAt) / 1000);
  const why = error instanceof api.Refusal ? error.message : "this server does not answer";
  at("lost").textContent = `No news for ${seconds} s: ${why}. Trying again; what is shown is what was last heard.`;
  at("lost").hidden = false;
}

async function look() {
  try {
    const [status, history] = await Promise.all([api.status(), api.history(seen.samples.at(-1)?.time_ms)]);
    const before = seen.status;
    seen.status = status;
    seen.answeredAt = Date.now();
    seen.samples = [...seen.samples, ...history.samples];
    const oldest = (seen.samples.at(-1)?.time_ms ?? 0) - history.kept_ms;
    seen.samples = seen.samples.filter((sample) => sample.time_ms > oldest);
    draw(status);
    charts.draw(seen.samples);
    if (seen.isLost || isChanged(before, status)) browser.refresh();
    seen.isLost = false;
    at("lost").hidden = true;
  } catch (error) {
    lose(error);
  }
}

/** One look after the other; nobody looks while the page can't be seen. */
async function run() {
  clearTimeout(timer);
  if (document.hidden || isLooking) return;
  isLooking = true;
  await look();
  isLooking = false;
  timer = setTimeout(run, LOOK_EVERY_MS);
}

charts.attach();
browser.attach();
document.addEventListener("visibilitychange", run);
window.addEventListener("resize", () => {
  if (seen.status !== null) topology(seen.status);
  charts.draw(seen.samples);
});
run();
