"""One reply from the request to Ollama to the commit of the assistant's message."""
