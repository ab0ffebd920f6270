"""The engine: continuous batching over llama.cpp, for one loaded model."""
