"""What programs do with google-genai, any version of it, against the server in argv[1]; a JSON line of results."""

import base64
import io
import json
import sys
import time

from google import genai
from google.genai import errors, types

client = genai.Client(api_key="local", http_options={"base_url": sys.argv[1]})
TEXT = {"response_modalities": ["TEXT"]}


def generate():
    reply = client.models.generate_content(model="tiny", contents="how many", config=TEXT)
    return reply.text and reply.usage_metadata.total_token_count > 0


def stream():
    whole = client.models.generate_content(model="tiny", contents="how many", config=TEXT).text
    pieces = client.models.generate_content_stream(model="tiny", contents="how many", config=TEXT)
    return "".join(piece.text or "" for piece in pieces) == whole


def chat():
    talk = client.chats.create(model="tiny", config=TEXT)
    return talk.send_message("red?").text and talk.send_message("and blue?").text and len(talk.get_history()) == 4


def json_mode():
    schema = {"type": "STRING", "enum": ["red", "blue"]}
    config = {"response_mime_type": "application/json", "response_schema": schema, "max_output_tokens": 60}
    reply = client.models.generate_content(model="tiny", contents="x", config=config)
    return json.loads(reply.text) in ("red", "blue")


def count():
    return client.models.count_tokens(model="tiny", contents="how many").total_tokens > 0


def models():
    return {"models/tiny", "models/vectors"} <= {model.name for model in client.models.list()}


def embed():
    contents = [types.Content(parts=[types.Part(text="a")]), types.Content(parts=[types.Part(text="b")])]
    config = {"task_type": "RETRIEVAL_DOCUMENT", "output_dimensionality": 8}
    made = client.models.embed_content(model="vectors", contents=contents, config=config).embeddings
    return [len(one.values) for one in made] == [8, 8]


def files():
    content = b'{"key": "k", "request": {"contents": [{"parts": [{"text": "red"}]}]}}\n'
    file = client.files.upload(file=io.BytesIO(content), config={"mime_type": "application/jsonl"})
    same = client.files.get(name=file.name).size_bytes == len(content)
    job = client.batches.create(model="tiny", src=file.name)
    end = time.monotonic() + 60
    while not client.batches.get(name=job.name).done and time.monotonic() < end:
        time.sleep(0.2)
    answers = client.files.download(file=client.batches.get(name=job.name).dest.file_name)
    client.files.delete(name=file.name)
    return same and json.loads(answers)["key"] == "k"


def caches():
    made = client.caches.create(model="tiny", config={"contents": "how many " * 20, "ttl": "60s"})
    config = {"cached_content": made.name, **TEXT}
    used = client.models.generate_content(model="tiny", contents="?", config=config).usage_metadata
    client.caches.delete(name=made.name)
    return used.cached_content_token_count > 0


def safety():
    settings = [{"category": "HARM_CATEGORY_DANGEROUS_CONTENT", "threshold": "BLOCK_LOW_AND_ABOVE"}]
    reply = client.models.generate_content(
        model="tiny", contents="how to make a bomb", config={"safety_settings": settings}
    )
    return reply.text is None and reply.prompt_feedback.block_reason == "SAFETY"


def file_search():
    stores = client.file_search_stores
    store = stores.create(config={"display_name": "papers"})
    config = {"mime_type": "text/plain", "display_name": "lease"}
    config["custom_metadata"] = [{"key": "year", "numeric_value": 2031}]
    config["chunking_config"] = {"white_space_config": {"max_tokens_per_chunk": 50, "max_overlap_tokens": 5}}
    lease = io.BytesIO(b"The lease of the boat house ends in May.")
    operation = stores.upload_to_file_search_store(file_search_store_name=store.name, file=lease, config=config)
    end = time.monotonic() + 60
    while not operation.done and time.monotonic() < end:
        time.sleep(0.2)
        operation = client.operations.get(operation)
    names = [document.name for document in stores.documents.list(parent=store.name)]
    tool = types.FileSearch(file_search_store_names=[store.name], metadata_filter="year > 2000", top_k=2)
    config = {"tools": [types.Tool(file_search=tool)], **TEXT}
    reply = client.models.generate_content(model="tiny", contents="when does the lease end?", config=config)
    [chunk] = reply.candidates[0].grounding_metadata.grounding_chunks
    found = chunk.retrieved_context.title == "lease" and reply.usage_metadata.tool_use_prompt_token_count > 0
    stores.documents.delete(name=names[0], config={"force": True})
    stores.delete(name=store.name)
    return found and names == [operation.response.document_name]


def resolutions():
    picture = base64.b64decode(
        "iVBORw0KGgoAAAANSUhEUgAAAAIAAAACCAIAAAD91JpzAAAAEElEQVR4nGP4z8AARAwQCgAf7gP9i18U1AAAAABJRU5ErkJggg=="
    )
    part = types.Part.from_bytes(data=picture, mime_type="image/png")

    def num_tokens(level):
        config = {"media_resolution": f"MEDIA_RESOLUTION_{level}", **TEXT}
        reply = client.models.generate_content(model="tiny", contents=[part], config=config)
        return reply.usage_metadata.prompt_token_count

    return num_tokens("LOW") < num_tokens("MEDIUM") < num_tokens("HIGH")


def refused():
    try:
        client.models.generate_content(model="tiny", contents="x", config={"presence_penalty": 0.5})
    except errors.ClientError as error:
        return error.code == 400 and error.status == "INVALID_ARGUMENT"
    return False


results = {}
for check in (
    generate,
    stream,
    chat,
    json_mode,
    count,
    models,
    embed,
    files,
    caches,
    safety,
    file_search,
    resolutions,
    refused,
):
    try:
        results[check.__name__] = bool(check())
    except Exception as error:
        results[check.__name__] = f"{type(error).__name__}: {error}"[:300]
print(json.dumps({"client": f"google-genai {genai.__version__}", "results": results}))
