"""Hostile peers: clients that send what no client should, and an Ollama that answers what none would."""
