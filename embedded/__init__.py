"""What a machine without PostgreSQL or Ollama starts instead."""
