"""The only input and output: Supabase and Meta."""
