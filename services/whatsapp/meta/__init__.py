"""What Meta says, pure: its messages, its events, its templates, its errors."""
