"""What workers agree on, through the box."""
