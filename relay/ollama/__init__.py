"""The HTTP client of Ollama's API and the format of its lines."""
