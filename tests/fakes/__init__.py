"""Stand-ins for what chatterd talks to; each runs on a real socket."""
