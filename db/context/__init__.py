"""Which messages of a conversation are sent to the model: how they are selected, cut, reduced and found again."""
