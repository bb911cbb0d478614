"""Export for serving: an adapter as a PEFT directory, merged weights, GGUF, for vLLM and SGLang, for Ollama."""
