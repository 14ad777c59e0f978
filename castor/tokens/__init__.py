"""From messages to ids and features, and from ids back to messages."""
