"""The local Supabase stack without Docker: a real Postgres, Supabase Lite, and our functions on one URL."""
