// Runs one operation of dicomweb-client against a DICOMweb server and prints
// what came of it as JSON:
//
//   node client.mjs BASE_URL OPERATION [OPTIONS_JSON]
//
// OPERATION is a method of DICOMwebClient and OPTIONS_JSON its argument;
// `storeInstances` takes {"files": [paths]}. Bytes that were received are
// printed as their length and SHA-256. A failed request exits 1 and prints
// {"status": …, "body": …}.
import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import xhr2 from 'xhr2';
import dicomweb from 'dicomweb-client';

// dicomweb-client is made for browsers. xhr2 gives it their XMLHttpRequest.
globalThis.XMLHttpRequest = xhr2;

const [baseUrl, operation, optionsText = '{}'] = process.argv.slice(2);
const options = JSON.parse(optionsText);
const client = new dicomweb.api.DICOMwebClient({ url: baseUrl, verbose: false });

if (operation === 'storeInstances') {
  options.datasets = options.files.map((path) => {
    const bytes = readFileSync(path);
    return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength);
  });
  delete options.files;
}

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

try {
  const value = await client[operation](options);
  process.stdout.write(JSON.stringify(describe(value)) + '\n');
} catch (error) {
  if (error.status === undefined) throw error;
  let body = error.response;
  if (body instanceof ArrayBuffer) body = Buffer.from(body).toString('utf8');
  process.stdout.write(JSON.stringify({ status: error.status, body }) + '\n');
  process.exitCode = 1;
}
