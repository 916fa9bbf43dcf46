// Puts, gets, lists and deletes an object through a gateway, and shows what an error says.
//
// Usage: objects.js HOST:PORT [DIRECTORY OF THE INTERFACE FILES]

import * as grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const BUCKET = "example-typescript";
const KEY = "greetings/first";
const PART_BYTES = 1 << 20;
const ERROR_INFO = "type.googleapis.com/google.rpc.ErrorInfo";

// Messages are as the interface file has them, with names in camel case.
type Message = Record<string, any>;

const [address, protos = "../../proto"] = process.argv.slice(2);
const definition = loadSync("xdpfs/object/v1/object.proto", { includeDirs: [protos], longs: Number, oneofs: true });
const { ObjectService } = (grpc.loadPackageDefinition(definition) as any).xdpfs.object.v1;
const store = new ObjectService(address, grpc.credentials.createInsecure());

/** What goes with every call: the access key of the environment, if there is one. */
function metadata(): grpc.Metadata {
  const metadata = new grpc.Metadata();
  const key = process.env.XDPFS_ACCESS_KEY;
  if (key) metadata.set("authorization", `Bearer ${key}`);
  return metadata;
}

const deadline = () => ({ deadline: Date.now() + 30_000 });

const table = new Uint32Array(256).map((_, byte) => {
  let sum = byte;
  for (let bit = 0; bit < 8; bit++) sum = sum & 1 ? (sum >>> 1) ^ 0x82f63b78 : sum >>> 1;
  return sum;
});

/** The checksum of trailers (Castagnoli). */
function crc32c(data: Uint8Array): number {
  let sum = 0xffffffff;
  for (const byte of data) sum = table[(sum ^ byte) & 0xff] ^ (sum >>> 8);
  return (sum ^ 0xffffffff) >>> 0;
}

/** A method with one request and one answer. */
function call(method: string, request: Message): Promise<Message> {
  return new Promise((resolve, reject) =>
    store[method](request, metadata(), deadline(), (error: grpc.ServiceError | null, answer: Message) =>
      error ? reject(error) : resolve(answer),
    ),
  );
}

/** Stores the bytes: a header, parts, and a trailer with their checksum. */
function put(data: Uint8Array, precondition?: Message): Promise<Message> {
  return new Promise((resolve, reject) => {
    const stream = store.PutObject(metadata(), deadline(), (error: grpc.ServiceError | null, answer: Message) =>
      error ? reject(error) : resolve(answer.object),
    );
    // What went wrong is told above.
    stream.on("error", () => {});
    stream.write({ header: { bucket: BUCKET, key: KEY, precondition } });
    for (let start = 0; start < data.length; start += PART_BYTES) {
      stream.write({ part: data.subarray(start, start + PART_BYTES) });
    }
    stream.write({ trailer: { crc32c: crc32c(data) } });
    stream.end();
  });
}

/** The bytes of the object, which have the checksum that the trailer says. */
async function get(): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  for await (const message of store.GetObject({ bucket: BUCKET, key: KEY }, metadata(), deadline())) {
    if (message.step === "part") parts.push(message.part);
    if (message.step === "trailer") {
      const data = Buffer.concat(parts);
      if (crc32c(data) !== message.trailer.crc32c) throw new Error("the bytes were damaged on their way");
      return data;
    }
  }
  throw new Error("the stream ended without a trailer");
}

/** The fields of a message on the wire whose values are bytes: number and value. */
function* fields(bytes: Buffer): Generator<[number, Buffer]> {
  let at = 0;
  const varint = () => {
    let value = 0;
    for (let shift = 0; ; shift += 7) {
      const byte = bytes[at++];
      value += (byte & 0x7f) * 2 ** shift;
      if (byte < 0x80) return value;
    }
  };
  while (at < bytes.length) {
    const tag = varint();
    if ((tag & 7) !== 2) varint();
    else {
      const length = varint();
      yield [tag >>> 3, bytes.subarray(at, at + length)];
      at += length;
    }
  }
}

/** Code and stable reason of a call that is refused; it must be. */
async function refused(call: Promise<unknown>): Promise<string> {
  const error = await call.then(
    () => Promise.reject(new Error("it was not refused")),
    (error: grpc.ServiceError) => error,
  );
  const code = grpc.status[error.code];
  const details = error.metadata?.get("grpc-status-details-bin")[0] as Buffer | undefined;
  // google.rpc.Status: 3 details, each a google.protobuf.Any: 1 its type, 2 its value; of an ErrorInfo: 1 the reason.
  for (const [number, any] of details ? fields(details) : []) {
    const parts = new Map(number === 3 ? fields(any) : []);
    if (parts.get(1)?.toString() === ERROR_INFO) return `${code} ${new Map(fields(parts.get(2)!)).get(1)}`;
  }
  return code;
}

await call("CreateBucket", { bucket: BUCKET });
const data = new Uint8Array(3_000_000).map((_, at) => at % 251);
const onlyNew = { ifNoneMatchAny: true };
const made = await put(data, onlyNew);
console.log(`put ${made.size} bytes as version ${made.version}, on ${made.durableReplicas} nodes`);
const got = await get();
if (Buffer.compare(got, data) !== 0) throw new Error("it came back otherwise");
console.log(`got ${got.length} bytes, the same`);
console.log("put again, only if there is none:", await refused(put(new Uint8Array(5), onlyNew)));
const listed = await call("ListObjects", { bucket: BUCKET, prefix: "greetings/" });
console.log("listed:", ...listed.objects.map((object: Message) => object.key));
await call("DeleteObject", { bucket: BUCKET, key: KEY });
console.log("get after the delete:", await refused(get()));
await call("DeleteBucket", { bucket: BUCKET });
store.close();
