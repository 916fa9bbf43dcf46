// Buckets and what is in them, by the address behind `#/`: bucket, slash, the beginning of the keys.

import * as api from "./api.js";
import { at, fill, html, name, table } from "./dom.js";
import * as format from "./format.js";

/** What is shown: where, which rows, and whether pages were added by hand. */
const view = { bucket: "", prefix: "", rows: [], next: null, pages: 0, turn: 0 };

function place() {
  const rest = location.hash.startsWith("#/") ? location.hash.slice(2) : "";
  const slash = rest.indexOf("/");
  const parts = slash < 0 ? [rest, ""] : [rest.slice(0, slash), rest.slice(slash + 1)];
  try {
    return parts.map(decodeURIComponent);
  } catch {
    return ["", ""];
  }
}

function address(bucket, prefix) {
  return bucket === "" ? "#/" : `#/${encodeURIComponent(bucket)}/${encodeURIComponent(prefix)}`;
}

/** Where one is, each part a way back. */
function path() {
  const steps = [["All buckets", "", ""]];
  if (view.bucket !== "") steps.push([view.bucket, view.bucket, ""]);
  let start = 0;
  for (let at = view.prefix.indexOf("/"); at >= 0; at = view.prefix.indexOf("/", start)) {
    steps.push([view.prefix.slice(start, at + 1), view.bucket, view.prefix.slice(0, at + 1)]);
    start = at + 1;
  }
  const parts = steps.flatMap(([title, bucket, prefix], index) => {
    const isLast = index === steps.length - 1;
    const step = html("a", { href: address(bucket, prefix), "aria-current": isLast ? "page" : undefined }, name(title));
    return index === 0 ? [step] : [html("span", { "aria-hidden": "true" }, "›"), step];
  });
  fill(at("path"), ...parts);
}

function bucketRow(bucket) {
  return html(
    "tr",
    { "data-bucket": bucket.bucket },
    html("td", { class: "key" }, html("a", { href: address(bucket.bucket, "") }, name(bucket.bucket))),
    html("td", { class: "number" }, format.count(bucket.objects)),
    html("td", { class: "number" }, format.bytes(bucket.bytes)),
    html("td", { class: "number wide" }, `${bucket.replicas}, at least ${bucket.min_replicas}`),
    html("td", { class: "number wide" }, format.date(bucket.created)),
  );
}

function groupRow(prefix) {
  const shown = prefix.slice(view.prefix.length) || prefix;
  return html(
    "tr",
    { "data-prefix": prefix },
    html("td", { class: "key" }, html("a", { href: address(view.bucket, prefix) }, name(shown))),
    html("td", { class: "number none" }, "group"),
    html("td", { class: "wide" }),
    html("td", { class: "wide" }),
  );
}

function objectRow(object) {
  const shown = object.key.slice(view.prefix.length) || object.key;
  const title = `version ${object.version}, etag ${object.etag}, CRC32C ${object.crc32c}`;
  const link = html("a", { href: api.download(object.bucket, object.key), download: "", title, "aria-label": `Download ${shown}` }, name(shown));
  return html(
    "tr",
    { "data-key": object.key },
    html("td", { class: "key" }, link),
    html("td", { class: "number" }, format.bytes(object.size)),
    html("td", { class: "number wide" }, format.plural(object.durable_replicas, "replica")),
    html("td", { class: "number wide" }, format.date(object.created)),
  );
}

const BUCKET_COLUMNS = [
  { title: "Bucket" },
  { title: "Objects", className: "number" },
  { title: "Size", className: "number" },
  { title: "Replicas", className: "number wide" },
  { title: "Made (UTC)", className: "number wide" },
];
const OBJECT_COLUMNS = [
  { title: "Name" },
  { title: "Size", className: "number" },
  { title: "Durable on", className: "number wide" },
  { title: "Put (UTC)", className: "number wide" },
];

async function page(next) {
  if (view.bucket === "") {
    const { buckets, next: then } = await api.buckets(next);
    return [buckets.map(bucketRow), then];
  }
  const { objects, prefixes, next: then } = await api.objects(view.bucket, view.prefix, next);
  return [[...prefixes.map(groupRow), ...objects.map(objectRow)], then];
}

function show() {
  const isBucket = view.bucket === "";
  const nothing = isBucket ? "There is no bucket, or none that this key may list." : "Nothing is here.";
  const content =
    view.rows.length === 0
      ? html("p", {}, nothing)
      : table(isBucket ? "Buckets" : "Objects", isBucket ? BUCKET_COLUMNS : OBJECT_COLUMNS, view.rows);
  fill(at("browser"), content);
  at("more").hidden = view.next === null;
}

/** Loads the first page, or one more; what comes too late, because one has gone elsewhere, is dropped. */
async function load(next) {
  view.turn += 1;
  const turn = view.turn;
  try {
    const [rows, then] = await page(next);
    if (turn !== view.turn) return;
    view.rows = next === null ? rows : [...view.rows, ...rows];
    view.pages = next === null ? 1 : view.pages + 1;
    view.next = then;
    show();
  } catch (error) {
    if (turn !== view.turn) return;
    view.next = null;
    at("more").hidden = true;
    fill(at("browser"), html("p", { class: "failed" }, error.message));
  }
}

function go() {
  [view.bucket, view.prefix] = place();
  [view.rows, view.next, view.pages] = [[], null, 0];
  path();
  load(null);
}

export function attach() {
  window.addEventListener("hashchange", go);
  at("more").addEventListener("click", () => load(view.next));
  go();
}

/** Something has changed. Who has turned pages is left alone, and so is who moves among the rows by keyboard. */
export function refresh() {
  if (view.pages <= 1 && !at("browser").contains(document.activeElement)) load(null);
}
