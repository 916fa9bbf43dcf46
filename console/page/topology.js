// The cluster as a drawing: metadata servers, edges, and data nodes by failure domain. It is laid out for the width that
// there is, so that a phone gets more rows and not smaller letters.

import { at, fill, svg } from "./dom.js";
import * as format from "./format.js";

const BOX = { width: 148, height: 56 };
const GAP = 12;
const PAD = 10;
/** Room for the name of a domain, and for that of a tier. */
const HEAD = 20;
/** Between two tiers, where the lines are. */
const TIER = 34;
/** Width of a letter, nearly: what does not fit is cut. */
const LETTER = 6.4;

function cut(text, width) {
  const most = Math.max(4, Math.floor(width / LETTER));
  const letters = [...text];
  return letters.length > most ? `${letters.slice(0, most - 1).join("")}…` : text;
}

/** Boxes in rows that are no wider than `width`: where each is, and how high all are. */
function rows(items, width, sizeOf) {
  const places = [];
  let [x, y, height] = [0, 0, 0];
  for (const item of items) {
    const size = sizeOf(item);
    if (x > 0 && x + size.width > width) {
      [x, y, height] = [0, y + height + GAP, 0];
    }
    places.push({ item, x, y, ...size });
    x += size.width + GAP;
    height = Math.max(height, size.height);
  }
  return { places, height: places.length > 0 ? y + height : 0 };
}

function box({ x, y, width, title, notes, className, dot, share }) {
  const parts = [
    svg("rect", { class: `box ${className}`, x, y, width, height: BOX.height, rx: 8 }),
    svg("circle", { class: `dot ${dot}`, cx: x + 13, cy: y + 15, r: 4 }),
    svg("text", { class: "name", x: x + 23, y: y + 19 }, cut(title, width - 30)),
    svg("text", { class: "note", x: x + 10, y: y + 35 }, cut(notes[0], width - 14)),
  ];
  if (share === undefined) {
    parts.push(svg("text", { class: "note", x: x + 10, y: y + 49 }, cut(notes[1] ?? "", width - 14)));
  } else {
    parts.push(svg("rect", { class: "gauge", x: x + 10, y: y + 43, width: width - 20, height: 5, rx: 2.5 }));
    const level = Math.max(0, Math.min(1, share)) * (width - 20);
    parts.push(svg("rect", { class: share > 0.85 ? "level full" : "level", x: x + 10, y: y + 43, width: level, height: 5, rx: 2.5 }));
  }
  return svg("g", {}, svg("title", {}, [title, ...notes].join("\n")), ...parts);
}

function link(from, to, isLost) {
  const middle = (from.y + to.y) / 2;
  const d = `M${from.x} ${from.y}C${from.x} ${middle} ${to.x} ${middle} ${to.x} ${to.y}`;
  return svg("path", { class: isLost ? "link lost" : "link", d });
}

const below = (place) => ({ x: place.x + place.width / 2, y: place.y + place.height });
const above = (place) => ({ x: place.x + place.width / 2, y: place.y });

/** Nodes by their domains, as they come. */
function domains(nodes) {
  const byName = new Map();
  for (const node of nodes) {
    const members = byName.get(node.failure_domain) ?? [];
    members.push(node);
    byName.set(node.failure_domain, members);
  }
  return [...byName].map(([domain, members]) => ({ domain, members }));
}

function domainSize(members, width) {
  // On the narrowest phone two still stand side by side.
  const size = { width: Math.min(BOX.width, Math.floor((width - 2 * PAD - GAP) / 2)), height: BOX.height };
  const inner = rows(members, width - 2 * PAD, () => size);
  const columns = inner.places.filter((place) => place.y === 0).length;
  return {
    inner,
    width: columns * (size.width + GAP) - GAP + 2 * PAD,
    height: inner.height + HEAD + 2 * PAD,
  };
}

function tier(y, text) {
  return svg("text", { class: "tier", x: 0, y: y + 11 }, text);
}

