// Elements from names and texts. What the cluster says only ever becomes text: nothing here reads markup.

const SVG = "http://www.w3.org/2000/svg";

function dress(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== undefined && value !== null && value !== false) {
      element.setAttribute(name, value === true ? "" : String(value));
    }
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** An element of HTML. Children are elements or texts. */
export function html(name, attributes = {}, ...children) {
  return dress(document.createElement(name), attributes, children);
}

/** An element of SVG. */
export function svg(name, attributes = {}, ...children) {
  return dress(document.createElementNS(SVG, name), attributes, children);
}

/** Text that may run in either direction, without leading its surroundings astray. */
export function name(text) {
  return html("bdi", {}, text);
}

/** What has this id on the page. */
export function at(id) {
  return document.getElementById(id);
}

/** Makes `children` the content of `element`. */
export function fill(element, ...children) {
  element.replaceChildren(...children);
}

/** A table with a head. Columns are `{title, className}`, rows are elements. */
export function table(caption, columns, rows) {
  const head = columns.map(({ title, className }) => html("th", { scope: "col", class: className }, title));
  return html(
    "table",
    { "aria-label": caption },
    html("thead", {}, html("tr", {}, ...head)),
    html("tbody", {}, ...rows),
  );
}

/** A bar that is full to this share, from 0 to 1. A little is shown as a little, and not as nothing. */
export function bar(share) {
  const width = share > 0 ? Math.max(1, Math.min(1, share) * 100) : 0;
  return svg(
    "svg",
    { viewBox: "0 0 100 8", preserveAspectRatio: "none", "aria-hidden": "true" },
    svg("rect", { class: "gauge", width: 100, height: 8 }),
    svg("rect", { class: share > 0.85 ? "level full" : "level", width, height: 8 }),
  );
}
