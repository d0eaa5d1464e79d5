"""GGUF files, the format of llama.cpp, LM Studio and Ollama, as model folders that mlx-lm reads.

`file` reads the container, `tensor_types` its quantised blocks, `architectures` says which tensor and which number goes
where, `tokenizer` makes tokenizer.json, and `conversion` writes the folder.
"""
