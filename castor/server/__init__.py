"""The HTTP server: clients of the Gemini API and of the OpenAI API talk to a model here, only the address changed."""
