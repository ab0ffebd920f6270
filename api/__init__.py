"""HTTP: parse a body, make a job, render its events in that API's shape (Ollama's `/api`, OpenAI's `/v1`).

Import `api.app` for the application and `api.serve` for the process; this page stays empty, so that light
commands never pay for the web framework.
"""
