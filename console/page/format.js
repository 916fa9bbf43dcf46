// Numbers and times for people.

const UNITS = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** Three digits that matter, no more. */
function short(value) {
  if (value === 0 || value >= 100) return Math.round(value).toString();
  return value >= 10 ? value.toFixed(1) : value.toFixed(value >= 1 ? 1 : 2);
}

export function bytes(count) {
  let power = 0;
  let value = Number(count) || 0;
  while (value >= 1024 && power < UNITS.length - 1) {
    value /= 1024;
    power += 1;
  }
  return power === 0 ? `${short(value)} B` : `${value >= 100 ? Math.round(value) : value.toFixed(1)} ${UNITS[power]}`;
}

export const bytesPerSecond = (rate) => `${bytes(rate)}/s`;

export function count(value) {
  return (Number(value) || 0).toLocaleString("en");
}

/** Such as 1.2 k, for scales and rates. */
export function brief(value) {
  for (const [size, unit] of [[1e9, " G"], [1e6, " M"], [1e3, " k"]]) {
    if (value >= size) return short(value / size) + unit;
  }
  return short(value);
}

export const perSecond = (rate) => `${brief(rate)}/s`;

export function micros(value) {
  if (value >= 1e6) return `${short(value / 1e6)} s`;
  return value >= 1e3 ? `${short(value / 1e3)} ms` : `${Math.round(value)} µs`;
}

/** How long something has been. */
export function time(ms) {
  const s = ms / 1000;
  if (s < 120) return s < 10 ? `${s.toFixed(1)} s` : `${Math.round(s)} s`;
  return s < 7200 ? `${Math.round(s / 60)} min` : `${Math.round(s / 3600)} h`;
}

/** RFC 3339 to what tables show, in UTC. */
export function date(text) {
  return text.slice(0, 19).replace("T", " ");
}

export function percent(share) {
  return `${short(share * 100)} %`;
}

export function plural(number, noun) {
  return `${count(number)} ${noun}${number === 1 ? "" : "s"}`;
}
