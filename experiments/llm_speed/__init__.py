"""What unlearning a language model costs, beside fine-tuning it with the same adapter."""
