// The first lines: whether all is well, what is not, how much there is; and the data nodes in a table.

import { at, bar, fill, html, name, table } from "./dom.js";
import * as format from "./format.js";

/** What is well of what there is. */
function quorum(status) {
  const servers = status.meta_servers.length;
  const reachable = status.meta_servers.filter((server) => ["leader", "follower"].includes(server.role)).length;
  return { servers, reachable, needed: Math.floor(servers / 2) + 1 };
}

export function health(status) {
  const element = at("health");
  let [text, className] = ["Healthy", "good"];
  if (status.leader_id === null) {
    [text, className] = ["No leader", "bad"];
  } else if (status.warnings.length > 0) {
    [text, className] = [format.plural(status.warnings.length, "warning"), "warn"];
  }
  // Said aloud only when it changes.
  if (element.textContent !== text) element.textContent = text;
  element.className = `pill ${className}`;
  at("cluster-id").textContent = status.cluster_id;
  document.title = `${text} – xdpfs`;
}

export function warnings(status) {
  const items = status.warnings.map(({ code, what, action }) =>
    html("li", { "data-code": code }, html("strong", {}, what), html("p", {}, action)),
  );
  if (status.leader_id === null) {
    const what = "the metadata servers have no leader: nothing can be put, got or listed";
    const action = "more than half of them must run and reach each other: see their logs";
    items.unshift(html("li", { "data-code": "no_leader" }, html("strong", {}, what), html("p", {}, action)));
  }
  at("warnings").hidden = items.length === 0;
  fill(at("warnings").querySelector("ul"), ...items);
}

export function figures(status) {
  const { servers, reachable, needed } = quorum(status);
  const nodes = status.data_nodes.length;
  const alive = status.data_nodes.filter((node) => node.state === "alive").length;
  const used = status.data_nodes.reduce((sum, node) => sum + node.used_bytes, 0);
  const capacity = status.data_nodes.reduce((sum, node) => sum + node.capacity_bytes, 0);
  const leader = status.leader_id === null ? "none" : `server ${status.leader_id}`;
  const rows = [
    ["leader", "Leader", leader, `term ${status.term}`],
    ["quorum", "Metadata servers", `${reachable} of ${servers}`, `${needed} needed`],
    ["alive", "Data nodes alive", `${alive} of ${nodes}`, nodes === alive ? "none silent" : `${nodes - alive} not heard of`],
    ["used", "Used by chunks", format.bytes(used), `of ${format.bytes(capacity)}`],
    ["objects", "Objects", format.count(status.objects), `${format.bytes(status.bytes)} in ${format.plural(status.buckets, "bucket")}`],
    ["debt", "Replicas missing", format.count(status.replica_debt), `${format.count(status.pending_deletes)} to remove`],
    ["uploads", "Open uploads", format.count(status.open_uploads), `log at ${format.count(status.commit_index)}`],
  ];
  const items = rows.map(([figure, title, value, note]) =>
    html("div", {}, html("dt", {}, title), html("dd", { "data-figure": figure }, value, html("small", {}, note))),
  );
  fill(at("figures"), ...items);
  at("answered").textContent = `Answered by server ${status.answered_by} at ${new Date().toLocaleTimeString()}.`;
}

const STATES = { alive: "good", silent: "bad" };

export function nodes(status) {
  if (status.data_nodes.length === 0) {
    fill(at("nodes"), html("p", { class: "none" }, "No data node has registered yet."));
    return;
  }
  const columns = [
    { title: "Node" },
    { title: "State" },
    { title: "Fullness", className: "fullness" },
    { title: "Chunks", className: "number wide" },
    { title: "Domain", className: "wide" },
    { title: "Heard", className: "number" },
  ];
  const rows = status.data_nodes.map((node) => {
    const share = node.capacity_bytes > 0 ? node.used_bytes / node.capacity_bytes : 0;
    const isKnown = node.state !== "unknown";
    const words = `${format.bytes(node.used_bytes)} of ${format.bytes(node.capacity_bytes)}`;
    const free = html("span", { class: "wide" }, `, ${format.bytes(node.free_bytes)} free`);
    return html(
      "tr",
      { "data-node": node.id, "data-state": node.state },
      html("td", {}, `${node.id}`, html("small", {}, name(node.address))),
      html("td", {}, html("span", { class: `pill ${STATES[node.state] ?? ""}` }, node.state)),
      html("td", { class: "fullness" }, ...(isKnown ? [bar(share), html("small", {}, words, free)] : ["–"])),
      html("td", { class: "number wide" }, isKnown ? format.count(node.chunks) : "–"),
      html("td", { class: "wide" }, name(node.failure_domain)),
      html("td", { class: "number" }, isKnown ? format.time(node.last_heartbeat_age_ms) : "–"),
    );
  });
  fill(at("nodes"), table("Data nodes", columns, rows));
}
