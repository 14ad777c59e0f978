// What programs do with Google's and OpenAI's JavaScript clients against the server in argv[2]; a JSON line of results.
// Run where node_modules has @google/genai and openai.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
import { join } from "node:path";

const require = createRequire(join(process.cwd(), "package.json"));
const { GoogleGenAI } = await import(pathToFileURL(require.resolve("@google/genai")));
const openaiModule = await import(pathToFileURL(require.resolve("openai")));
const OpenAI = openaiModule.default.OpenAI ?? openaiModule.default;
const url = process.argv[2];
const google = new GoogleGenAI({ apiKey: "local", httpOptions: { baseUrl: url } });
const openai = new OpenAI({ apiKey: "local", baseURL: `${url}/v1`, maxRetries: 0 });
const text = { responseModalities: ["TEXT"] };
const ask = { model: "tiny", contents: "how many", config: text };
const messages = [{ role: "user", content: "how many" }];

const checks = {
  async googleGenerate() {
    return (await google.models.generateContent(ask)).text.length > 0;
  },
  async googleStream() {
    let said = "";
    for await (const piece of await google.models.generateContentStream(ask)) said += piece.text ?? "";
    return said === (await google.models.generateContent(ask)).text;
  },
  async googleCount() {
    return (await google.models.countTokens({ model: "tiny", contents: "how many" })).totalTokens > 0;
  },
  async googleEmbed() {
    const contents = [{ parts: [{ text: "a" }] }, { parts: [{ text: "b" }] }];
    const made = await google.models.embedContent({ model: "vectors", contents, config: { outputDimensionality: 8 } });
    return made.embeddings.length === 2 && made.embeddings[0].values.length === 8;
  },
  async googleFiles() {
    const file = await google.files.upload({ file: new Blob(["{}"]), config: { mimeType: "application/jsonl" } });
    return (await google.files.get({ name: file.name })).sizeBytes === "2";
  },
  async googleFileSearch() {
    const store = await google.fileSearchStores.create({ config: { displayName: "papers" } });
    const lease = new Blob(["The lease of the boat house ends in May."]);
    const config = { mimeType: "text/plain", displayName: "lease" };
    let operation = await google.fileSearchStores.uploadToFileSearchStore({
      fileSearchStoreName: store.name, file: lease, config,
    });
    for (let tries = 0; !operation.done && tries < 300; tries++) {
      await new Promise((resolve) => setTimeout(resolve, 200));
      operation = await google.operations.get({ operation });
    }
    const tools = [{ fileSearch: { fileSearchStoreNames: [store.name] } }];
    const reply = await google.models.generateContent({ model: "tiny", contents: "the lease?", config: { tools } });
    const [chunk] = reply.candidates[0].groundingMetadata.groundingChunks;
    await google.fileSearchStores.delete({ name: store.name, config: { force: true } });
    return chunk.retrievedContext.title === "lease" && reply.usageMetadata.toolUsePromptTokenCount > 0;
  },
  async googleCaches() {
    const config = { contents: "how many ".repeat(20), ttl: "60s" };
    const made = await google.caches.create({ model: "tiny", config });
    const reply = await google.models.generateContent({ ...ask, config: { ...text, cachedContent: made.name } });
    return reply.usageMetadata.cachedContentTokenCount > 0;
  },
  async googleBatches() {
    const made = await google.batches.create({ model: "tiny", src: [{ contents: "red" }] });
    return (await google.batches.get({ name: made.name })).name === made.name;
  },
  async googleInteractions() {
    const made = await google.interactions.create({ model: "tiny", input: "how many" });
    return made.id.length > 0 && made.steps.length > 0;
  },
  async openaiChat() {
    const reply = await openai.chat.completions.create({ model: "tiny", messages, max_tokens: 8 });
    return reply.choices[0].message.content.length > 0;
  },
  async openaiStream() {
    let said = "";
    const request = { model: "tiny", messages, max_tokens: 8, stream: true };
    for await (const piece of await openai.chat.completions.create(request)) said += piece.choices[0]?.delta.content ?? "";
    return said.length > 0;
  },
  async openaiEmbed() {
    const made = await openai.embeddings.create({ model: "vectors", input: ["a", "b"] });
    return made.data.length === 2 && made.data[0].embedding.length === 24;
  },
  async openaiModels() {
    return (await openai.models.list()).data.some((model) => model.id === "tiny");
  },
  async openaiModerations() {
    return (await openai.moderations.create({ input: "how to make a bomb" })).results[0].flagged;
  },
};
const results = {};
for (const [name, check] of Object.entries(checks)) {
  try {
    results[name] = Boolean(await check());
  } catch (error) {
    results[name] = `${error.name}: ${error.message}`.slice(0, 300);
  }
}
console.log(JSON.stringify({ client: "JavaScript: @google/genai and openai", results }));
