// A request as a program of its own: Google's clients, OpenAI's client, and curl. Files are named, not pasted.

import { apiKey } from "./api.js";
import { byId, el, tabs } from "./dom.js";
import { nameOf } from "./files.js";
import { copyText } from "./turn.js";

const SNAKE = { topP: "top_p", topK: "top_k", maxOutputTokens: "max_output_tokens", responseModalities: "response_modalities",
  responseMimeType: "response_mime_type", responseJsonSchema: "response_json_schema", thinkingConfig: "thinking_config",
  includeThoughts: "include_thoughts", thinkingBudget: "thinking_budget" };

/** A value as Python writes it. */
function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") return `{${Object.entries(value).map(([key, held]) => `${JSON.stringify(key)}: ${literal(held)}`).join(", ")}}`;
  return JSON.stringify(value);
}

/** The name of the file that a part's bytes came from; drawings of the model have one by their number. */
function fileOf(part) {
  return nameOf(part) || `drawing.${part.inlineData.mimeType.split("/")[1]}`;
}

function googleOptions({ generationConfig, systemInstruction }) {
  const options = Object.entries(generationConfig).map(([key, value]) => [SNAKE[key] ?? key,
    key === "thinkingConfig" ? Object.fromEntries(Object.entries(value).map(([inner, held]) => [SNAKE[inner], held])) : value]);
  if (systemInstruction) options.unshift(["system_instruction", systemInstruction.parts[0].text]);
  return options.length ? `\n${options.map(([key, value]) => `    ${key}=${literal(value)},\n`).join("")}` : "";
}

function python({ model, contents, ...rest }) {
  const part = (one) => one.inlineData
    ? `types.Part.from_bytes(data=Path(${literal(fileOf(one))}).read_bytes(), mime_type=${literal(one.inlineData.mimeType)})`
    : one.fileData ? `client.files.upload(file=${literal(nameOf(one))})` : `types.Part(text=${literal(one.text ?? "")})`;
  const turn = ({ role, parts }) => `    types.Content(role="${role}", parts=[\n${parts.map((one) => `        ${part(one)},\n`).join("")}    ]),\n`;
  const hasUpload = contents.some(({ parts }) => parts.some((one) => one.fileData));
  const list = hasUpload && contents.length === 1
    ? `[\n${contents[0].parts.map((one) => `    ${part(one)},\n`).join("")}]`
    : `[\n${contents.map(turn).join("")}]`;
  const key = apiKey.get() ? 'os.environ["CASTOR_API_KEY"]' : '"none"';
  return `${apiKey.get() ? "import os\n" : ""}from pathlib import Path

from google import genai
from google.genai import types

client = genai.Client(api_key=${key}, http_options={"base_url": "${location.origin}"})
contents = ${list}
config = types.GenerateContentConfig(${googleOptions(rest)})
for chunk in client.models.generate_content_stream(model=${literal(model)}, contents=contents, config=config):
    for part in chunk.candidates[0].content.parts or []:
        if part.text:
            print(part.text, end="", flush=True)
        elif part.inline_data:
            Path("drawn.png").write_bytes(part.inline_data.data)
`;
}

function javascript({ model, contents, generationConfig, systemInstruction }) {
  const held = (one) => one.inlineData
    ? `{ inlineData: { mimeType: ${JSON.stringify(one.inlineData.mimeType)}, data: readFileSync(${JSON.stringify(fileOf(one))}, "base64") } }`
    : one.fileData ? `createPartFromUri(...(await uploaded(${JSON.stringify(nameOf(one))})))` : JSON.stringify(one);
  const turns = contents.map(({ role, parts }) => `  { role: "${role}", parts: [\n${parts.map((one) => `    ${held(one)},\n`).join("")}  ] },\n`).join("");
  const config = { ...generationConfig, ...(systemInstruction && { systemInstruction: systemInstruction.parts[0].text }) };
  const hasUpload = turns.includes("uploaded(");
  const upload = `
async function uploaded(file) {
  const { uri, mimeType } = await ai.files.upload({ file });
  return [uri, mimeType];
}
`;
  return `import { readFileSync, writeFileSync } from "node:fs";
import { GoogleGenAI${hasUpload ? ", createPartFromUri" : ""} } from "@google/genai";

const ai = new GoogleGenAI({ apiKey: ${apiKey.get() ? "process.env.CASTOR_API_KEY" : '"none"'}, httpOptions: { baseUrl: "${location.origin}" } });
${hasUpload ? upload : ""}const contents = [
${turns}];
const config = ${JSON.stringify(config, null, 2)};
for await (const chunk of await ai.models.generateContentStream({ model: ${JSON.stringify(model)}, contents, config })) {
  for (const part of chunk.candidates[0].content.parts ?? []) {
    if (part.text) process.stdout.write(part.text);
    else if (part.inlineData) writeFileSync("drawn.png", part.inlineData.data, "base64");
  }
}
`;
}

