"""The process that holds one loaded model, and the words the daemon uses with it."""
