// What this server is asked for. Everything is read; nothing leaves this origin.

/** How long an answer may take: longer than the server lets the cluster take. */
const PATIENCE_MS = 12_000;

/** An answer that is an error. */
export class Refusal extends Error {
  constructor(status, kind, message) {
    super(message);
    this.status = status;
    this.kind = kind;
  }
}

async function get(path, parameters = {}) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== undefined && value !== null && value !== "") query.set(name, value);
  }
  const url = query.size > 0 ? `${path}?${query}` : path;
  const answer = await fetch(url, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE_MS) });
  const said = await answer.json().catch(() => ({}));
  if (!answer.ok) {
    const { kind = "protocol", message = `the server has answered ${answer.status}` } = said.error ?? {};
    throw new Refusal(answer.status, kind, message);
  }
  return said;
}

export const status = () => get("/api/v1/status");
export const history = (after) => get("/api/v1/history", { after });
export const buckets = (page) => get("/api/v1/buckets", { page });
export const objects = (bucket, prefix, page) => get("/api/v1/objects", { bucket, prefix, page });

/** Where an object is downloaded. */
export function download(bucket, key) {
  return `/api/v1/download?${new URLSearchParams({ bucket, key })}`;
}
