"""Models and LoRA files by their names on the Hugging Face Hub."""
