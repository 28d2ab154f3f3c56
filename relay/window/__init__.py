"""The model's window: how many tokens it holds, how many a conversation has, and what of a conversation is sent."""