const OPENAI_MEDIA = { image: "image_url", audio: "audio_url", video: "video_url" };

function openaiPart(one) {
  if (one.text !== undefined) return `{"type": "text", "text": ${literal(one.text)}}`;
  if (one.functionCall) return `{"type": "text", "text": ${literal(JSON.stringify(one.functionCall))}}`;
  const type = (one.inlineData ?? one.fileData).mimeType;
  const uri = `data_uri(${literal(nameOf(one) || fileOf(one))}, ${literal(type)})`;
  const kind = OPENAI_MEDIA[type.split("/")[0]];
  return kind ? `{"type": "${kind}", "${kind}": {"url": ${uri}}}` : `{"type": "file", "file": {"file_data": ${uri}}}`;
}

function openai({ model, contents, generationConfig: config, systemInstruction }) {
  const system = systemInstruction ? `    {"role": "system", "content": ${literal(systemInstruction.parts[0].text)}},\n` : "";
  const turns = contents.map(({ role, parts }) => `    {"role": "${role === "model" ? "assistant" : "user"}", "content": [
${parts.filter((one) => !one.thought).map((one) => `        ${openaiPart(one)},\n`).join("")}    ]},\n`).join("");
  const modalities = { TEXT: ["text"], IMAGE: ["image"] }[config.responseModalities?.[0]] ?? null;
  const options = [["model", model], ["temperature", config.temperature], ["top_p", config.topP], ["seed", config.seed],
    ["max_completion_tokens", config.maxOutputTokens], ["modalities", modalities ?? (config.responseJsonSchema ? ["text"] : ["text", "image"])],
    ["response_format", config.responseJsonSchema && { type: "json_schema", json_schema: { name: "answer", schema: config.responseJsonSchema } }],
    ["extra_body", config.topK && { top_k: config.topK }]];
  const given = options.filter(([, value]) => value !== undefined).map(([key, value]) => `    ${key}=${literal(value)},\n`).join("");
  return `${apiKey.get() ? "import os\n" : ""}from base64 import b64decode, b64encode
from pathlib import Path

from openai import OpenAI


def data_uri(file, kind):
    return f"data:{kind};base64," + b64encode(Path(file).read_bytes()).decode()


client = OpenAI(api_key=${apiKey.get() ? 'os.environ["CASTOR_API_KEY"]' : '"none"'}, base_url="${location.origin}/v1")
messages = [
${system}${turns}]
answer = client.chat.completions.create(
    messages=messages,
${given}).choices[0].message
print(answer.content or "")
for image in getattr(answer, "images", None) or []:
    Path("drawn.png").write_bytes(b64decode(image["image_url"]["url"].partition(",")[2]))
`;
}

function curl({ model, contents, ...rest }) {
  const files = [];
  const body = { contents: contents.map(({ role, parts }) => ({ role, parts: parts.map((part) => {
    if (!part.inlineData) return part;
    files.push(fileOf(part));
    return { inlineData: { mimeType: part.inlineData.mimeType, data: `\u0000${files.length - 1}\u0000` } };
  }) })), ...rest };
  // In a here-document the shell reads $, ` and \ of what it is given; the files' bytes are put in by base64.
  const quoted = JSON.stringify(body, null, 2).replace(/[\\$`]/g, "\\$&");
  const text = quoted.replace(/\\\\u0000(\d+)\\\\u0000/g, (_, at) => `$(base64 -w0 '${files[at].replaceAll("'", "'\\''")}')`);
  const key = apiKey.get() ? ` \\\n  -H "x-goog-api-key: $CASTOR_API_KEY"` : "";
  return `curl -sN '${location.origin}/v1beta/models/${encodeURI(model)}:streamGenerateContent?alt=sse'${key} \\
  -H 'content-type: application/json' -d @- <<END
${text}
END
`;
}

const CLIENTS = { "google-genai": python, openai, "@google/genai": javascript, curl };

/** A request in the words of every client, by the client's name. */
export function codeOf(request) {
  return Object.fromEntries(Object.entries(CLIENTS).map(([name, write]) => [name, write(request)]));
}

/** The dialog with a request as code. */
export function showCode(request) {
  const codes = codeOf(request);
  const row = el("div", { class: "tabs small", role: "tablist", "aria-label": "Client", id: "code-tabs" },
    ...Object.keys(codes).map((name, at) => el("button", { type: "button", role: "tab", "aria-selected": String(!at), tabindex: at ? "-1" : "0" }, name)));
  const show = (tab) => (byId("code-text").textContent = codes[tab.textContent]);
  tabs(row, show);
  byId("code-tabs").replaceWith(row);
  show(row.firstChild);
  const button = byId("code-copy");
  button.onclick = async () => {
    byId("code-note").textContent = (await copyText(byId("code-text").textContent)) ? "Copied" : "";
  };
  byId("code-note").textContent = "";
  byId("code-close").onclick = () => byId("code-dialog").close();
  byId("code-dialog").showModal();
}
