"""The embedded PostgreSQL and the embedded model, for a machine without PostgreSQL or Ollama."""
