"""SQL only: raw, parameterised, beside the one function that runs it. Knows nothing of HTTP or of Ollama."""
