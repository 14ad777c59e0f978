"""What programs do with LangChain's two packages against the server in argv[1]; a JSON line of results."""

import json
import sys
from importlib.metadata import version

from langchain_google_genai import ChatGoogleGenerativeAI, GoogleGenerativeAIEmbeddings
from langchain_openai import ChatOpenAI, OpenAIEmbeddings

url = sys.argv[1]


def google():
    return ChatGoogleGenerativeAI(model="tiny", google_api_key="k", base_url=url)


def google_invoke():
    reply = google().invoke("how many")
    return reply.usage_metadata["total_tokens"] > 0


def google_stream():
    return len(list(google().stream("how many"))) > 1


def google_embed():
    embeddings = GoogleGenerativeAIEmbeddings(model="vectors", google_api_key="k", base_url=url)
    return len(embeddings.embed_query("a")) == 24 and len(embeddings.embed_documents(["a", "b"])) == 2


def openai():
    return ChatOpenAI(model="tiny", api_key="k", base_url=f"{url}/v1", max_tokens=8)


def openai_invoke():
    return openai().invoke("how many").content


def openai_stream():
    return "".join(piece.content for piece in openai().stream("how many")) == openai().invoke("how many").content


def openai_embed():
    embeddings = OpenAIEmbeddings(model="vectors", api_key="k", base_url=f"{url}/v1", check_embedding_ctx_length=False)
    return len(embeddings.embed_query("a")) == 24 and len(embeddings.embed_documents(["a", "b"])) == 2


results = {}
for check in (google_invoke, google_stream, google_embed, openai_invoke, openai_stream, openai_embed):
    try:
        results[check.__name__] = bool(check())
    except Exception as error:
        results[check.__name__] = f"{type(error).__name__}: {error}"[:300]
names = ", ".join(f"{name} {version(name)}" for name in ("langchain-google-genai", "langchain-openai"))
print(json.dumps({"client": names, "results": results}))
