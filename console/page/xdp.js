// What kernel programs and edges have done with packets, by verdict, and why they refused some.

import { at, fill, html, name, table } from "./dom.js";
import * as format from "./format.js";

function chips(counts, className) {
  const some = Object.entries(counts).filter(([, value]) => value > 0);
  if (some.length === 0) return html("span", { class: "none" }, "none");
  const items = some.map(([word, value]) => html("li", { class: className }, `${word} ${format.count(value)}`));
  return html("ul", { class: "chips" }, ...items);
}

function row(attributes, title, note, mode, reason, packets, rejects) {
  return html(
    "tr",
    attributes,
    html("td", {}, title, html("small", {}, name(note))),
    html("td", {}, mode || "–", html("small", { class: "wide" }, reason)),
    html("td", {}, chips(packets)),
    html("td", {}, chips(rejects, "bad")),
  );
}

export function xdp(status) {
  const edges = status.edges.map((edge) => {
    const nodes = edge.node_ids.length > 0 ? `before nodes ${edge.node_ids.join(", ")}` : "before no node";
    const note = `${edge.address}, ${nodes}, replies by ${edge.replies || "nobody"}`;
    return row({ "data-edge": edge.address }, "edge", note, edge.xdp_mode, edge.xdp_reason, edge.packets, edge.rejects);
  });
  const nodes = status.data_nodes.map((node) =>
    row({ "data-xdp": node.id }, `node ${node.id}`, node.direct_address || node.address, node.xdp_mode, node.xdp_reason, node.xdp_packets, node.rejects),
  );
  if (edges.length + nodes.length === 0) {
    fill(at("xdp"), html("p", { class: "none" }, "Nobody has said anything yet."));
    return;
  }
  const columns = [{ title: "Where" }, { title: "Mode" }, { title: "Packets by verdict" }, { title: "Refused by reason" }];
  fill(at("xdp"), table("Packets by verdict", columns, [...edges, ...nodes]));
}
