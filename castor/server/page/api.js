// The server's public routes, in the form of the Gemini API.

const KEY = "castor-key";
const UPLOAD_FROM = 12_000_000; // bytes; larger files go up once and are named afterwards

/** A refusal of the server, in its own words. */
export class Failure extends Error {
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

export const apiKey = {
  get: () => sessionStorage.getItem(KEY) || "",
  set: (key) => (key ? sessionStorage.setItem(KEY, key) : sessionStorage.removeItem(KEY)),
};

async function call(path, init = {}) {
  const headers = { "x-goog-api-client": "castor-playground", ...init.headers };
  if (apiKey.get()) headers["x-goog-api-key"] = apiKey.get();
  if (init.body && typeof init.body === "string") headers["content-type"] = "application/json";
  let reply;
  try {
    reply = await fetch(path, { ...init, headers });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "the server cannot be reached");
  }
  if (reply.ok) return reply;
  const text = await reply.text();
  if (reply.status === 401) dispatchEvent(new Event("castor:key-wanted"));
  throw new Failure(reply.status, messageIn(text) || `the server answered ${reply.status}`, reply.headers.get("retry-after"));
}

function messageIn(text) {
  try {
    return JSON.parse(text).error.message;
  } catch {
    return text.slice(0, 300);
  }
}

function address(model, method) {
  return `/v1beta/models/${model.split("/").map(encodeURIComponent).join("/")}:${method}`;
}

/** [{name, methods, thinks, positions}] of all that is served. */
export async function listModels() {
  const found = [];
  for (let token = ""; ; ) {
    const page = await (await call(`/v1beta/models?pageSize=200${token && `&pageToken=${encodeURIComponent(token)}`}`)).json();
    found.push(...page.models);
    token = page.nextPageToken || "";
    if (!token) break;
  }
  return found.map((model) => ({
    name: model.name.replace(/^models\//, ""),
    methods: model.supportedGenerationMethods || [],
    thinks: Boolean(model.thinking),
    positions: model.inputTokenLimit,
  }));
}

/** Every piece of an answer as it comes. */
export async function* stream(model, body, signal) {
  const path = `${address(model, "streamGenerateContent")}?alt=sse`;
  const reply = await call(path, { method: "POST", body: JSON.stringify(body), signal });
  const reader = reply.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = ""; ; ) {
    const { value, done } = await reader.read();
    if (done) return;
    const events = (rest + value).split(/\r?\n\r?\n/);
    rest = events.pop();
    for (const event of events) {
      if (!event.startsWith("data: ")) continue;
      const piece = JSON.parse(event.slice(6));
      if (piece.error) throw new Failure(piece.error.code, piece.error.message);
      yield piece;
    }
  }
}

/** One vector for each list of parts. */
export async function embed(model, listOfParts, taskType) {
  const requests = listOfParts.map((parts) => ({ model: `models/${model}`, content: { parts }, taskType }));
  const reply = await call(address(model, "batchEmbedContents"), { method: "POST", body: JSON.stringify({ requests }) });
  return (await reply.json()).embeddings.map((embedding) => embedding.values);
}

/** A file as a part of a request: its text, its bytes, or the name it has been uploaded under. */
export async function partOf(file) {
  if (/^text\/|json$/.test(file.type)) return { text: await file.text() };
  if (file.size >= UPLOAD_FROM) return { fileData: await upload(file) };
  return { inlineData: { mimeType: file.type, data: await base64(file) } };
}

async function base64(file) {
  const uri = await new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(new Failure(0, `${file.name} cannot be read`));
    reader.readAsDataURL(file);
  });
  return uri.slice(uri.indexOf(",") + 1);
}

async function upload(file) {
  const begun = await call("/upload/v1beta/files", {
    method: "POST",
    headers: {
      "x-goog-upload-protocol": "resumable",
      "x-goog-upload-command": "start",
      "x-goog-upload-header-content-length": String(file.size),
      "x-goog-upload-header-content-type": file.type,
    },
    body: JSON.stringify({ file: {} }),
  });
  const { pathname } = new URL(begun.headers.get("x-goog-upload-url"));
  const headers = { "x-goog-upload-command": "upload, finalize", "x-goog-upload-offset": "0" };
  const stored = (await (await call(pathname, { method: "POST", headers, body: file })).json()).file;
  return { fileUri: stored.uri, mimeType: stored.mimeType };
}
