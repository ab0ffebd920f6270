"""The built-in `demo` model: its corpus, tokenizer, network, training and export."""