const DOTS = { leader: "good", follower: "good", unreachable: "bad", alive: "good", silent: "bad" };

function draw(status, width) {
  const [links, boxes] = [[], []];
  let y = 0;
  boxes.push(tier(y, "metadata servers"));
  y += HEAD;
  const size = { width: Math.min(BOX.width, (width - GAP) / 2), height: BOX.height };
  const servers = rows(status.meta_servers, width, () => size);
  servers.places.forEach((place) => (place.y += y));
  y += servers.height;
  const leader = servers.places.find((place) => place.item.id === status.leader_id);
  for (const place of servers.places) {
    const { id, endpoint, role } = place.item;
    const className = role === "leader" ? "leads" : role === "unreachable" ? "lost" : "";
    boxes.push(box({ ...place, title: `server ${id}`, notes: [endpoint, role], className, dot: DOTS[role] ?? "idle" }));
  }

  const edges = rows(status.edges, width, () => size);
  if (edges.places.length > 0) {
    y += TIER;
    boxes.push(tier(y, "edges"));
    y += HEAD;
    edges.places.forEach((place) => (place.y += y));
    y += edges.height;
    for (const place of edges.places) {
      const { address, xdp_mode: mode, replies } = place.item;
      const notes = [`XDP ${mode || "–"}`, `replies: ${replies || "–"}`];
      boxes.push(box({ ...place, title: address, notes, className: "", dot: "good" }));
      if (leader) links.push(link(below(leader), above(place), false));
    }
  }

  const grouped = rows(domains(status.data_nodes), width, ({ members }) => domainSize(members, width));
  if (grouped.places.length > 0) {
    y += TIER;
    boxes.push(tier(y, "data nodes by failure domain"));
    y += HEAD;
    for (const group of grouped.places) {
      const top = y + group.y;
      boxes.push(svg("rect", { class: "domain", x: group.x, y: top, width: group.width, height: group.height, rx: 10 }));
      boxes.push(svg("text", { class: "note", x: group.x + PAD, y: top + 17 }, svg("title", {}, group.item.domain), cut(group.item.domain, group.width - 2 * PAD)));
      for (const inner of group.inner.places) {
        const place = { ...inner, x: group.x + PAD + inner.x, y: top + PAD + HEAD - 4 + inner.y };
        const node = inner.item;
        const isLost = node.state === "silent";
        const share = node.capacity_bytes > 0 ? node.used_bytes / node.capacity_bytes : 0;
        const notes = [`${node.state}, XDP ${node.xdp_mode || "–"}`, node.address, `${format.bytes(node.used_bytes)} used`];
        boxes.push(box({ ...place, title: `node ${node.id}`, notes, className: isLost ? "lost" : "", dot: DOTS[node.state] ?? "idle", share }));
        const before = edges.places.filter((edge) => edge.item.node_ids.includes(node.id));
        const from = before.length > 0 ? before : leader ? [leader] : [];
        from.forEach((place2) => links.push(link(below(place2), { ...above(place), y: top }, isLost)));
      }
    }
    y += grouped.height;
  }
  return { height: y + 1, parts: [...links, ...boxes] };
}

function words(status) {
  const servers = status.meta_servers.map((server) => `server ${server.id} ${server.role}`);
  const edges = status.edges.map((edge) => `edge ${edge.address} before nodes ${edge.node_ids.join(", ")}`);
  const nodes = status.data_nodes.map((node) => `node ${node.id} ${node.state} in ${node.failure_domain}`);
  return [...servers, ...edges, ...nodes].join("; ");
}

export function topology(status) {
  const root = at("topology");
  const style = getComputedStyle(root);
  const width = Math.max(240, root.clientWidth - parseFloat(style.paddingLeft) - parseFloat(style.paddingRight));
  const { height, parts } = draw(status, width);
  fill(root, svg("svg", { viewBox: `-1 -1 ${width + 2} ${height + 1}`, height: height + 1, role: "img", "aria-label": words(status) }, ...parts));
}
