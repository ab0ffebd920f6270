"""One machine: its devices and memory, the engine and its runner processes, prompts in and parsed output out."""
