"""What the functions share: auth, CORS, problem answers, request limits. Nothing here is called from outside."""
