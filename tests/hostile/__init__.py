"""Hostile peers: clients that send invalid requests, and an Ollama that sends invalid responses."""
