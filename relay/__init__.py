"""The path of a line from Ollama to the viewer: no tornado.web, no SQL."""
