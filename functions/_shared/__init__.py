"""What the doors share: auth, CORS, problem answers, request limits. Nothing here is a door."""
