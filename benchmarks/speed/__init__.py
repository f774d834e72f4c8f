"""What searches, updates, memory and start cost."""
