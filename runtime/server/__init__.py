"""An exported student behind an OpenAI-compatible chat endpoint."""
