"""The servers under test: what they are, how they are started and stopped."""
