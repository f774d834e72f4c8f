"""What searches, updates and whole runs cost."""
