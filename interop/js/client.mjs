// Runs operations of dicomweb-client against a DICOMweb server:
//
//   node client.mjs BASE_URL
//
// Each line of stdin is {"operation", "options"}: a method of DICOMwebClient and
// its argument, except that `storeInstances` takes {"files": [paths]}. Each is
// answered by one line on stdout, {"value"} or, where the server refused,
// {"status", "body"}. Bytes that were received are given as their length and
// SHA-256.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import xhr2 from 'xhr2';
import dicomweb from 'dicomweb-client';

// dicomweb-client is made for browsers. xhr2 gives it their XMLHttpRequest.
globalThis.XMLHttpRequest = xhr2;

const client = new dicomweb.api.DICOMwebClient({ url: process.argv[2], verbose: false });

function describe(value) {
  if (value instanceof ArrayBuffer) {
    return {
      bytes: value.byteLength,
      sha256: createHash('sha256').update(Buffer.from(value)).digest('hex'),
    };
  }
  if (Array.isArray(value)) return value.map(describe);
  return value;
}

function contents(path) {
  const bytes = readFileSync(path);
  return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
}

async function run({ operation, options }) {
  if (operation === 'storeInstances') options = { datasets: options.files.map(contents) };
  try {
    return { value: describe(await client[operation](options)) };
  } catch (error) {
    if (error.status === undefined) throw error;
    let body = error.response;
    if (body instanceof ArrayBuffer) body = Buffer.from(body).toString('utf8');
    return { status: error.status, body };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  process.stdout.write(JSON.stringify(await run(JSON.parse(line))) + '\n');
}
