"""Connections of clients: accepted, limited in number, encrypted, and closed when the client has left."""
